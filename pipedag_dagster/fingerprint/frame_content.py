"""What tables and arrays hold: of pandas, NumPy, polars and Arrow. Frames that a program can tell apart differ here."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pipedag_dagster.fingerprint.value_content import ValueContent

if TYPE_CHECKING:
    import pyarrow as pa


def frame_content(value: Any) -> ValueContent | None:
    """What stands for a frame, a column or an array; None for other values."""
    return next((make(value) for module, classes, make in _MAKERS if _is(value, module, *classes)), None)


def _is(value: Any, module: str, *classes: str) -> bool:
    """Whether a value is of one of these classes. Whoever has such a value has imported its library, so that nothing is
    imported here. A class is missing while another thread imports the library."""
    library = sys.modules.get(module)
    return isinstance(value, tuple(getattr(library, name) for name in classes if hasattr(library, name)))


def _pandas(value: Any) -> ValueContent:
    is_frame = _is(value, "pandas", "DataFrame")
    columns = [value.iloc[:, number] for number in range(value.shape[1])] if is_frame else [value]
    more = {name: getattr(value, name, None) for name in value._metadata if name != "_name"}
    more |= {name: part for name, part in vars(value).items() if name[:1] != "_"}
    labels = [value.columns] if is_frame else [value.name]
    return ValueContent(
        type(value).__name__,
        (str(value.flags.allows_duplicate_labels),),
        [*labels, value.index, *(_column(column.array) for column in columns), dict(value.attrs), more],
    )


def _column(value: Any) -> ValueContent:
    """The values of a column of pandas, with their type. Numbers and times are read as a block of memory: to look at
    each of a million values takes half a minute."""
    kind, dtype = type(value).__name__, repr(value.dtype)
    if _is(value, "pandas", "Categorical"):
        codes = np.asarray(value.codes)
        return ValueContent(kind, (str(value.ordered), _bytes(codes)), [value.categories])
    if _is(value, "pandas.arrays", "DatetimeArray") and value.tz is not None:
        return ValueContent("column", (dtype, _bytes(value.tz_convert(None).to_numpy())))
    if _is(value, "pandas.arrays", "PeriodArray"):
        return ValueContent("column", (dtype, _bytes(value.asi8)))
    if _is(value, "pandas.arrays", "IntervalArray"):
        return ValueContent("column", (dtype,), [value.left, value.right])
    if _is(value, "pandas.arrays", "BooleanArray", "IntegerArray", "FloatingArray"):
        values = value.to_numpy(dtype=value.dtype.numpy_dtype, na_value=0)
        return ValueContent("column", (dtype, _bytes(value.isna()), _bytes(values)))
    if _is(value.dtype, "pandas", "StringDtype"):
        texts = value.to_numpy(dtype=object, na_value="")
        return ValueContent("column", (dtype, _bytes(value.isna())), [texts.tolist()])
    if _is(value, "pandas.arrays", "ArrowExtensionArray"):
        return ValueContent("column", (dtype,), [value.__arrow_array__()])
    if _is(value, "pandas.arrays", "DatetimeArray", "TimedeltaArray", "NumpyExtensionArray"):
        return ValueContent("column", (), [value.to_numpy()])
    return ValueContent("column", (dtype,), [value.tolist()])


def _index(value: Any) -> ValueContent:
    kind, names = type(value).__name__, list(value.names)
    if _is(value, "pandas", "RangeIndex"):
        return ValueContent(kind, (f"{value.start}:{value.stop}:{value.step}",), [names])
    if _is(value, "pandas", "MultiIndex"):
        return ValueContent(kind, (), [names, list(value.levels), *(np.asarray(codes) for codes in value.codes)])
    return ValueContent(kind, (str(getattr(value, "freqstr", None)),), [names, _column(value.array)])


def _array(value: np.ndarray) -> ValueContent:
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    kind = "array" if type(value) is np.ndarray else type(value).__name__
    texts = (str(value.dtype.descr), str(value.shape), order)
    if value.dtype.hasobject:
        return ValueContent(kind, texts, [value.ravel().tolist()])
    if value.dtype.names:  # between the fields there may be bytes that mean nothing
        return ValueContent(kind, texts, [np.asarray(value[name]) for name in value.dtype.names])
    return ValueContent(kind, (*texts, _bytes(value)))


def _masked_array(value: np.ma.MaskedArray) -> ValueContent:
    if value is np.ma.masked:  # a constant of numpy, which does not let anybody ask for its fill value
        return ValueContent("masked")
    return ValueContent(
        type(value).__name__,
        (str(value.hardmask),),
        [np.asarray(value.data), np.asarray(value.mask), np.asarray(value.fill_value)],
    )


def _arrow(value: pa.Table | pa.RecordBatch) -> ValueContent:
    return ValueContent(type(value).__name__, (), [_arrow_schema(value.schema), *map(_arrow_column, value.columns)])


def _arrow_schema(schema: pa.Schema) -> list[Any]:
    fields = [(field.name, str(field.type), field.nullable, _metadata(field)) for field in schema]
    return [_metadata(schema), *fields]


def _metadata(of: pa.Schema | pa.Field) -> list[tuple[bytes, bytes]]:
    return list((of.metadata or {}).items())


def _arrow_column(value: Any) -> ValueContent:
    pa: Any = sys.modules["pyarrow"]
    chunks = value.chunks if isinstance(value, pa.ChunkedArray) else [value]
    categories = [chunk.dictionary.to_pylist() for chunk in chunks if pa.types.is_dictionary(chunk.type)]
    unified = categories[:1] if all(one == categories[0] for one in categories) else categories
    if pa.types.is_temporal(value.type) and not pa.types.is_interval(value.type):
        size = pa.int32() if value.type.bit_width == 32 else pa.int64()
        return ValueContent("arrow", (str(value.type),), [value.cast(size).to_pylist()])
    return ValueContent("arrow", (str(value.type),), [value.to_pylist(), *unified])


def _polars(value: Any) -> ValueContent:
    return ValueContent("polars.DataFrame", (), [list(value.columns), *map(_polars_column, value.get_columns())])


def _polars_column(value: Any) -> ValueContent:
    """Times and categories count as the numbers that they are stored as: Python's times have no nanoseconds."""
    polars: Any = sys.modules["polars"]
    dtype = (repr(value.dtype),)
    if isinstance(value.dtype, polars.Categorical | polars.Enum):
        categories = value.dtype.categories.to_list() if isinstance(value.dtype, polars.Enum) else []
        return ValueContent("polars.Series", dtype, [value.name, value.cast(polars.String).to_list(), categories])
    data = value.to_list() if value.dtype == polars.Object else value.to_physical().to_list()
    return ValueContent("polars.Series", dtype, [value.name, data])


