"""One column: from any type of Arrow to its canonical one.

Canonical means one Arrow type for each PostgreSQL type. Binary COPY checks nothing: a 32-bit integer sent to a
BIGINT column would arrive as another number, so data and DDL must agree exactly.

A value that could not come back equal is refused with one of `REFUSALS`; `frames` adds the names of table and column.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from pipedag_dagster.data import read_columns
from pipedag_dagster.data.value_checks import Refusal, check_times, json_values, refuse_where

_TIMESTAMP, _TIMESTAMPTZ, _INTERVAL = pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.duration("us")
_JSON, _UUID = pa.json_(pa.string()), pa.uuid()
_TEXT, _BYTES = pa.large_string(), pa.large_binary()  # "large": a chunk of the small ones ends at 2 GB

# The canonical types; decimals come on top.
_SQL: dict[Any, sa.types.TypeEngine[Any]] = {
    pa.int16(): sa.SmallInteger(),
    pa.int32(): sa.Integer(),
    pa.int64(): sa.BigInteger(),
    pa.float32(): sa.REAL(),
    pa.float64(): sa.DOUBLE_PRECISION(),
    pa.bool_(): sa.Boolean(),
    _TEXT: sa.Text(),
    _BYTES: sa.LargeBinary(),
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
    pa.string(): _TEXT,
    pa.string_view(): _TEXT,
    pa.null(): _TEXT,
    pa.binary(): _BYTES,
    pa.binary_view(): _BYTES,
}
_encode = json.JSONEncoder(ensure_ascii=False).encode
ROUND = "PostgreSQL keeps microseconds: round it, for example with .dt.floor('us')."


def sql_type(kind: pa.DataType) -> sa.types.TypeEngine[Any]:
    """The PostgreSQL type of a canonical Arrow type.

    >>> sql_type(pa.int64())
    BigInteger()
    """
    return sa.Numeric(kind.precision, kind.scale) if pa.types.is_decimal(kind) else _SQL[kind]


def canonical(column: Any) -> pa.ChunkedArray:
    """Whatever Arrow can import as a canonical Arrow column. (A Series of pandas: `pandas_frames.canonical`.)

    >>> canonical(pa.array(["a", "b"]).dictionary_encode()).type
    DataType(large_string)
    """
    column = _decoded(pa.chunked_array(column))
    try:
        column = column.cast(_target(column))
        if column.type == _INTERVAL:
            column.cast(pa.duration("ns"))  # ADBC reads 64-bit nanoseconds: 292 years
    except pa.ArrowInvalid as error:  # all casts to a canonical type widen, but those of times
        raise ValueError(f"{error}. {ROUND if 'lose data' in str(error) else ''}".rstrip()) from error
    if column.type == _TEXT:
        reason = "it holds the character NUL. Remove it, for example with .str.replace('\\0', '')."
        refuse_where(pc.match_substring(column, "\0"), reason)
    check_times(column)
    return column


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without dictionaries, nesting, and the types that only ADBC has."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        chunks = [_large(chunk.dictionary).take(chunk.indices) for chunk in column.chunks]
        return _decoded(pa.chunked_array(chunks, None if chunks else kind.value_type))
    if pa.types.is_run_end_encoded(kind):
        return _decoded(pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], kind.value_type))
    if isinstance(kind, pa.JsonType):
        return as_json(_parsed(column), column.is_valid().to_pylist())
    if pa.types.is_nested(kind):
        return as_json(column.to_pylist(maps_as_pydicts="strict"))
    if kind == read_columns.MONTHS:
        return read_columns.durations(column)
    if read_columns.is_numeric(kind):
        return read_columns.arrow(column)
    return _large(column)


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


def _large(values: Any) -> Any:
    """Arrow cannot take from views, and the offsets of plain strings end at 2 GB."""
    target = _BYTES if pa.types.is_fixed_size_binary(values.type) else _WIDENED.get(values.type)
    return values.cast(target) if target in (_TEXT, _BYTES) else values


def _parsed(column: pa.ChunkedArray) -> Iterable[Any]:
    return json_values(column.cast(column.type.storage_type).to_pylist())


def as_json(values: Iterable[Any], valid: Iterable[bool] | None = None) -> pa.ChunkedArray:
    """JSON of Python values. None is NULL, unless `valid` says that it is the null of JSON."""
    given = list(values)
    texts = []
    for row, (value, is_valid) in enumerate(zip(given, valid or [value is not None for value in given], strict=True)):
        try:
            texts.append(_json(value) if is_valid else None)
        except TypeError as error:
            raise Refusal(str(error), row) from None
    return pa.chunked_array(pa.array(texts, pa.string())).cast(_JSON)


def _json(value: Any) -> str:
    """JSON text that comes back from JSONB as it was. Not json.dumps: JSONB would make an integer of 1e23."""
    if isinstance(value, str) and "\0" not in value:
        return _encode(value)
    if value is None or isinstance(value, (bool, np.bool_)):
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.1f}" if abs(value) >= 1e16 else float.__repr__(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_json, value))}]"
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return f"{{{','.join(f'{_json(key)}:{_json(value[key])}' for key in sorted(value))}}}"
    if isinstance(value, (np.ndarray, np.integer, np.floating)):
        return _json(value.tolist())
    raise TypeError(
        f"JSON cannot hold the {type(value).__name__} {value!r:.80}. Return JSON text, or one column for each part."
    )
