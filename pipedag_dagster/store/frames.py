"""DataFrames into PostgreSQL and back, by Arrow and binary COPY.

A value that goes in comes out equal, or `to_arrow` refuses it with an error that names the column.

Every frame first becomes a *canonical* Arrow table, with one Arrow type for each PostgreSQL type. Binary COPY
checks nothing: a 32-bit integer in a BIGINT column would arrive as garbage, so data and DDL must agree exactly.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import sys
import uuid
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
import xxhash
from sqlalchemy.dialects import postgresql

from pipedag_dagster.errors import TaskFailed, UnstorableResult
from pipedag_dagster.names import MAX_BYTES

_TIMESTAMP, _TIMESTAMPTZ = pa.timestamp("us"), pa.timestamp("us", "UTC")
_INTERVAL, _UUID, _JSON = pa.duration("us"), pa.uuid(), pa.json_(pa.string())

# The canonical types; decimals come on top.
_SQL: dict[Any, sa.types.TypeEngine[Any]] = {
    pa.int16(): sa.SmallInteger(),
    pa.int32(): sa.Integer(),
    pa.int64(): sa.BigInteger(),
    pa.float32(): sa.REAL(),
    pa.float64(): sa.DOUBLE_PRECISION(),
    pa.bool_(): sa.Boolean(),
    pa.string(): sa.Text(),
    pa.binary(): postgresql.BYTEA(),
    pa.date32(): sa.Date(),
    pa.time64("us"): sa.Time(),
    _TIMESTAMP: sa.TIMESTAMP(timezone=False),
    _TIMESTAMPTZ: sa.TIMESTAMP(timezone=True),
    _INTERVAL: postgresql.INTERVAL(),
    _UUID: sa.Uuid(),
    _JSON: postgresql.JSONB(),
}
_WIDENED = {
    pa.int8(): pa.int16(),
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.null(): pa.string(),
}
_PANDAS: dict[Any, Any] = {
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}
# What the database or a reader cannot express: Python has the years 1 to 9999, PostgreSQL timestamps begin in
# 4714 BC (ADBC reads ±infinity as something earlier), and ADBC reads intervals as 64-bit nanoseconds.
_LIMITS = {
    pa.date32(): (-719_162, 2_932_896, "dates outside of the years 1 to 9999"),
    _TIMESTAMP: (-210_866_803_200_000_000, 2**63 - 1, "timestamps before 4714 BC, or infinity"),
    _TIMESTAMPTZ: (-210_866_803_200_000_000, 2**63 - 1, "timestamps before 4714 BC, or infinity"),
    _INTERVAL: (-(2**63 // 1000), 2**63 // 1000, "durations of more than 292 years"),
}
# Python types that one column may hold together. The order matters: a bool is an int, a datetime is a date.
_NESTED = (dict, list, tuple, np.ndarray)
_ALIKE: tuple[tuple[type, ...], ...] = (
    (bool, np.bool_),
    (int, float, Decimal, np.integer, np.floating),
    (str,),
    (bytes, bytearray, memoryview),
    (dt.datetime,),
    (dt.date,),
    (dt.time,),
    (dt.timedelta,),
    (np.datetime64,),
    (np.timedelta64,),
    (uuid.UUID,),
    _NESTED,
)
_SYSTEM_COLUMNS = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
_REFUSALS = (pa.ArrowException, TypeError, ValueError, OverflowError)


def to_arrow(frame: Any, what: str) -> pa.Table:
    """The canonical Arrow table of a DataFrame: what `column_types`, `content_version` and `write` work on.

    Args:
        frame: a pandas or polars DataFrame, a polars LazyFrame, a pyarrow.Table, or anything else with an Arrow
            C stream. The NaN of pandas is NULL; the NaN of polars and Arrow stays NaN. dicts and lists become JSON.
        what: the name of the table, for errors.

    Raises:
        UnstorableResult: a value cannot come back equal. Names `what`, the column, and what to do.

    >>> to_arrow(pd.DataFrame({"carrier": ["AA", None]}), "raw.airlines").schema.field("carrier").type
    DataType(string)
    """
    columns = _columns(frame, what)
    _check_names([name for name, _ in columns], what)
    arrays = []
    for name, column in columns:
        try:
            arrays.append(_canonical(column))
        except _REFUSALS as error:
            raise UnstorableResult(f"{what}: column {name!r} cannot be stored: {error}") from error
    return pa.table(arrays, names=[name for name, _ in columns])


def column_types(schema: pa.Schema) -> dict[str, sa.types.TypeEngine[Any]]:
    """The PostgreSQL type of each column of a canonical schema, for the DDL.

    >>> column_types(pa.schema({"id": pa.int64(), "price": pa.decimal128(10, 2)}))
    {'id': BigInteger(), 'price': Numeric(precision=10, scale=2)}
    """
    return {field.name: _sql_type(field.type) for field in schema}


def content_version(table: pa.Table) -> str:
    """What a canonical table holds, as 32 hexadecimal digits: names, types, values, and the order of the rows.

    How the table is chunked or sliced, and what memory happens to hold under a NULL, makes no difference.

    >>> content_version(pa.table({"id": [1, 2]})) == content_version(pa.table({"id": [2, 1]}))
    False
    """
    version = xxhash.xxh3_128()
    for field, column in zip(table.schema, table.columns, strict=True):
        ddl = _sql_type(field.type).compile(dialect=postgresql.dialect())
        streams = [xxhash.xxh3_128() for _ in range(3)]  # one for each kind of bytes: chunks leave no trace
        for chunk in column.chunks:
            for stream, content in zip(streams, _bytes(chunk), strict=False):
                stream.update(content)
        digests = [stream.hexdigest() for stream in streams]
        version.update(json.dumps([field.name, ddl, len(column), *digests]).encode())
    return str(version.hexdigest())


def write(uri: str, schema: str, name: str, table: pa.Table) -> int:
    """Append a canonical table to the existing table `schema.name`, in a transaction of its own.

    The table must have been created with the types that `column_types` says. Returns the number of rows.

    Raises:
        adbc_driver_manager.Error: from the database, for example on a violated primary key.

    >>> write("postgresql://localhost/shop", "full_raw__versions", "orders_1f", to_arrow(df, "orders"))  # doctest: +SKIP
    1204113
    """
    with adbc.connect(uri) as connection, connection.cursor() as cursor:
        rows = cursor.adbc_ingest(name, table, mode="append", db_schema_name=schema)
        connection.commit()
    return int(rows)


def read(uri: str, sql: str) -> pa.Table:
    """The result of one query, in a READ ONLY transaction; a plain SELECT sees rows in the order they were written in.

    The types are those of ADBC: `to_pandas` and `to_arrow` know how to decode them.

    Raises:
        adbc_driver_manager.Error: from the database, for example when the query is wrong.

    >>> read("postgresql://localhost/shop", "SELECT 1 AS one").to_pydict()  # doctest: +SKIP
    {'one': [1]}
    """
    with adbc.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION READ ONLY")
        # Both would let rows arrive in another order each time: a task must see the same frame again.
        cursor.execute("SET LOCAL synchronize_seqscans = off")
        cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


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
            series.append(_series(column))
        except _REFUSALS as error:
            raise TaskFailed(f"Column {name!r} cannot be read: {error}") from error
    frame = pd.DataFrame(dict(enumerate(series)), index=pd.RangeIndex(len(table)))
    return frame.set_axis(pd.Index(table.column_names), axis=1)  # a query may name two columns alike


def _columns(frame: Any, what: str) -> list[tuple[Any, Any]]:
    polars = sys.modules.get("polars")  # who has a polars frame has imported polars
    if polars and isinstance(frame, polars.LazyFrame):
        frame = frame.collect()
    if polars and isinstance(frame, polars.DataFrame):
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
            f"{what} cannot be stored: it is a {type(frame).__name__}. Return a pandas or polars DataFrame, or a pyarrow.Table."
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
        elif not name or "\0" in name or not name.isascii() and any("\ud800" <= char <= "\udfff" for char in name):
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


def _from_pandas(series: pd.Series[Any]) -> Any:
    if isinstance(series.dtype, pd.SparseDtype):
        series = series.sparse.to_dense()
    if isinstance(series.dtype, pd.CategoricalDtype) and series.cat.categories.dtype == object:
        series = series.astype(object)
    return _from_objects(series) if series.dtype == object else pa.array(series, from_pandas=True)


def _from_objects(series: pd.Series[Any]) -> Any:
    """Arrow would turn text beside bytes into bytes, datetimes beside dates into dates: so look at the types first."""
    null = series.isna().to_numpy()
    values = series.to_numpy()
    kept = values[~null]
    types = set(map(type, kept))
    kinds = {next((alike for alike in _ALIKE if issubclass(kind, alike)), ()) for kind in types}
    if len(kinds) > 1 or kinds == {()}:
        found = ", ".join(sorted(kind.__name__ for kind in types))
        raise TypeError(
            f"it holds {found}. Convert it to one type that a database knows, for example with .astype(str)."
        )
    if kinds == {_NESTED}:
        return pa.array([None if missing else _json(v) for v, missing in zip(values, null, strict=True)], _JSON)
    if kinds <= {(dt.datetime,), (dt.time,), (dt.timedelta,)}:
        if any(getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0) for value in kept):
            raise ValueError(f"it has nanoseconds. {_ROUND}")
        zoned = {getattr(value, "tzinfo", None) is not None for value in kept}
        if len(zoned) > 1:
            raise TypeError("it holds datetimes with and without a time zone. Give all of them one, or none.")
        if kinds == {(dt.time,)} and zoned == {True}:
            raise TypeError("it holds times with a time zone. Return datetimes, or remove the zone.")
    return pa.array(values, mask=null)


_ROUND = "PostgreSQL keeps microseconds: round it, for example with .dt.floor('us')."


def _json(value: Any) -> str:
    """JSON text that comes back from JSONB as it was. Not json.dumps: JSONB makes an integer of 1e23."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, str) and "\0" not in value:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.1f}" if abs(value) >= 1e16 else repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_json, value))}]"
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return f"{{{','.join(f'{_json(key)}:{_json(value[key])}' for key in sorted(value))}}}"
    raise TypeError(
        f"JSON cannot hold the {type(value).__name__} {value!r:.80}. Return JSON text, or a column for each part."
    )


