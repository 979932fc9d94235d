"""DataFrames into PostgreSQL and back, by Arrow and binary COPY.

A value that goes in comes out equal, or is refused with an error that names table, column and row. `columns` converts
one column on its way in; `pg_types` and `read_columns` do on its way out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import adbc_driver_manager
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from pipedag_dagster.data import adbc, columns, pg_types, read_columns
from pipedag_dagster.data.content import Content
from pipedag_dagster.data.pg_types import PgColumn
from pipedag_dagster.data.sent_rows import followed
from pipedag_dagster.data.value_checks import REFUSALS
from pipedag_dagster.errors import TaskFailed, UnstorableResult
from pipedag_dagster.frame_types import FrameType, data_type
from pipedag_dagster.names import MAX_BYTES, literal, quote

_SYSTEM_COLUMNS = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}  # every table of PostgreSQL has them already


_MOST_COLUMNS = 1600  # of a table of PostgreSQL
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def to_arrow(frame: Any, what: str) -> pa.Table:
    """The canonical Arrow table of a DataFrame: what `column_types`, `content_version` and `write` work on.

    Args:
        frame: a pandas or polars DataFrame, a polars LazyFrame, a pyarrow.Table, or anything else with an Arrow
            C stream. The NaN of pandas is NULL; the NaN of polars and Arrow stays NaN. dicts and lists become JSON.
        what: the name of the table, for errors.

    Raises:
        UnstorableResult: a value cannot come back equal. Names `what`, the column, and what to do.

    >>> to_arrow(pa.table({"carrier": ["AA", None]}), "raw.airlines").schema.field("carrier").type
    DataType(large_string)
    """
    parts, canonical = _parts(frame, what)
    names = [name for name, _ in parts]
    _check_names(names, what)
    arrays = []
    for name, column in parts:
        try:
            arrays.append(canonical(column))
        except REFUSALS as error:
            raise UnstorableResult(f"{what}: column {name!r} cannot be stored: {error}") from error
    return pa.table(arrays, names=names)


def content(frame: Any, what: str) -> Content:
    """The rows of a DataFrame, ready to be written. Arguments and errors are those of `to_arrow`."""
    return Content.of(to_arrow(frame, what))


def column_types(schema: pa.Schema) -> dict[str, sa.types.TypeEngine[Any]]:
    """The PostgreSQL type of each column of a canonical schema, for the DDL.

    >>> column_types(pa.schema({"id": pa.int64(), "price": pa.decimal128(10, 2)}))
    {'id': BigInteger(), 'price': Numeric(precision=10, scale=2)}
    """
    return {field.name: columns.sql_type(field.type) for field in schema}


def write(cursor: Any, schema: str, name: str, rows: Content, *, create: str = "CREATE TABLE") -> int:
    """Make the table `schema.name` in the transaction of a cursor of ADBC. Returns the number of its rows.

    Raises:
        adbc_driver_manager.Error: from the database, for example when the table is there.
        BaseException: what a stream of rows raises.

    >>> with adbc.transaction("postgresql://localhost/shop") as cursor:  # doctest: +SKIP
    ...     write(cursor, "full_raw__versions", "orders_1f", content(orders, "raw.orders"))
    1204113
    """
    cursor.execute(f"{create} {quote(schema, name)} ({_ddl(rows.schema)})")
    batches = pa.RecordBatchReader.from_batches(rows.schema, followed(rows))
    try:
        cursor.adbc_ingest(name, batches, mode="append", db_schema_name=schema)
    except adbc_driver_manager.Error:
        if rows.failure is None:
            raise
        raise rows.failure from rows.failure.__cause__
    return rows.rows


def _ddl(schema: pa.Schema) -> str:
    columns = column_types(schema).items()
    return ", ".join(f"{quote(name)} {kind.compile(dialect=_DIALECT)}" for name, kind in columns)


def read(uri: str, sql: str) -> pa.Table:
    """The result of one query as ADBC reads it, unchecked, in a READ ONLY transaction. Tables are read by `read_table`.

    Raises:
        adbc_driver_manager.Error: from the database, for example when the query is wrong.

    >>> read("postgresql://localhost/shop", "SELECT 1 AS one").to_pydict()  # doctest: +SKIP
    {'one': [1]}
    """
    with adbc.reading(uri) as cursor:
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


def read_table(
    uri: str, table: str, cls: type, what: str, *, where: str | None = None, limit: int | None = None
) -> Any:
    """The rows of a table or view as a frame, in the order in which they were written.

    What each type of PostgreSQL becomes is in `docs/types.md`.

    Args:
        table: its quoted name, with the schema.
        cls: the class of the frame: pd.DataFrame, pa.Table, pl.DataFrame or pl.LazyFrame.
        what: the name of the table, for errors.
        where: a condition of SQL: only these rows.
        limit: at most so many rows.

    Raises:
        TaskFailed: a column or a value of it cannot be read as it is. Names `what`, the column, the row, and what to
            select instead.
        adbc_driver_manager.Error: from the database, for example when the table does not exist.

    >>> read_table("postgresql://localhost/shop", "raw.orders", pd.DataFrame, "raw.orders")  # doctest: +SKIP
    """
    with adbc.reading(uri) as cursor:
        pg_columns = pg_types.describe(cursor, table)
        refuse_unreadable(pg_columns, what)
        cursor.execute(pg_types.select(pg_columns, table, where, limit) if pg_columns else f"TABLE {table}")
        found = _fetched(cursor)
    return _frame(pg_columns, *found, cls, what)


def read_query(
    uri: str, query: str, columns: Sequence[tuple[str, int, int]], cls: type, what: str, *, search_path: str
) -> Any:
    """The result of a query as a frame. It sees one state of the database.

    Args:
        columns: name, type oid and type modifier of each column of the result. There is at least one.
        cls, what: as for `read_table`.
        search_path: where the query looks for names without a schema.

    Raises:
        TaskFailed: as for `read_table`.
        adbc_driver_manager.Error: from the database, for example when the query divides by zero.
    """
    with adbc.reading(uri, one_state=True) as cursor:
        # Two columns of a query may have the same name.
        nameless = [(f"c{number}", oid, modifier) for number, (_, oid, modifier) in enumerate(columns)]
        numbered = pg_types.describe_columns(cursor, nameless)
        named = [replace(column, name=name) for column, (name, *_) in zip(numbered, columns, strict=True)]
        refuse_unreadable(named, what)
        names = ", ".join(column.name for column in numbered)
        selected = pg_types.select(numbered, f"({query}\n) AS q ({names})", None, None)
        cursor.execute(f"SELECT pg_catalog.set_config('search_path', {literal(search_path)}, true)")
        cursor.fetchall()
        cursor.execute(selected)
        found = _fetched(cursor)
    return _frame(named, *found, cls, what)


def refuse_unreadable(pg_columns: Sequence[PgColumn], what: str) -> None:
    """
    Raises:
        TaskFailed: the type of a column cannot be read.
    """
    for column in pg_columns:
        _explained(what, column.name, partial(getattr, column, "expression"))


def frame(pg_columns: Sequence[PgColumn], found: pa.Table, cls: type, what: str) -> Any:
    """What ADBC read, as a frame: the columns, and after them their flags."""
    return _frame(pg_columns, found.columns, len(found), cls, what)


def _fetched(cursor: Any) -> tuple[list[pa.ChunkedArray], int]:
    """The columns of the result, and the number of its rows. Nothing else keeps the columns in memory."""
    found = cursor.fetch_arrow_table()
    return found.columns, len(found)


def _frame(pg_columns: Sequence[PgColumn], found: list[pa.ChunkedArray], rows: int, cls: type, what: str) -> Any:
    """
    Args:
        found: is emptied. A column that was converted is not needed any more, and may be large.
    """
    columns = _read_columns(pg_columns, found)
    frame_type = data_type(cls)
    if frame_type is FrameType.PANDAS:
        from pipedag_dagster.data import pandas_frames  # noqa: PLC0415

        read = [(column.name, _explained(what, column.name, partial(pandas_frames.read, column))) for column in columns]
        return pandas_frames.frame(read, rows)
    if frame_type is FrameType.ARROW:
        named = [(column.name, _explained(what, column.name, column.arrow)) for column in columns]
        return pa.table([column for _, column in named], [name for name, _ in named])
    return _polars([(column.name, _explained(what, column.name, column.plain)) for column in columns], frame_type)


def _read_columns(pg_columns: Sequence[PgColumn], found: list[pa.ChunkedArray]) -> Iterator[read_columns.ReadColumn]:
    flags = found[len(pg_columns) :]
    del found[len(pg_columns) :]
    for pg_column in pg_columns:
        flag = flags.pop(0) if pg_column.flag is not None else None
        yield read_columns.ReadColumn(pg_column, found.pop(0), flag)


def default_class() -> type:
    """The class of frames that tasks get which do not say another one: pd.DataFrame.

    Raises:
        TaskFailed: pandas is not installed.
    """
    try:
        import pandas as pd  # noqa: PLC0415
    except ModuleNotFoundError:
        raise TaskFailed(
            "pandas is not installed, and tables are read into pandas unless a type is named. Name one, as in "
            "@materialize(input_type=sa.Table), or: pip install 'pipedag_dagster[pandas]'"
        ) from None
    return pd.DataFrame


def _explained(what: str, column: str, convert: Callable[[], Any]) -> Any:
    try:
        return convert()
    except REFUSALS as error:
        raise TaskFailed(f"{what}: column {column!r} cannot be read: {error}") from error


def _polars(columns: list[tuple[str, pa.ChunkedArray]], frame_type: FrameType | None) -> Any:
    polars = sys.modules["polars"]  # code that names a class of polars has imported it
    frame = polars.DataFrame([polars.Series(name, column) for name, column in columns])
    return frame.lazy() if frame_type is FrameType.POLARS_LAZY else frame


def _parts(frame: Any, what: str) -> tuple[list[tuple[Any, Any]], Callable[[Any], Any]]:
    """The columns of a frame with their names, and the function that makes each one canonical."""
    frame_type = data_type(type(frame))
    if frame_type is FrameType.POLARS_LAZY:
        frame, frame_type = frame.collect(), FrameType.POLARS
    if frame_type is FrameType.POLARS:
        polars = sys.modules["polars"]
        objects = [name for name, kind in frame.schema.items() if kind == polars.Object]
        if objects:  # Arrow would be given their addresses, and store those
            raise UnstorableResult(
                f"{what}: column {objects[0]!r} cannot be stored: it holds Python objects. Convert it."
            )
        return [(series.name, series) for series in frame.get_columns()], columns.canonical
    if frame_type is FrameType.PANDAS:
        from pipedag_dagster.data import pandas_frames  # noqa: PLC0415

        pandas_frames.check_index(frame.index, what)
        return list(frame.items()), pandas_frames.canonical
    try:
        table = pa.table(frame) if hasattr(frame, "__arrow_c_stream__") else None
    except pa.ArrowInvalid:  # a Series has a stream, too
        table = None
    if table is None:
        raise UnstorableResult(
            f"{what} cannot be stored: it is a {type(frame).__name__}, not a DataFrame or a pyarrow.Table."
        )
    return list(zip(table.column_names, table.columns, strict=True)), columns.canonical


def _check_names(names: list[Any], what: str) -> None:
    if not names:
        raise UnstorableResult(f"{what} has no columns: a table needs at least one.")
    if len(names) > _MOST_COLUMNS:
        raise UnstorableResult(
            f"{what} has {len(names):,} columns, and a table of PostgreSQL has at most {_MOST_COLUMNS}. Store one "
            "row for each value, as with df.melt(id_vars=[…]). Or split it into several tables."
        )
    for name in names:
        if isinstance(name, tuple):
            reason = "has several levels: join them, as with df.columns = ['_'.join(map(str, c)) for c in df.columns]"
        elif not isinstance(name, str):
            reason = f"is {type(name).__name__}, not text: rename it, as with df.rename(columns=str)"
        elif not name or "\0" in name or any("\ud800" <= char <= "\udfff" for char in name):
            reason = "is empty or has characters that PostgreSQL cannot store: rename it"
        elif len(name.encode()) > MAX_BYTES:
            reason = f"has {len(name.encode())} bytes, PostgreSQL allows {MAX_BYTES}: shorten it"
        elif name in _SYSTEM_COLUMNS:
            reason = "belongs to PostgreSQL's own columns: rename it"
        elif names.count(name) > 1:
            reason = "is there more than once: rename or drop one"
        else:
            continue
        raise UnstorableResult(f"{what}: the column name {name!r} {reason}.")
