"""DataFrames into PostgreSQL and back, by Arrow and binary COPY.

A value that goes in comes out equal, or `to_arrow` refuses it with an error that names table and column.
What happens to the values of one column is in `columns`.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
import xxhash
from sqlalchemy.dialects import postgresql

from pipedag_dagster.data import columns
from pipedag_dagster.errors import TaskFailed, UnstorableResult
from pipedag_dagster.names import MAX_BYTES, quote

_SYSTEM_COLUMNS = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}  # every table of PostgreSQL has them already


_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_UNKNOWN = "unnamed<oid"
_kept: dict[str, Any] = {}
_first: dict[str, str] = {}
_lock = threading.Lock()


def _new_lock() -> None:
    """In a process that was forked: a thread that is not there may have held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)


def to_arrow(frame: Any, what: str) -> pa.Table:
    """The canonical Arrow table of a DataFrame: what `column_types`, `content_version` and `write` work on.

    Args:
        frame: a pandas or polars DataFrame, a polars LazyFrame, a pyarrow.Table, or anything else with an Arrow
            C stream. The NaN of pandas is NULL; the NaN of polars and Arrow stays NaN. dicts and lists become JSON.
        what: the name of the table, for errors.

    Raises:
        UnstorableResult: a value cannot come back equal. Names `what`, the column, and what to do.

    >>> to_arrow(pd.DataFrame({"carrier": ["AA", None]}), "raw.airlines").schema.field("carrier").type
    DataType(large_string)
    """
    parts = _parts(frame, what)
    names = [name for name, _ in parts]
    _check_names(names, what)
    arrays = []
    for name, column in parts:
        try:
            arrays.append(columns.canonical(column))
        except columns.REFUSALS as error:
            raise UnstorableResult(f"{what}: column {name!r} cannot be stored: {error}") from error
    return pa.table(arrays, names=names)


def column_types(schema: pa.Schema) -> dict[str, sa.types.TypeEngine[Any]]:
    """The PostgreSQL type of each column of a canonical schema, for the DDL.

    >>> column_types(pa.schema({"id": pa.int64(), "price": pa.decimal128(10, 2)}))
    {'id': BigInteger(), 'price': Numeric(precision=10, scale=2)}
    """
    return {field.name: columns.sql_type(field.type) for field in schema}


def content_version(table: pa.Table) -> str:
    """What a canonical table holds, as 32 hexadecimal digits: names, types, values, and the order of the rows.

    How the table is chunked or sliced, and what memory happens to hold under a NULL, makes no difference.

    >>> content_version(pa.table({"id": [1, 2]})) == content_version(pa.table({"id": [2, 1]}))
    False
    """
    version = xxhash.xxh3_128()
    for field, column in zip(table.schema, table.columns, strict=True):
        streams = [xxhash.xxh3_128() for _ in range(3)]  # one for each kind of bytes: chunks leave no trace
        for chunk in column.chunks:
            for stream, content in zip(streams, _bytes(chunk), strict=False):
                stream.update(content)
        digests = [stream.hexdigest() for stream in streams]
        version.update(json.dumps([field.name, str(field.type), len(column), *digests]).encode())
    return str(version.hexdigest())


def write(uri: str, schema: str, name: str, table: pa.Table) -> int:
    """Make the table `schema.name` of a canonical one, in a transaction of its own: whoever sees the table sees its
    rows. Returns their number.

    Raises:
        adbc_driver_manager.Error: from the database, for example when the table is there.

    >>> write("postgresql://localhost/shop", "full_raw__versions", "orders_1f", table)  # doctest: +SKIP
    1204113
    """
    with _connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = off")  # nobody sees it yet (see Database.begin)
        cursor.execute(f"CREATE TABLE {quote(schema, name)} ({_ddl(table.schema)})")
        rows = cursor.adbc_ingest(name, table, mode="append", db_schema_name=schema)
        connection.commit()
    return int(rows)


def _ddl(schema: pa.Schema) -> str:
    columns = column_types(schema).items()
    return ", ".join(f"{quote(name)} {kind.compile(dialect=_DIALECT)}" for name, kind in columns)


def read(uri: str, sql: str) -> pa.Table:
    """The result of one query, in a READ ONLY transaction; a plain SELECT sees rows in the order they were written in.

    The types are those of ADBC: `to_pandas` and `to_arrow` know how to decode them.

    Raises:
        adbc_driver_manager.Error: from the database, for example when the query is wrong.

    >>> read("postgresql://localhost/shop", "SELECT 1 AS one").to_pydict()  # doctest: +SKIP
    {'one': [1]}
    """
    table = _read(uri, sql)
    if any(_UNKNOWN in str(field.type) for field in table.schema):  # made since ADBC read the catalog of types
        disconnect(uri)
        table = _read(uri, sql)
    return table


def begin_with(uri: str, statement: str) -> None:
    """From now on, run this statement first on each connection to `uri`."""
    _first[uri] = statement


def disconnect(uri: str) -> None:
    """Close the connection that is kept for `uri`; the next use opens another one."""
    with _lock:
        kept = _kept.pop(uri, None)
        if kept is not None:
            kept.close()


def _read(uri: str, sql: str) -> pa.Table:
    with _connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION READ ONLY")
        # Both would let rows arrive in another order each time: a task must see the same frame again.
        cursor.execute("SET LOCAL synchronize_seqscans = off")
        cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


