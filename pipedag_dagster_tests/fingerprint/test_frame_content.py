"""The content of columns and arrays: which values count as equal, and that large ones are not looked at one by one."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from pipedag_dagster.fingerprint.fingerprint import content_hash
from pipedag_dagster.fingerprint.walk import Walk

ROWS = 2_000


def numbers(last: int = 7) -> np.ndarray:
    values = np.arange(ROWS) % 50
    values[-1] = last
    return values


def texts(last: int = 7) -> list[str]:
    return [f"text {number}" for number in numbers(last)]


def times(last: int = 7) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(pd.Timestamp("2026-01-01") + pd.to_timedelta(numbers(last), unit="s"))


def dates(last: int = 7) -> list[datetime.date]:
    return [datetime.date(2026, 1, 1) + datetime.timedelta(int(number)) for number in numbers(last)]


def nullable(values: pd.Series) -> pd.Series:
    return values.mask(pd.Series(numbers() == 3))


COLUMNS: dict[str, Callable[[int], Any]] = {
    "float64": lambda last: pd.Series(numbers(last) / 3),
    "float32": lambda last: pd.Series(numbers(last).astype("float32")),
    "complex": lambda last: pd.Series(numbers(last) * 1j),
    "int64": lambda last: pd.Series(numbers(last)),
    "bool": lambda last: pd.Series(numbers(last) > 6),
    "datetime": lambda last: pd.Series(times(last)),
    "datetime with zone": lambda last: pd.Series(times(last).tz_localize("Europe/Berlin")),
    "timedelta": lambda last: pd.Series(times(last) - pd.Timestamp("2026-01-01")),
    "period": lambda last: pd.Series(times(last).to_period("s")),
    "interval": lambda last: pd.Series(pd.arrays.IntervalArray.from_arrays(numbers(last), numbers(last) + 1)),
    "Int64": lambda last: nullable(pd.Series(numbers(last)).astype("Int64")),
    "Float64": lambda last: nullable(pd.Series(numbers(last) / 3).astype("Float64")),
    "boolean": lambda last: nullable(pd.Series(numbers(last) > 6).astype("boolean")),
    "str": lambda last: nullable(pd.Series(texts(last), dtype="str")),
    "string": lambda last: nullable(pd.Series(texts(last), dtype="string")),
    "category": lambda last: pd.Series(texts(last)).astype("category"),
    "object": lambda last: pd.Series(texts(last), dtype="object"),
    "dates": lambda last: pd.Series(dates(last), dtype="object"),
    "decimals": lambda last: pd.Series([decimal.Decimal(int(one)) for one in numbers(last)], dtype="object"),
    "Arrow integers": lambda last: nullable(pd.Series(numbers(last)).astype("int64[pyarrow]")),
    "Arrow times": lambda last: pd.Series(times(last)).astype("timestamp[us][pyarrow]"),
    "frame": lambda last: pd.DataFrame({"a": numbers(last) / 3, "b": texts(last)}),
    "index": lambda last: pd.Index(numbers(last) / 3),
    "index of times with zone": lambda last: times(last).tz_localize("UTC"),
    "two levels": lambda last: pd.MultiIndex.from_arrays([numbers(last), numbers(last) / 3]),
    "array": lambda last: numbers(last) / 3,
    "array of fields": lambda last: np.array([(one, one / 3) for one in numbers(last)], [("a", "i2"), ("b", "f8")]),
    "masked array": lambda last: np.ma.masked_array(numbers(last) / 3, numbers() == 3),
    "polars": lambda last: pl.Series(numbers(last) / 3),
    "polars frame": lambda last: pl.DataFrame({"a": numbers(last) / 3, "b": texts(last), "c": times(last)}),
    "Arrow": lambda last: pa.array(numbers(last) / 3),
    "Arrow table": lambda last: pa.table({"a": numbers(last) / 3, "b": texts(last), "c": times(last)}),
    "list of dates": dates,
}


@pytest.mark.parametrize("make", COLUMNS.values(), ids=COLUMNS)
def test_one_other_value_is_another_content(make: Callable[[int], Any]) -> None:
    assert content_hash(make(7)) == content_hash(make(7))
    assert content_hash(make(7)) != content_hash(make(5))


@pytest.mark.parametrize("make", COLUMNS.values(), ids=COLUMNS)
def test_values_are_not_looked_at_one_by_one(make: Callable[[int], Any]) -> None:
    walk = Walk(None)
    walk.budget = ROWS // 4
    walk.value(make(7), "column")  # TooLarge, if each was looked at
    assert walk.budget > 0


def with_bits(bits: int) -> np.ndarray:
    return np.array([bits, 0], "uint64").view("float64")


HOLDERS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda values: values,
    "complex array": lambda values: values.view("complex128"),
    "big-endian array": lambda values: values.astype(">f8"),
    "Series": pd.Series,
    "index": pd.Index,
    "polars": pl.Series,
    "Arrow": pa.array,
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_all_nan_are_one_value(hold: Callable[[np.ndarray], Any]) -> None:
    positive, negative, with_payload = map(with_bits, (0x7FF8000000000000, 0xFFF8000000000000, 0x7FF8000000000001))
    assert math.isnan(with_payload[0])
    assert content_hash(hold(positive)) == content_hash(hold(negative)) == content_hash(hold(with_payload))
    assert content_hash(hold(positive)) != content_hash(hold(np.array([0.0, 0.0])))


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_zero_and_minus_zero_are_two_values(hold: Callable[[np.ndarray], Any]) -> None:
    assert content_hash(hold(np.array([0.0, 1.0]))) != content_hash(hold(np.array([-0.0, 1.0])))


def test_a_number_whose_bytes_are_a_nan_in_the_other_order_is_no_nan() -> None:
    swapped = [with_bits(bits).view(">f8") for bits in (0x7FF8000000000000, 0x7FF8000000000001)]
    assert not np.isnan(swapped).any()
    assert content_hash(swapped[0]) != content_hash(swapped[1])


@pytest.mark.parametrize("dtype", ["Int64", "string", "int64[pyarrow]"])
def test_a_missing_value_is_not_the_value_that_stands_in_its_place(dtype: str) -> None:
    empty: Any = "" if dtype == "string" else 0
    assert content_hash(pd.Series([empty], dtype=dtype)) != content_hash(pd.Series([None], dtype=dtype))


def test_the_same_numbers_of_another_type_are_another_content() -> None:
    kinds = ["int64", "int32", "float64", "Int64", "Float64", "int64[pyarrow]", "object"]
    assert len({content_hash(pd.Series([1, 2], dtype=kind)) for kind in kinds}) == len(kinds)


def test_bytes_between_the_fields_of_an_array_do_not_count() -> None:
    kind = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    values = [np.frombuffer(bytes([1]) + fill * 7 + bytes(8), kind) for fill in (b"\0", b"\1")]
    assert content_hash(values[0]) == content_hash(values[1])
