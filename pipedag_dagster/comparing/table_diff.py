"""What a comparison says about one table."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Texts: TypeAlias = tuple[str | None, ...]
"""Values as PostgreSQL prints them; None for NULL."""


class Status(enum.StrEnum):
    """What a comparison says about a table."""

    equal = "equal"
    different = "different"
    added = "added"
    removed = "removed"


@dataclass(frozen=True)
class ColumnDiff:
    """A column that is on one side only (its other type is None), or whose type differs."""

    name: str
    left: str | None
    right: str | None

    def __str__(self) -> str:
        if self.left is None:
            return f"+ {self.name} ({self.right})"
        return f"- {self.name} ({self.left})" if self.right is None else f"{self.name}: {self.left} → {self.right}"


@dataclass(frozen=True)
class ValueDiff:
    """A column whose values differ in rows that both sides have.

    Attributes:
        rows: in how many.
        key, left, right: one of them: its key, and the value on each side.
    """

    column: str
    rows: int
    key: Texts
    left: str | None
    right: str | None


@dataclass(frozen=True)
class TableDiff:
    """What differs in one table.

    Attributes:
        name: `stage.table`.
        kind: what it is stored as: `table`, `view`, `blob` or `json`.
        left_rows, right_rows: how many rows each side has; None where it has no such table.
        key: the columns by which rows of both sides are the same row. Empty: whole rows were compared.
        both, only_left, only_right: how many rows both sides have, or only one. None where nothing was counted.
        changed: how many rows of both have other values.
        values: the columns in which they do.
        left_examples, right_examples: a few of the rows that only one side has: their keys, or whole rows.
        note: how it was compared, where that needs to be said.
    """

    name: str
    status: Status
    kind: str = "table"
    left_rows: int | None = None
    right_rows: int | None = None
    columns: tuple[ColumnDiff, ...] = ()
    key: tuple[str, ...] = ()
    both: int | None = None
    only_left: int | None = None
    only_right: int | None = None
    changed: int | None = None
    values: tuple[ValueDiff, ...] = ()
    left_examples: tuple[Mapping[str, str | None], ...] = ()
    right_examples: tuple[Mapping[str, str | None], ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same as dicts and lists, for JSON."""
        columns, values = ([vars(part) for part in parts] for parts in (self.columns, self.values))
        return vars(self) | {"status": self.status.value, "columns": columns, "values": values}


def described_row(row: Mapping[str, str | None]) -> str:
    """A row or key for people.

    >>> described_row({"id": "3", "name": None})
    'id=3, name=NULL'
    """
    return ", ".join(f"{name}={shown(value)}" for name, value in row.items())


def shown(value: str | None, length: int = 60) -> str:
    """A value for people, cut to `length`."""
    if value is None:
        return "NULL"
    return value if len(value) <= length else f"{value[: length - 1]}…"