def _canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    column = _decoded(column)
    target = _target(column)
    if column.type != target:
        try:
            column = column.cast(target)
        except pa.ArrowInvalid as error:  # all casts to a canonical type widen, but those of times
            raise ValueError(f"{error}. {_ROUND}") from error
    _check_values(column)
    return column


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without dictionaries, nesting and the special types in which ADBC reads."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        chunks = column.chunks or [pa.array([], kind)]
        return _decoded(pa.chunked_array([_large(chunk.dictionary).take(chunk.indices) for chunk in chunks]))
    if kind not in _SQL and (large := _large(column)).type in _WIDENED:
        return pa.chunked_array([part for chunk in large.chunks for part in _halved(chunk)], large.type)
    if kind == _JSON or isinstance(kind, pa.JsonType):
        return _as_json(None if text is None else json.loads(text) for text in column.to_pylist())
    if pa.types.is_nested(kind):
        return _as_json(column.to_pylist(maps_as_pydicts="strict"))
    if _is_numeric(kind):
        values = _decimals(column)
        if not all(value is None or value.is_finite() for value in values):
            raise ValueError("it holds NaN or infinity, which Arrow decimals cannot. Cast it to double precision.")
        return pa.chunked_array([pa.array(values, None if any(values) else pa.decimal128(38, 0))])
    if kind == pa.month_day_nano_interval():
        return _durations(column)
    return column


