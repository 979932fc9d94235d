"""One column as ADBC reads it, checked and converted: to pyarrow, or to what polars knows (pandas: `pandas_frames`)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipedag_dagster.data.pg_types import PgColumn
from pipedag_dagster.data.value_checks import AS_TEXT, Refusal, check_finite, check_times, refuse_where

UUID, MONTHS, DURATION = pa.uuid(), pa.month_day_nano_interval(), pa.duration("us")


@dataclass(frozen=True)
class ReadColumn:
    """A column of PostgreSQL, what ADBC read of it, and its flags (see `PgColumn.flag`)."""

    pg: PgColumn
    column: pa.ChunkedArray
    flags: pa.ChunkedArray | None = None

    @property
    def name(self) -> str:
        return self.pg.name

    def arrow(self) -> pa.ChunkedArray:
        self._check_plain()
        return arrow(self.column, self.pg.decimal_type)

    def plain(self) -> pa.ChunkedArray:
        self._check_plain()
        return plain(self.column, self.pg.decimal_type)

    def _check_plain(self) -> None:
        self.check_interval()
        if self.pg.is_array:
            reason = f"it holds an array of several dimensions, or one that does not begin at 1. {AS_TEXT}"
            refuse_where(pc.is_valid(self.flags), reason)

    def check_interval(self) -> None:
        if self.flags is not None and not self.pg.is_array:
            row = pc.index(pc.is_valid(self.flags), True).as_py()
            if row >= 0:
                reason = f"it holds the interval {self.flags[row]}, which has no fixed length or is too long."
                raise Refusal(f"{reason} Select a number, or text: column::text.", row)


def arrow(column: Any, decimal: pa.DataType | None = None) -> Any:
    """A column in the types that Arrow has. JSON is pa.json_(), UUIDs are pa.uuid().

    Args:
        decimal: the type for decimals, where it is known; otherwise it is the smallest that holds them all.
    """
    if is_numeric(column.type):
        values = decimals(column)
        check_finite(values)
        if decimal is None and not any(value is not None for value in values):
            decimal = pa.decimal128(38, 0)
        return pa.chunked_array([pa.array(values, decimal)])
    if pa.types.is_list(column.type):
        return _with_elements(column, lambda elements: arrow(elements, decimal))
    return checked(column)


def plain(column: Any, decimal: pa.DataType | None = None) -> Any:
    """As `arrow`, in types that every library of frames knows: UUIDs and JSON are text.

    >>> plain(pa.chunked_array(pa.array(["[1]"], pa.json_()))).type
    DataType(string)
    """
    column = arrow(column, decimal)
    if pa.types.is_list(column.type):
        return _with_elements(column, lambda elements: plain(elements, decimal))
    if pa.types.is_decimal256(column.type):
        raise Refusal(f"its numbers have more than 38 digits. Read it into pandas. Or: {AS_TEXT}")
    if column.type == UUID:
        return pa.chunked_array(pa.array([value and str(value) for value in column.to_pylist()], pa.string()))
    return column.cast(column.type.storage_type) if isinstance(column.type, pa.BaseExtensionType) else column


def is_numeric(kind: pa.DataType) -> bool:
    """Whether it is NUMERIC, which ADBC reads as text."""
    return isinstance(kind, pa.OpaqueType) and bool(kind.type_name == "numeric")


def durations(column: Any) -> Any:
    """Intervals of PostgreSQL as durations: a day is 24 hours, but a month has no length."""
    found = column.to_pylist()
    for row, value in enumerate(found):
        if value and value.months:
            reason = "it holds intervals with months, which have no fixed length. Select a number, or text:"
            raise Refusal(f"{reason} column::text.", row)
    values = [value and dt.timedelta(value.days, microseconds=value.nanoseconds // 1000) for value in found]
    return pa.chunked_array([pa.array(values, DURATION)])


def checked(column: Any) -> Any:
    if isinstance(column.type, pa.OpaqueType):
        raise Refusal(f"data frames have nothing for its type {column.type.type_name}. {AS_TEXT}")
    if pa.types.is_struct(column.type):
        raise Refusal("it holds composite values. Select their parts, as in (column).part.")
    if column.type == MONTHS:
        column = durations(column)
    check_times(column)
    return column


def decimals(column: Any) -> list[Decimal | None]:
    return [None if text is None else Decimal(text) for text in column.cast(pa.string()).to_pylist()]


def converted_elements(column: Any, convert: Callable[[Any], Any]) -> Any:
    """The elements of all lists, converted. A refusal names the row of the list."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    try:
        return convert(array.flatten())
    except Refusal as error:
        row = None if error.row is None else pc.list_parent_indices(array)[error.row].as_py()
        raise Refusal(error.reason, row) from None


def _with_elements(column: Any, convert: Callable[[Any], Any]) -> Any:
    """The lists with other elements."""
    if not len(column):
        return pa.chunked_array([], pa.list_(convert(pa.chunked_array([], column.type.value_type)).type))
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    elements = converted_elements(array, convert)
    if isinstance(elements, pa.ChunkedArray):
        elements = elements.combine_chunks()
    sizes = pc.fill_null(pc.list_value_length(array), 0)
    ends = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(sizes).cast(pa.int32())])
    return pa.chunked_array([pa.ListArray.from_arrays(ends, elements, mask=pc.is_null(array))])
