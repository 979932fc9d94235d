"""A table as a polars LazyFrame that reads the database batch by batch, when it is collected.

Only the columns that the query needs are read. Simple comparisons of the query are left to PostgreSQL, so that it sends
fewer rows; polars applies the whole filter to each batch again.
"""

from __future__ import annotations

import datetime as dt
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pipedag_dagster.data import adbc, frames, pg_types, streams
from pipedag_dagster.data.pg_types import PgColumn
from pipedag_dagster.names import literal, quote

_INTEGERS, _TEXTS = ("int2", "int4", "int8"), ("text", "varchar")
_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MIRRORED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def scan(uri: str, table: str, what: str, told: Callable[[], AbstractContextManager[None]]) -> Any:
    """A LazyFrame of a table whose rows never change. Its types are read now, its rows each time it is collected.

    Args:
        uri, table, what: as for `frames.read_table`.
        told: the context of everything that uses a connection.

    Raises:
        TaskFailed: the type of a column cannot be read. A value that cannot be read is an error when it is collected.
        adbc_driver_manager.Error: from the database, for example when the table does not exist.
    """
    from polars.io.plugins import register_io_source  # noqa: PLC0415

    with told(), adbc.reading(uri) as cursor:
        described = pg_types.describe(cursor, table)
        frames.refuse_unreadable(described, what)
        described = pg_types.with_decimals(cursor, described, table, None)
        empty = next(streams.batches(cursor, described, table, _frame_class(), what, limit=0))
    source = _Source(uri, table, what, told, {column.name: column for column in described})
    return register_io_source(source.rows, schema=empty.schema, validate_schema=True, is_pure=True)


@dataclass(frozen=True)
class _Source:
    """Reads one table for polars. The arguments are those of `scan`, and the columns of the table."""

    uri: str
    table: str
    what: str
    told: Callable[[], AbstractContextManager[None]]
    columns: Mapping[str, PgColumn]

    def rows(
        self, names: list[str] | None, predicate: Any, limit: int | None, _batch_rows: int | None
    ) -> Iterator[Any]:
        """What polars calls.

        Args:
            names: of the columns, in their order; None for all.
            predicate: an expression that is true for the rows.
            limit: only so many rows of the table, of which the predicate then chooses.
        """
        names = list(self.columns) if names is None else names
        needed = {*names, *([] if predicate is None else predicate.meta.root_names())} or {next(iter(self.columns))}
        described = [column for name, column in self.columns.items() if name in needed]
        # The limit comes before the filter.
        where = None if predicate is None or limit is not None else condition(predicate, self.columns)
        with self.told(), adbc.reading(self.uri) as cursor:
            if where is not None:  # an index would give the rows in its own order
                cursor.execute("SET LOCAL enable_indexscan = off")
                cursor.execute("SET LOCAL enable_indexonlyscan = off")
            for batch in streams.batches(cursor, described, self.table, _frame_class(), self.what, where, limit):
                yield (batch if predicate is None else batch.filter(predicate)).select(names)


def condition(predicate: Any, columns: Mapping[str, PgColumn]) -> str | None:
    """A condition of SQL that is true for all rows for which a predicate of polars is, and perhaps for others. None
    when there is nothing in it that PostgreSQL compares in the same way.

    >>> condition(pl.col("id") > 7, columns)  # doctest: +SKIP
    '"id" > 7'
    """
    operands = predicate.meta.pop()
    if len(operands) != 2:
        return None
    right, left = operands
    if (left & right).meta.eq(predicate):
        parts = [part for part in (condition(left, columns), condition(right, columns)) if part is not None]
        return " AND ".join(parts) or None
    for symbol, compare in _COMPARISONS.items():
        if compare(left, right).meta.eq(predicate):
            return _comparison(left, symbol, right, columns) or _comparison(right, _MIRRORED[symbol], left, columns)
    return None


def _comparison(left: Any, symbol: str, right: Any, columns: Mapping[str, PgColumn]) -> str | None:
    if not (left.meta.is_column() and right.meta.is_literal()):
        return None
    column = columns[left.meta.output_name()]
    value = sys.modules["polars"].select(right).item()
    name = quote(column.name)
    if column.is_array:
        return None
    if type(value) is int and column.base in _INTEGERS:
        return f"{name} {symbol} {value}"
    if type(value) is dt.date and column.base == "date":
        return f"{name} {symbol} '{value.isoformat()}'::pg_catalog.date"
    if type(value) is str and column.base in _TEXTS and symbol == "=" and "\0" not in value:
        return f'{name} COLLATE "C" = {literal(value)}'  # other collations may hold different texts for equal
    return None


def _frame_class() -> type:
    frame_class: type = sys.modules["polars"].DataFrame  # code that names a class of polars has imported it
    return frame_class