def _target(column: pa.ChunkedArray) -> pa.DataType:
    kind = column.type
    if kind in _SQL or kind in _WIDENED:
        return _WIDENED.get(kind, kind)
    if kind == pa.uint64():
        return pa.int64() if (pc.max(column).as_py() or 0) < 2**63 else pa.decimal128(20, 0)
    if pa.types.is_timestamp(kind):
        return _TIMESTAMPTZ if kind.tz else _TIMESTAMP
    if pa.types.is_time(kind):
        return pa.time64("us")
    if pa.types.is_duration(kind):
        return _INTERVAL
    if pa.types.is_decimal(kind):  # PostgreSQL 14 has no negative scale, and none above the precision
        precision, scale = max(kind.precision, kind.scale, kind.precision - kind.scale), max(kind.scale, 0)
        return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    raise TypeError(f"PostgreSQL has nothing for its type {kind}. Convert it, for example with .astype(str).")


def _check_values(column: pa.ChunkedArray) -> None:
    if column.type == pa.string() and pc.any(pc.match_substring(column, "\0")).as_py():
        raise ValueError("it holds text with the character NUL. Remove it, as with .str.replace('\\0', '').")
    if column.type in _LIMITS:
        low, high, what = _LIMITS[column.type]
        found = pc.min_max(column.cast(pa.int32() if column.type == pa.date32() else pa.int64())).as_py()
        if found["min"] is not None and not low <= found["min"] <= found["max"] <= high:
            raise ValueError(f"it holds {what}.")


