"""Streams of rows, in and out: tables that are larger than memory pass through a task batch by batch.

The types of the columns are those of the first batch that has rows. What is in a later batch must fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipedag_dagster.data import adbc, columns, frames, pg_types
from pipedag_dagster.data.content import Content
from pipedag_dagster.data.value_checks import NAN_BESIDE_NULL
from pipedag_dagster.errors import TaskFailed, UnstorableResult
from pipedag_dagster.frame_types import FrameType, data_type

_BATCHES = {"adbc.postgresql.batch_size_hint_bytes": str(4 << 20)}
_LARGEST = 38  # digits of the decimals of Arrow that all libraries know


def content(stream: Any, what: str) -> Content:
    """The rows of a stream, ready to be written. Its first rows are read, to know the types.

    Args:
        stream: a RecordBatchReader, or an iterator of DataFrames (of pandas or polars, or Arrow tables).
        what: the name of the table, for errors.

    Raises:
        UnstorableResult: it has no batch, or a value of the first one cannot be stored.
        BaseException: what the stream raises.
    """
    tables = _tables(stream, what)
    first: pa.Table | None = None
    for _, first in tables:
        if len(first):
            break
    if first is None:
        raise UnstorableResult(
            f"{what} cannot be stored: the stream ended before its first batch, so its columns are not known. Yield "
            "a DataFrame without rows."
        )
    return Content(first.schema, _batches(first, tables, what), is_stream=True)


def _batches(first: pa.Table, others: Iterator[tuple[int, pa.Table]], what: str) -> Iterator[pa.RecordBatch]:
    schema = first.schema
    yield from first.to_batches()
    del first
    for number, table in others:
        yield from _fitting(table, schema, f"{what}, batch {number}").to_batches()


def _tables(stream: Any, what: str) -> Iterator[tuple[int, pa.Table]]:
    """The batches as canonical tables, with their numbers."""
    if isinstance(stream, pa.RecordBatchReader):
        yield 0, frames.to_arrow(stream.schema.empty_table(), what)
    for number, batch in enumerate(stream, 1):
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        arrow = frames.to_arrow(table, f"{what}, batch {number}")
        yield number, _with_room(arrow) if data_type(type(table)) is FrameType.PANDAS else arrow


def _with_room(table: pa.Table) -> pa.Table:
    """Pandas has no type for decimals: those of the next batch may be larger."""
    for place, field in enumerate(table.schema):
        if pa.types.is_decimal128(field.type):
            column = table.column(place).cast(pa.decimal128(_LARGEST, field.type.scale))
            table = table.set_column(place, field.name, column)
    return table


def _fitting(table: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """A batch in the types of the first one.

    Raises:
        UnstorableResult: it has other columns, or a value that does not fit.
    """
    if table.column_names != schema.names:
        raise UnstorableResult(
            f"{what} cannot be stored: it has the columns {', '.join(table.column_names)}, and the first batch has "
            f"{', '.join(schema.names)}. Yield the same columns, in the same order."
        )
    fitting = [
        column if column.type == field.type else _cast(column, field, what)
        for field, column in zip(schema, table.columns, strict=True)
    ]
    return pa.table(fitting, schema=schema)


def _cast(column: pa.ChunkedArray, field: pa.Field, what: str) -> pa.ChunkedArray:
    if column.null_count == len(column):  # the type of a column without a value was guessed
        return pa.chunked_array([pa.nulls(len(column), field.type)])
    now, before = (columns.sql_type(kind) for kind in (column.type, field.type))
    reason = f"it is {now} here, and {before} in the first batch"
    try:
        if _is_exact(column.type, field.type):
            return column.cast(field.type)
    except pa.ArrowInvalid as error:
        reason = f"{reason}: {error}"
    raise UnstorableResult(
        f"{what}: column {field.name!r} cannot be stored: {reason}. Give it one type in all batches, for example with "
        ".astype(…)."
    )


def _is_exact(kind: pa.DataType, target: pa.DataType) -> bool:
    """Whether Arrow refuses each value that it would change when it makes one type of the other."""
    if pa.types.is_decimal(target):
        return bool(pa.types.is_integer(kind) or pa.types.is_decimal(kind))
    if pa.types.is_floating(kind) and pa.types.is_floating(target):
        return bool(kind.bit_width < target.bit_width)
    numbers = [pa.types.is_integer(each) or pa.types.is_floating(each) for each in (kind, target)]
    return all(numbers)


class TableStream:
    """The rows of a table, batch by batch. It holds a connection from the first batch to the last, or until it is
    closed."""

    def __init__(self, batches: Iterator[Any], what: str) -> None:
        self._batches = batches
        self._what = what
        self._closed = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._closed:
            raise TaskFailed(f"{self._what} is read after its task has ended. Read all of it in the task.")
        return next(self._batches)

    def close(self) -> None:
        """Let go of the connection. Who reads on gets an error."""
        self._closed = True
        close: Callable[[], None] = getattr(self._batches, "close", lambda: None)
        close()


def read(uri: str, table: str, batch: type, what: str, *, where: str | None = None) -> Iterator[Any]:
    """The rows of a table or view, in the order in which they were written: at least one frame, at most some megabytes
    at a time.

    Args:
        batch: the class of the frames: pd.DataFrame, pl.DataFrame or pa.Table.
        uri, table, what, where, and the errors: as for `frames.read_table`.
    """
    with adbc.reading(uri) as cursor:
        described = pg_types.describe(cursor, table)
        frames.refuse_unreadable(described, what)
        if data_type(batch) is not FrameType.PANDAS:
            described = pg_types.with_decimals(cursor, described, table, where)
        yield from batches(cursor, described, table, batch, what, where)


def batches(
    cursor: Any,
    described: Sequence[pg_types.PgColumn],
    table: str,
    batch: type,
    what: str,
    where: str | None = None,
    limit: int | None = None,
) -> Iterator[Any]:
    """Some columns of a table, as `read` gives all of them.

    Args:
        cursor: in a transaction of `adbc.reading`. It is used until the last batch.
        described: the columns.
        limit: at most so many rows.
    """
    cursor.adbc_statement.set_options(**_BATCHES)
    cursor.execute(pg_types.select(described, table, where, limit) if described else f"TABLE {table}")
    reader = cursor.fetch_record_batch()
    is_pandas = data_type(batch) is FrameType.PANDAS
    missing = _Missing(what)
    number = 0
    for number, rows in enumerate(reader, 1):
        found = pa.Table.from_batches([rows])
        if is_pandas:
            missing.refuse_both(described, found)
        yield frames.frame(described, found, batch, f"{what}, batch {number}")
    if not number:
        yield frames.frame(described, pa.Table.from_batches([], reader.schema), batch, what)


def reader(stream: TableStream) -> pa.RecordBatchReader:
    """A stream of Arrow tables as a RecordBatchReader. Its first batch is read, to know the types."""
    first = next(stream)

    def rest() -> Iterator[pa.RecordBatch]:
        yield from first.to_batches()
        for table in stream:
            yield from table.to_batches()

    return pa.RecordBatchReader.from_batches(first.schema, rest())


class _Missing:
    """NaN and NULL, which pandas cannot tell apart, may be in different batches."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._nulls: set[int] = set()
        self._nans: set[int] = set()

    def refuse_both(self, described: Iterable[pg_types.PgColumn], found: pa.Table) -> None:
        for place, (column, values) in enumerate(zip(described, found.columns, strict=False)):
            if not pa.types.is_floating(values.type):
                continue
            if values.null_count:
                self._nulls.add(place)
            if pc.any(pc.is_nan(values)).as_py():
                self._nans.add(place)
            if place in self._nulls & self._nans:
                raise TaskFailed(f"{self._what}: column {column.name!r} cannot be read: {NAN_BESIDE_NULL}")
