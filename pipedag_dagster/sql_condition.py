"""SQL conditions that users write about the rows of one table: `kind = 'post'`.

A condition must have the same answer every time, on every machine: it decides which rows belong to a sample, and which
rows a check looks at.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipedag_dagster.errors import did_you_mean


@dataclass(frozen=True)
class Condition:
    """A condition, checked.

    Attributes:
        text: as it was written.
        columns: the names of the columns in it, as PostgreSQL reads them (in lower case where they are not in quotes).
        functions: the names of the functions that the parser does not know. They may be the user's own.
        conjuncts: the conditions that are joined by AND, each in one way of writing it.
    """

    text: str
    columns: tuple[str, ...]
    functions: tuple[str, ...]
    conjuncts: frozenset[str]

    def unknown_columns(self, known: Iterable[str]) -> Iterator[str]:
        """A sentence for each column that is not in `known`."""
        known = list(known)
        lowered = {column.lower(): column for column in known}
        for column in self.columns:
            if column in known:
                continue
            if (other := lowered.get(column.lower())) is not None:
                yield f'there is no column {column!r}. Write "{other}", with the quotes.'
            else:
                yield f"there is no column {column!r}.{did_you_mean(column, known)}"


@functools.cache
def condition(text: str) -> Condition:
    """Check a condition.

    Raises:
        ValueError: it is not a condition on the columns of one row, or its answer is not always the same. The text of
            the error is a sentence for people.

    >>> condition("kind = 'post' AND Size > 3").columns
    ('kind', 'size')
    >>> condition("day < now()")
    Traceback (most recent call last):
    ValueError: now() has another result every time, so the chosen rows would change by themselves. Write a constant.
    """
    # Imported here: sqlglot takes a third of a second to import, and most configurations have no condition.
    from pipedag_dagster.sql_parser import parse  # noqa: PLC0415

    return Condition(text, *parse(text))