def _bytes(value: np.ndarray) -> str:
    """A hash of an array without objects. Equal bits are equal. 0.0 and -0.0 differ, because a program can tell them
    apart; all NaN are one, because hardly a program can, and the sign of a NaN depends on the machine."""
    if value.dtype.kind in "fc":
        size = value.dtype.itemsize // (2 if value.dtype.kind == "c" else 1)  # each part of a complex number may be NaN
        numbers = np.ascontiguousarray(value).view(f"{value.dtype.byteorder}f{size}")
        nan = np.isnan(numbers)
        if nan.any():
            numbers = numbers.copy()
            numbers[nan] = np.nan
        value = numbers
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()


_MAKERS: tuple[tuple[str, tuple[str, ...], Callable[[Any], ValueContent]], ...] = (
    ("pandas", ("DataFrame", "Series"), _pandas),
    ("pandas", ("Index",), _index),
    ("pandas.api.extensions", ("ExtensionArray",), _column),
    ("numpy.ma", ("MaskedArray",), _masked_array),
    ("numpy", ("ndarray",), _array),
    ("pyarrow", ("Table", "RecordBatch"), _arrow),
    ("pyarrow", ("Array", "ChunkedArray"), _arrow_column),
    ("polars", ("DataFrame",), _polars),
    ("polars", ("Series",), _polars_column),
)
"""Each library, its classes, and what makes their content."""
