"""DataFrames of pandas, to Arrow and back. Imported only where there is one, so that other flows need no pandas."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipedag_dagster.data import columns
from pipedag_dagster.data.columns import ROUND, as_json
from pipedag_dagster.data.read_columns import UUID, ReadColumn, checked, converted_elements, decimals, is_numeric
from pipedag_dagster.data.value_checks import (
    AS_TEXT,
    NAN_BESIDE_NULL,
    Refusal,
    check_finite,
    json_values,
    refuse_where,
)
from pipedag_dagster.errors import UnstorableResult

# What Python types one column may hold together. The order matters: a bool is an int, a datetime is a date.
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
    (uuid.UUID,),
    _NESTED,
)
_NULLABLE: dict[Any, Any] = {
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def canonical(column: pd.Series[Any]) -> pa.ChunkedArray:
    """A column as a canonical Arrow column (see `columns`).

    Raises:
        Refusal: a value would change on its way.
        TypeError: its values have no common type.

    >>> canonical(pd.Series(["a", "b"], dtype="category")).type
    DataType(large_string)
    """
    if isinstance(column.dtype, pd.SparseDtype):
        column = pd.Series(np.asarray(column))
    if isinstance(column.dtype, pd.CategoricalDtype) and column.cat.categories.dtype == object:
        column = column.astype(object)
    array = _from_objects(column) if column.dtype == object else pa.array(column, from_pandas=True)
    return columns.canonical(array)


def _from_objects(column: pd.Series[Any]) -> Any:
    """Look at the types first: Arrow would make bytes of text beside bytes, and dates of datetimes beside dates."""
    null = column.isna().to_numpy()
    values = column.to_numpy()
    kept = values[~null]
    types = set(map(type, kept))
    kinds = {next((alike for alike in _ALIKE if issubclass(kind, alike)), ()) for kind in types}
    if len(kinds) > 1 or () in kinds:
        found = ", ".join(sorted(kind.__name__ for kind in types))
        raise TypeError(f"it holds {found}. Convert it to one type that PostgreSQL has, for example with .astype(str).")
    if kinds == {_NESTED}:
        return as_json(None if missing else value for value, missing in zip(values, null, strict=True))
    if Decimal in types or any(isinstance(value, Decimal) for value in values[null]):  # NaN is null for pandas
        check_finite(values)
    if kinds <= {(dt.datetime,), (dt.time,), (dt.timedelta,)}:
        for row, value in zip(np.flatnonzero(~null).tolist(), kept, strict=True):
            if getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0):
                raise Refusal(f"it has nanoseconds. {ROUND}", row)
        zoned = {getattr(value, "tzinfo", None) is not None for value in kept}
        if len(zoned) > 1 or (kinds == {(dt.time,)} and True in zoned):
            raise TypeError("it mixes values with and without a time zone, or holds times with one. Use one kind.")
    try:
        return pa.array(values, mask=null)
    except OverflowError:  # Arrow takes Python's integers for signed ones
        return pa.array(values, pa.uint64(), mask=null)


def read(column: ReadColumn) -> pd.Series[Any]:
    """A column that was read from PostgreSQL.

    Raises:
        Refusal: pandas cannot hold a value of it.
    """
    column.check_interval()
    return series(column.column, column.flags if column.pg.is_array else None)


def series(column: pa.ChunkedArray, dims: pa.ChunkedArray | None = None) -> pd.Series[Any]:
    """A column in pandas. The dtype depends on the column's type only, never on its values.

    Args:
        dims: for arrays, the dimensions of those that have more than one, as in `[1:2][1:3]`; None for the others.

    >>> series(pa.chunked_array([[1, None]])).dtype
    Int64Dtype()
    """
    kind = column.type
    if pa.types.is_floating(kind) and column.null_count:
        refuse_where(pc.is_nan(column), NAN_BESIDE_NULL)
    if is_numeric(kind) or isinstance(kind, pa.JsonType) or kind == UUID or pa.types.is_nested(kind):
        values = _values(column)
        if dims is not None:
            values = [
                _reshaped(value, dim, row)
                for row, (value, dim) in enumerate(zip(values, dims.to_pylist(), strict=True))
            ]
        return pd.Series(values, dtype=object)
    column = checked(column)
    mapper = _NULLABLE.get if kind in _NULLABLE else None  # with a mapper, text without a value would be object
    read = pd.Series(column.to_pandas(types_mapper=mapper))
    # One chunk without NULL may be the memory of Arrow itself, to which nobody can assign. All others were copied.
    return read.copy() if column.num_chunks == 1 and mapper is None and not column.null_count else read


def arrow_backed(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a pandas DataFrame whose columns stay in Arrow.

    >>> arrow_backed(pa.table({"id": [1, None]})).dtypes["id"]
    int64[pyarrow]
    """
    backed = table.to_pandas(types_mapper=pd.ArrowDtype)
    assert isinstance(backed, pd.DataFrame)
    return backed


def frame(named: list[tuple[str, pd.Series[Any]]], rows: int) -> pd.DataFrame:
    """A DataFrame of named columns with `rows` rows each.

    >>> frame([("id", pd.Series([1, 2]))], 2).shape
    (2, 1)
    """
    parts = dict(enumerate(series for _, series in named))
    numbered = pd.DataFrame(parts, index=pd.RangeIndex(rows), copy=False)  # each column stays where it is in memory
    return numbered.set_axis(pd.Index([name for name, _ in named], dtype=None if named else object), axis=1)


def check_index(index: pd.Index[Any], what: str) -> None:
    """
    Raises:
        UnstorableResult: the index has names, or several levels: dropping it would lose values.
    """
    names = [name for name in index.names if name is not None]
    if names or isinstance(index, pd.MultiIndex):
        named = f"an index named {', '.join(map(repr, names))}" if names else "a MultiIndex"
        raise UnstorableResult(
            f"{what} has {named}, which a table cannot hold: return df.reset_index() (or df.reset_index(drop=True))."
        )


def _values(column: Any) -> list[Any]:
    """The values of a column as Python has them."""
    if pa.types.is_list(column.type):
        if not len(column):
            return []
        elements = iter(converted_elements(column, _values))
        sizes = pc.list_value_length(column).to_pylist()
        return [None if size is None else [next(elements) for _ in range(size)] for size in sizes]
    if is_numeric(column.type):
        return decimals(column)
    if isinstance(column.type, pa.JsonType):
        texts = column.cast(column.type.storage_type)
        reason = f"it holds the JSON value null, which pandas cannot tell from NULL. {AS_TEXT}"
        refuse_where(pc.equal(pc.utf8_trim_whitespace(texts), "null"), reason)
        return list(json_values(texts.to_pylist()))
    return list(checked(column).to_pylist())


def _reshaped(value: Any, dims: str | None, row: int) -> Any:
    """A flat list as nested lists, by the dimensions of its array."""
    if dims is None:
        return value
    bounds = [(int(low), int(high)) for low, high in re.findall(r"\[(-?\d+):(-?\d+)\]", dims)]
    if any(low != 1 for low, _ in bounds):
        raise Refusal(f"it holds an array that does not begin at 1, but with {dims}. {AS_TEXT}", row)
    for _, size in reversed(bounds[1:]):
        value = [value[start : start + size] for start in range(0, len(value), size)]
    return value