def _large(values: Any) -> Any:
    kind, is_a = values.type, pa.types
    if is_a.is_string(kind) or is_a.is_large_string(kind) or is_a.is_string_view(kind):
        return values.cast(pa.large_string())
    if (
        is_a.is_fixed_size_binary(kind)
        or is_a.is_binary(kind)
        or is_a.is_large_binary(kind)
        or is_a.is_binary_view(kind)
    ):
        return values.cast(pa.large_binary())
    return values


def _halved(chunk: pa.Array) -> list[pa.Array]:
    """A chunk of a canonical type has 32-bit offsets: it cannot have more than 2 GB."""
    if chunk.nbytes < 2**31 or len(chunk) < 2:
        return [chunk]
    half = len(chunk) // 2
    return [*_halved(chunk[:half]), *_halved(chunk[half:])]


def _as_json(values: Iterable[Any]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([None if value is None else _json(value) for value in values], _JSON)])


def _is_numeric(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.OpaqueType) and bool(kind.type_name == "numeric")  # ADBC reads NUMERIC as text


def _decimals(column: pa.ChunkedArray) -> list[Decimal | None]:
    return [None if text is None else Decimal(text) for text in column.cast(pa.string()).to_pylist()]


def _durations(column: pa.ChunkedArray) -> pa.ChunkedArray:
    chunks = []
    for chunk in column.chunks:
        valid = chunk.is_valid().to_numpy(zero_copy_only=False)
        layout = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanoseconds", "<i8")])
        parts = np.frombuffer(chunk.buffers()[1] or b"", layout, len(chunk), chunk.offset * layout.itemsize)
        if (valid & ((parts["months"] != 0) | (np.abs(parts["days"]) > 10**8))).any():
            raise ValueError(
                "it holds intervals with months, which have no fixed length. Select a number or text of it."
            )
        microseconds = parts["days"].astype("int64") * 86_400_000_000 + parts["nanoseconds"] // 1000
        chunks.append(pa.array(microseconds, pa.int64(), mask=~valid).cast(_INTERVAL))
    return pa.chunked_array(chunks, _INTERVAL)


def _sql_type(kind: pa.DataType) -> sa.types.TypeEngine[Any]:
    return sa.Numeric(kind.precision, kind.scale) if pa.types.is_decimal(kind) else _SQL[kind]


def _bytes(chunk: pa.Array) -> Iterator[Any]:
    """Which rows are valid; the values of those rows; and for text and bytes their lengths."""
    chunk = getattr(chunk, "storage", chunk)
    yield chunk.is_valid().to_numpy(zero_copy_only=False).view(np.uint8)
    kept = chunk.drop_null()
    if pa.types.is_boolean(kept.type):
        kept = kept.cast(pa.uint8())
    if not len(kept):
        return
    if pa.types.is_string(kept.type) or pa.types.is_binary(kept.type):
        _, offsets, data = kept.buffers()
        ends = np.frombuffer(offsets, np.int32, len(kept) + 1, kept.offset * 4)
        yield memoryview(data or b"")[ends[0] : ends[-1]]
        yield np.diff(ends)
    elif pa.types.is_floating(kept.type):
        floats = kept.to_numpy(zero_copy_only=False)
        yield np.where(np.isnan(floats), np.nan, floats)  # there are many bit patterns for NaN
    else:
        width = kept.type.bit_width // 8
        yield memoryview(kept.buffers()[1])[kept.offset * width : (kept.offset + len(kept)) * width]


def _series(column: pa.ChunkedArray) -> pd.Series[Any]:
    kind = column.type
    if _is_numeric(kind):
        return pd.Series(_decimals(column), dtype=object)
    if isinstance(kind, pa.OpaqueType):
        if kind.storage_type != pa.string():
            raise TypeError(f"pandas has nothing for its type {kind.type_name}. Select it as text: column::text.")
        column = column.cast(pa.string())
    if isinstance(kind, pa.JsonType):
        texts = column.cast(kind.storage_type).to_pylist()
        return pd.Series([None if text is None else json.loads(text) for text in texts], dtype=object)
    if kind == _UUID or pa.types.is_nested(kind):
        return pd.Series(column.to_pylist(), dtype=object)
    if kind == pa.month_day_nano_interval():
        column = _durations(column)
    _check_values(column)
    return column.to_pandas(types_mapper=_PANDAS.get)