def _connect(uri: str) -> Any:
    """A connection of its own. ADBC reads PostgreSQL's catalog of types when it connects first, which takes ten times
    as long as connecting: so one connection is kept for each uri, and others share what it has read."""
    with _lock:
        if uri not in _kept:
            # Imported here: it takes 0.4 s (with polars, if that is there), and a run with all cached needs none.
            import adbc_driver_postgresql.dbapi as adbc  # noqa: PLC0415

            _kept[uri] = adbc.connect(uri)
            atexit.register(disconnect, uri)  # before Python takes the module apart
        connection = _kept[uri].adbc_clone()
    if uri in _first:
        with connection.cursor() as cursor:
            cursor.execute(_first[uri])
            cursor.fetchall()
    return connection


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """A DataFrame of what `read` returned. The dtypes depend on the column types only, never on the values.

    Integers and booleans are nullable (`Int64`, `boolean`), floats float32 and float64, text pandas' own default,
    timestamps `datetime64[us]` or `[us, UTC]`, intervals `timedelta64[us]`. In `object` columns: `Decimal`,
    `date`, `time`, `bytes`, `UUID`, and for JSON and arrays what Python has for it.

    Raises:
        TaskFailed: a column has no counterpart in pandas (an interval of months, infinity). Names the column.

    >>> to_pandas(pa.table({"id": [1, None]})).dtypes["id"]
    Int64Dtype()
    """
    series = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            series.append(columns.series(column))
        except columns.REFUSALS as error:
            raise TaskFailed(f"Column {name!r} cannot be read: {error}") from error
    frame = pd.DataFrame(dict(enumerate(series)), index=pd.RangeIndex(len(table)))
    return frame.set_axis(pd.Index(table.column_names), axis=1)  # a query may name two columns alike


def to_polars(table: pa.Table, kind: type) -> Any:
    """A polars frame of what `read` returned: a DataFrame, or a LazyFrame when `kind` is that. UUID and JSON are text.

    Raises:
        TaskFailed: a column has no counterpart in polars (an interval of months, more than 38 digits). Names it.

    >>> to_polars(pa.table({"id": [1, None]}), polars.DataFrame).schema  # doctest: +SKIP
    Schema({'id': Int64})
    """
    polars = sys.modules["polars"]  # who names a polars class has imported polars
    series = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column = columns.plain(column)
            if pa.types.is_decimal256(column.type):
                raise TypeError("its numbers have more than 38 digits. Read it into pandas, or select it as text.")
            series.append(polars.Series(name, column))
        except columns.REFUSALS as error:
            raise TaskFailed(f"Column {name!r} cannot be read: {error}") from error
    frame = polars.DataFrame(series)
    return frame.lazy() if issubclass(kind, polars.LazyFrame) else frame


def _parts(frame: Any, what: str) -> list[tuple[Any, Any]]:
    polars = sys.modules.get("polars")  # who has a polars frame has imported polars
    if not hasattr(polars, "LazyFrame"):  # not, or another thread is just importing it
        polars = None
    if polars and isinstance(frame, polars.LazyFrame):
        frame = frame.collect()
    if polars and isinstance(frame, polars.DataFrame):
        objects = [name for name, kind in frame.schema.items() if kind == polars.Object]
        if objects:  # Arrow would be given their addresses, and store those
            raise UnstorableResult(
                f"{what}: column {objects[0]!r} cannot be stored: it holds Python objects. Convert it."
            )
        return [(series.name, series) for series in frame.get_columns()]
    if isinstance(frame, pd.DataFrame):
        _check_index(frame.index, what)
        return list(frame.items())
    try:
        table = pa.table(frame) if hasattr(frame, "__arrow_c_stream__") else None
    except pa.ArrowInvalid:  # a Series has a stream, too
        table = None
    if table is None:
        raise UnstorableResult(
            f"{what} cannot be stored: it is a {type(frame).__name__}, not a DataFrame or a pyarrow.Table."
        )
    return list(zip(table.column_names, table.columns, strict=True))


def _check_index(index: pd.Index[Any], what: str) -> None:
    names = [name for name in index.names if name is not None]
    if names or isinstance(index, pd.MultiIndex):
        named = f"an index named {', '.join(map(repr, names))}" if names else "a MultiIndex"
        raise UnstorableResult(
            f"{what} has {named}, which a table cannot hold: return df.reset_index() (or df.reset_index(drop=True))."
        )


def _check_names(names: list[Any], what: str) -> None:
    if not names:
        raise UnstorableResult(f"{what} has no columns: a table needs at least one.")
    for name in names:
        if not isinstance(name, str):
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


def _bytes(chunk: pa.Array) -> Iterator[Any]:
    """Which rows are valid; the values of those rows; the lengths of texts.

    Each of the three, joined over all chunks, is the same however a column is chunked.
    """
    chunk = getattr(chunk, "storage", chunk)
    yield chunk.is_valid().to_numpy(zero_copy_only=False).view(np.uint8)
    kept = chunk.drop_null()  # what is under a NULL may be anything
    kept = kept.cast(pa.uint8()) if pa.types.is_boolean(kept.type) else kept
    rows, start = len(kept), kept.offset
    if not rows:
        return
    if pa.types.is_floating(kept.type):
        floats = kept.to_numpy(zero_copy_only=False)
        yield np.where(np.isnan(floats), np.nan, floats)  # NaN has many bit patterns
    elif len(kept.buffers()) == 2:
        width = kept.type.bit_width // 8
        yield memoryview(kept.buffers()[1])[start * width : (start + rows) * width]
    else:
        _, offsets, data = kept.buffers()
        size = np.dtype(np.int64 if kept.type in (pa.large_string(), pa.large_binary()) else np.int32)
        ends = np.frombuffer(offsets, size, rows + 1, start * size.itemsize)
        yield memoryview(data or b"")[ends[0] : ends[-1]]
        yield np.diff(ends)
