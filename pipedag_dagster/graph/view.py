"""Views: queries whose results are not stored."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.util import ClauseAdapter

from pipedag_dagster.graph.container import NameOption
from pipedag_dagster.graph.external_table import ExternalTableReference
from pipedag_dagster.options import known_options


class View:
    """A query whose result is not stored: the stage has a view of it. The tables that it reads are kept as long as the
    view is.

    Args:
        src: a query, a table that the task takes as `sa.Table`, or an `ExternalTableReference`. Of a list of them, the
            view has all rows (`UNION ALL`).
        name: as for `Table`.
        columns: only these columns; a dict renames them: `{"new": "old"}`.
        sort_by: one or more columns to sort by: names, or expressions like `t.c.id.desc()`.
        limit: the greatest number of rows.

    Example:
        >>> View(sa.text("SELECT 1 AS x"), "one").name
        'one'
    """

    name = NameOption()

    @known_options()
    def __init__(
        self,
        src: Any,
        name: str | None = None,
        *,
        columns: str | Sequence[Any] | Mapping[str, Any] | None = None,
        sort_by: Any = None,
        limit: int | None = None,
    ) -> None:
        self.src = src
        self.name = name
        self.columns = columns
        self.sort_by = sort_by
        self.limit = limit

    def content_for_hash(self) -> tuple[Any, ...]:
        return (self.src, self.name, self.columns, self.sort_by, self.limit)

    @property
    def query(self) -> sa.ClauseElement:
        """The query as one SELECT. A text is returned unchanged if there are no columns, sorting or limit to apply."""
        sources = list(self.src) if isinstance(self.src, list | tuple) else [self.src]
        if len(sources) == 1 and self.columns is None and self.sort_by is None and self.limit is None:
            only = sources[0]
            query: sa.ClauseElement = only.rows if isinstance(only, ExternalTableReference) else only
            return query
        parts = [_selectable(source) for source in sources]
        external = any(isinstance(source, ExternalTableReference) for source in sources)
        selects = [sa.select(sa.literal_column("*") if external else part).select_from(part) for part in parts]
        rows = parts[0] if len(parts) == 1 else sa.union_all(*selects).subquery("rows")
        query = sa.select(*self._columns(rows)).select_from(rows)
        for key in () if self.sort_by is None else _listed(self.sort_by):
            query = query.order_by(_column(rows, key))
        return query if self.limit is None else query.limit(self.limit)

    def _columns(self, rows: sa.FromClause) -> list[Any]:
        if self.columns is None:
            return [rows]
        if isinstance(self.columns, Mapping):
            return [_column(rows, old).label(new) for new, old in self.columns.items()]
        return [_column(rows, column) for column in _listed(self.columns)]

    def __repr__(self) -> str:
        return f"View({type(self.src).__name__}, name={self.name!r})"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


def _selectable(source: Any) -> sa.FromClause:
    if isinstance(source, ExternalTableReference):
        return source.rows.subquery(source.name)
    if isinstance(source, sa.FromClause) and not isinstance(source, sa.SelectBase):
        return source
    if isinstance(source, sa.SelectBase):
        return source.subquery()
    raise TypeError(
        f"View: an object of the class {type(source).__name__} cannot be combined, sorted or renamed. Write "
        "sa.select(…), or take the input as sa.Table."
    )


class SortOrder(enum.Enum):
    """The direction in which a column is sorted."""

    ASC = 0
    DESC = 1


@dataclass(frozen=True)
class SortCol:
    """A column to sort a `View` by.

    Args:
        col: its name.
        order: `SortOrder.ASC` or `SortOrder.DESC`.
        nulls_first: whether NULLs come first; None for the order of the database.

    Example:
        View(orders, sort_by=[SortCol("id", SortOrder.DESC, nulls_first=True)])
    """

    col: str
    order: SortOrder = SortOrder.ASC
    nulls_first: bool | None = None

    def content_for_hash(self) -> tuple[Any, ...]:
        return (self.col, self.order.name, self.nulls_first)

    def of(self, rows: sa.FromClause) -> Any:
        """The expression to sort `rows` by."""
        column = _named(rows, self.col)
        key = column.desc() if self.order is SortOrder.DESC else column.asc()
        return key if self.nulls_first is None else key.nulls_first() if self.nulls_first else key.nulls_last()


def _column(rows: sa.FromClause, column: Any) -> Any:
    if isinstance(column, SortCol):
        return column.of(rows)
    # Expressions name columns of the sources; the SELECT reads from their union.
    return _named(rows, column) if isinstance(column, str) else ClauseAdapter(rows).traverse(column)


def _named(rows: sa.FromClause, column: str) -> sa.ColumnElement[Any]:
    """A column by its name. The columns of an external table are known to the database only."""
    return sa.column(column) if "*" in rows.c else rows.c[column]
