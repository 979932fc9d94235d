"""One side of the comparison of a table, as SQL names it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.names import quote
from pipedag_dagster.versions.content_hash import exact_value

_NUMBERS = {"smallint", "integer", "bigint", "numeric", "real", "double precision"}
_COMPARABLE = _NUMBERS | {
    "boolean",
    "date",
    "uuid",
    "bytea",
    "timestamp without time zone",
    "timestamp with time zone",
    "time without time zone",
}
"""Types whose `=` PostgreSQL can hash, and under which equal values are the same for a person who means a key."""


@dataclass(frozen=True)
class Relation:
    """A table to compare.

    Attributes:
        table: its name, quoted, with the schema.
        columns: in the order of the table.
        rows: how many it has.
        primary_key: the columns of its primary key.
    """

    table: str
    columns: tuple[Column, ...]
    rows: int
    primary_key: tuple[str, ...]

    @property
    def types(self) -> dict[str, str]:
        """The type of each column."""
        return {column.name: column.type for column in self.columns}

    def never_null(self, column: str) -> bool:
        """Whether the column cannot be NULL."""
        return column in self.primary_key


def key_conditions(left: Relation, right: Relation, column: str) -> list[str]:
    """The conditions for two rows, `l` and `r`, to have the same key in a column. Two NULLs are the same."""
    one, two = (_key_value(side, other, alias, column) for side, other, alias in _sides(left, right))
    if left.never_null(column) and right.never_null(column):
        return [f"{one} = {two}"]
    nothing = "0" if _is_number(left.types[column]) and _is_number(right.types[column]) else "''"
    if nothing == "''":
        one, two = (_text(quote(alias, column)) for alias in "lr")
    else:
        one, two = f"({one})::numeric", f"({two})::numeric"
    # FULL JOIN needs conditions that can be hashed, which IS NOT DISTINCT FROM is not.
    missing = f"({quote('l', column)} IS NULL) = ({quote('r', column)} IS NULL)"
    return [f"coalesce({one}, {nothing}) = coalesce({two}, {nothing})", missing]


def differs(left: Relation, right: Relation, column: str) -> str:
    """The condition for two rows, `l` and `r`, to have other values in a column. Values are compared by identity: 1.0
    is not 1.00. Where the types differ, numbers are compared by value and everything else as text."""
    one, two = (comparable(side, other, alias, column) for side, other, alias in _sides(left, right))
    return f"{one} IS DISTINCT FROM {two}"


def comparable(side: Relation, other: Relation, alias: str, column: str) -> str:
    """An expression that is the same on both sides exactly where the values are."""
    kind, value = side.types[column], quote(alias, column)
    if kind == other.types[column]:
        return exact_value(value, kind)
    return f"({value})::numeric" if _is_number(kind) and _is_number(other.types[column]) else _text(value)


def _sides(left: Relation, right: Relation) -> tuple[tuple[Relation, Relation, str], ...]:
    return (left, right, "l"), (right, left, "r")


def _key_value(side: Relation, other: Relation, alias: str, column: str) -> str:
    kind, value = side.types[column], quote(alias, column)
    both_numbers = _is_number(kind) and _is_number(other.types[column])
    if both_numbers:
        return value if kind == other.types[column] else f"({value})::numeric"
    return value if kind == other.types[column] and _base(kind) in _COMPARABLE else _text(value)


def _text(value: str) -> str:
    return f'({value})::text COLLATE "C"'


def _is_number(kind: str) -> bool:
    return _base(kind) in _NUMBERS


def _base(kind: str) -> str:
    return re.sub(r"\([^()]*\)", "", kind)
