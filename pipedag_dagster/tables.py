"""What a task returns: data or a query, with a name and the properties of the table to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Table:
    """Data or a query that becomes one table of the task's stage.

    Args:
        obj: a DataFrame (pandas, polars, pyarrow.Table), or a query (`sa.select(...)`, `sa.text(...)`, a
            `sa.Table` or an alias of one).
        name: the table's name, case-insensitive, stored lower-case. Without it the table is named after
            its asset: the task's `outputs=`, else the task.
        primary_key: column or columns; checked and enforced by the database.
        indexes: a column, or a list of columns, for each index; made after the data is loaded.
        non_nullable: columns that must not be NULL; checked and enforced by the database.

    Example:
        >>> Table([1, 2], "Orders", primary_key="id")
        Table(list, name='Orders', primary_key=('id',))
    """

    def __init__(
        self,
        obj: Any,
        name: str | None = None,
        *,
        primary_key: str | Sequence[str] | None = None,
        indexes: Sequence[str | Sequence[str]] = (),
        non_nullable: str | Sequence[str] = (),
    ) -> None:
        self.obj = obj
        self.name = name
        self.primary_key = _names(primary_key or ())
        self.indexes = tuple(_names(columns) for columns in indexes)
        self.non_nullable = _names(non_nullable)

    def __repr__(self) -> str:
        key = f", primary_key={self.primary_key}" if self.primary_key else ""
        return f"Table({type(self.obj).__name__}, name={self.name!r}{key})"


def _names(columns: str | Sequence[str]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)
