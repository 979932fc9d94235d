"""DataFrames into PostgreSQL and back: a value comes out equal, or it is refused with the name of its column."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import uuid
from decimal import Decimal
from typing import Any

import adbc_driver_manager
import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from pipedag_dagster.data import adbc, frames
from pipedag_dagster.data.content import Content, content_version
from pipedag_dagster.errors import UnstorableResult

_names = (f"t{number}" for number in itertools.count())
UTC = dt.UTC
ID = uuid.UUID("4ec2e354-43dc-4c23-aa59-77e4e5ad8922")


def uri(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


@pytest.fixture
def store(database_url):
    """A function: one frame into a new table, and what is read of it as a class of frames."""

    def through(frame: Any, cls: type = pd.DataFrame) -> Any:
        table = frames.to_arrow(frame, "stage_1.dfa")
        name = next(_names)
        with adbc.transaction(uri(database_url)) as cursor:
            assert frames.write(cursor, "public", name, Content.of(table)) == len(table)
        return frames.read_table(uri(database_url), f"public.{name}", cls, "stage_1.dfa")

    return through


# ------------------------------------------------------------------------------------------------ round trips

MICRO = dt.datetime(2024, 2, 29, 23, 59, 59, 999_999)
#  what goes in, its type in PostgreSQL, its dtype in pandas when it comes out; all come out equal, with a NULL added
ROUND_TRIPS = {
    "int8": (pa.array([-128, 127], pa.int8()), "SMALLINT", "Int16"),
    "uint8": (pa.array([0, 255], pa.uint8()), "SMALLINT", "Int16"),
    "int16": (pa.array([-(2**15), 2**15 - 1], pa.int16()), "SMALLINT", "Int16"),
    "uint16": (pa.array([0, 2**16 - 1], pa.uint16()), "INTEGER", "Int32"),
    "int32": (pa.array([-(2**31), 2**31 - 1], pa.int32()), "INTEGER", "Int32"),
    "uint32": (pa.array([0, 2**32 - 1], pa.uint32()), "BIGINT", "Int64"),
    "int64": (pa.array([-(2**63), 2**63 - 1], pa.int64()), "BIGINT", "Int64"),
    "small uint64": (pa.array([0, 2**63 - 1], pa.uint64()), "BIGINT", "Int64"),
    "large uint64": (pa.array([0, 2**64 - 1], pa.uint64()), "NUMERIC(20, 0)", "object"),
    "float16": (pa.array(np.array([1.5, -math.inf], np.float16)), "REAL", "float32"),
    "float32": (pa.array([1.5, math.inf], pa.float32()), "REAL", "float32"),
    "float64": (pa.array([5e-324, 1.7976931348623157e308, -math.inf]), "DOUBLE PRECISION", "float64"),
    "bool": (pa.array([True, False]), "BOOLEAN", "boolean"),
    "string": (pa.array(["", "NULL", "\\N", "ä🎉\n\t,\"'"]), "TEXT", "text"),
    "string_view": (pa.array(["short", "longer than twelve"], pa.string_view()), "TEXT", "text"),
    "dictionary": (pa.array(["a", "b", "a"]).dictionary_encode(), "TEXT", "text"),
    "dictionary of views": (pa.array(["a", "b"], pa.string_view()).dictionary_encode(), "TEXT", "text"),
    "run-end encoded": (pa.RunEndEncodedArray.from_arrays([1, 3], ["a", "b"]), "TEXT", "text"),
    "dictionary of ints": (pa.array([1, 2, 1]).dictionary_encode(), "BIGINT", "Int64"),
    "decimal": (pa.array([Decimal("-0.001"), Decimal("9999999.999"), Decimal(10000)]), "NUMERIC(10, 3)", "object"),
    "decimal256": (pa.array([10**76 - 1, 1 - 10**76], pa.decimal256(76, 0)), "NUMERIC(76, 0)", "object"),
    "scale above precision": (pa.array([Decimal("0.00012")]).cast(pa.decimal128(2, 5)), "NUMERIC(5, 5)", "object"),
    "negative scale": (pa.array([Decimal(12000)]).cast(pa.decimal128(2, -3)), "NUMERIC(5, 0)", "object"),
    "date32": (pa.array([dt.date.min, dt.date(1969, 12, 31), dt.date.max]), "DATE", "object"),
    "date64": (pa.array([dt.date(2024, 2, 29)], pa.date64()), "DATE", "object"),
    "time32": (pa.array([dt.time(1, 2, 3)], pa.time32("s")), "TIME WITHOUT TIME ZONE", "object"),
    "time64": (pa.array([dt.time.min, dt.time.max], pa.time64("ns")), "TIME WITHOUT TIME ZONE", "object"),
    "timestamp": (pa.array([dt.datetime.min, MICRO]), "TIMESTAMP WITHOUT TIME ZONE", "datetime64[us]"),
    "timestamp s": (pa.array([2**33], pa.timestamp("s")), "TIMESTAMP WITHOUT TIME ZONE", "datetime64[us]"),
    "timestamp ns": (pa.array([1000], pa.timestamp("ns")), "TIMESTAMP WITHOUT TIME ZONE", "datetime64[us]"),
    "zoned": (pa.array([MICRO], pa.timestamp("us", "Asia/Tokyo")), "TIMESTAMP WITH TIME ZONE", "datetime64[us, UTC]"),
    "duration": (pa.array([dt.timedelta(-3, 0, 5), dt.timedelta(106_751)]), "INTERVAL", "timedelta64[us]"),
    "binary": (pa.array([b"", b"\0\xff"]), "BYTEA", "object"),
    "fixed binary": (pa.array([b"ab"], pa.binary(2)), "BYTEA", "object"),
    "uuid": (pa.array([ID.bytes], pa.uuid()), "UUID", "object"),
    "list": (pa.array([[1, 2], []]), "JSONB", "object"),
    "struct": (pa.array([{"a": 1.0, "b": [None, "ä"]}]), "JSONB", "object"),
    "map": (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "JSONB", "object"),
}


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_every_type_comes_out_equal_with_a_type_of_its_own(store, case):
    values, ddl, dtype = ROUND_TRIPS[case]
    table = pa.table({"x": pa.chunked_array([values, values.slice(0, 0), pa.nulls(1, values.type)])})
    kind = frames.column_types(frames.to_arrow(table, "t").schema)["x"]
    assert str(kind.compile(dialect=postgresql.dialect())) == ddl
    out = store(table)["x"]
    expected = values.to_pylist() if case != "map" else [{"a": 1}]
    assert [None if is_null else value for value, is_null in zip(out, out.isna(), strict=True)] == [*expected, None]
    assert str(out.dtype) == (str(pd.Series(["a"]).dtype) if dtype == "text" else dtype)


def test_the_dtype_does_not_depend_on_the_values(store):
    cases = {case: values for case, (values, *_) in ROUND_TRIPS.items() if case != "large uint64"}  # see column_types
    tables = [
        store(pa.table({case: change(values) for case, values in cases.items()}), cls)
        for change in (lambda values: values[:1], lambda values: values[:0], lambda values: pa.nulls(1, values.type))
        for cls in (pa.Table, pd.DataFrame)
    ]
    schemas = [table.schema if isinstance(table, pa.Table) else table.dtypes.to_dict() for table in tables]
    assert schemas[0] == schemas[2] == schemas[4]
    assert schemas[1] == schemas[3] == schemas[5]


def test_what_was_read_can_be_written_again_and_has_the_same_content(store):
    first = frames.to_arrow(pa.table({case: values[:1] for case, (values, *_) in ROUND_TRIPS.items()}), "t")
    again = frames.to_arrow(store(first, pa.Table), "t")
    for case in ROUND_TRIPS:
        assert again[case].to_pylist() == first[case].to_pylist(), case
        same = (content_version(table.select([case])) for table in (first, again))
        assert len(set(same)) == 1, case


#  Python objects in a pandas column, and what they are in PostgreSQL
OBJECTS = {
    "int": ([1, None, np.int64(2)], sa.BigInteger),
    "int and float": ([1, 2.5, math.nan], sa.Double),
    "bool": ([True, None, np.False_], sa.Boolean),
    "str": (["a", None, math.nan], sa.Text),
    "bytes": ([b"a\0", None], sa.LargeBinary),
    "Decimal": ([Decimal("1.50"), Decimal("-1e3"), 7, None], sa.Numeric),
    "date": ([dt.date(2024, 1, 1), None], sa.Date),
    "datetime": ([MICRO, None, pd.NaT], sa.TIMESTAMP),
    "zoned": ([MICRO.replace(tzinfo=UTC), MICRO.replace(tzinfo=dt.timezone(dt.timedelta(hours=2)))], sa.TIMESTAMP),
    "time": ([dt.time(1, 2, 3, 4), None], sa.Time),
    "timedelta": ([dt.timedelta(1, 2, 3), None], postgresql.INTERVAL),
    "UUID": ([ID, None], sa.Uuid),
    "dict": ([{"b": 1, "a": {"c": [1.0, 1e23, -1.5e-300, None, True, "ä"]}}, None, {}], sa.JSON),
    "list": ([[1, "a"], [], None], sa.JSON),
    "arrays": ([np.array([1.5, 2.0]).tolist(), [np.int64(3)]], sa.JSON),
    "nothing": ([None, None], sa.Text),
}


@pytest.mark.parametrize("case", OBJECTS)
def test_python_objects_come_out_equal(store, case):
    values, kind = OBJECTS[case]
    frame = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    (found,) = frames.column_types(frames.to_arrow(frame, "t").schema).values()
    assert isinstance(found, kind)
    out = store(frame)["x"]
    assert out.isna().tolist() == frame["x"].isna().tolist()
    assert out.dropna().tolist() == frame["x"].dropna().tolist()


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, None], dtype="Int64"),
        pd.Series([True, None], dtype="boolean"),
        pd.Series(["a", None], dtype="string"),
        pd.Series(["a", None], dtype="category"),
        pd.Series([1, None, 1], dtype="category"),
        pd.Series([0, 1, 0], dtype=pd.SparseDtype("int64")),
        pd.Series([1.5, math.nan], dtype="Float64"),
        pd.Series(["2024-01-01", None], dtype="datetime64[ns]"),
        pd.Series(["2024-01-01", None], dtype="datetime64[s]").dt.tz_localize("Europe/Berlin"),
        pd.Series([1000, None], dtype="timedelta64[ns]"),
        pd.Series([[1], None], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
    ],
    ids=lambda column: str(column.dtype),
)
def test_the_dtypes_of_pandas_come_out_equal(store, column):
    out = store(pd.DataFrame({"x": column}))["x"]
    assert out.isna().tolist() == column.isna().tolist()
    assert out.dropna().tolist() == column.dropna().tolist()


def test_nan_is_null_for_pandas_and_a_number_for_arrow_and_polars(store):
    polars = pytest.importorskip("polars")
    assert store(pd.DataFrame({"x": [math.nan]}), pa.Table)["x"].null_count == 1
    for frame in (pa.table({"x": [math.nan, None]}), polars.DataFrame({"x": [math.nan, None]})):
        nan, null = store(frame, pa.Table)["x"].to_pylist()
        assert math.isnan(nan)
        assert null is None


@pytest.mark.parametrize("lazy", [False, True])
def test_polars_goes_in_and_comes_out(store, lazy):
    pl = pytest.importorskip("polars")
    data = {
        "i": [1, None],
        "s": ["a", None],
        "n": [Decimal("1.50"), None],
        "ts": [MICRO, None],
        "time": [dt.time(1), None],
        "td": [dt.timedelta(1), None],
        "b": [b"\0", None],
    }
    frame = pl.DataFrame(data).with_columns(pl.Series("c", ["x", None], dtype=pl.Categorical))
    out = store(frame.lazy() if lazy else frame, pl.LazyFrame if lazy else pl.DataFrame)
    assert isinstance(out, pl.LazyFrame if lazy else pl.DataFrame)
    assert out.lazy().collect().to_dict(as_series=False) == frame.to_dict(as_series=False)
    nested = store(pl.DataFrame({"l": [[1]], "st": [{"a": 1}]}), pl.DataFrame)
    assert nested.rows() == [("[1]", '{"a": 1}')]
    assert store(pa.table({"u": pa.array([ID.bytes], pa.uuid())}), pl.DataFrame).rows() == [(str(ID),)]


def test_names_come_out_equal_whatever_characters_they_have(store):
    names = ['we"ird', "50 % of :x ?", "select", "Größe", "x" * 63, "X" * 63]
    table = store(pd.DataFrame([[1] * len(names)], columns=names))
    assert list(table.columns) == names


def test_an_empty_frame_keeps_its_columns(store):
    out = store(pd.DataFrame({"i": pd.Series(dtype="int64"), "s": pd.Series(dtype="str")}))
    assert list(out.columns) == ["i", "s"]
    assert len(out) == 0


def test_an_index_without_a_name_is_dropped(store):
    out = store(pd.DataFrame({"x": [1, 2, 3]}).sort_values("x", ascending=False))
    assert out["x"].tolist() == [3, 2, 1]
    assert isinstance(out.index, pd.RangeIndex)


def test_rows_come_out_in_the_order_in_which_they_were_written(store):
    values = np.random.default_rng(1).permutation(200_000)
    assert store(pd.DataFrame({"x": values}))["x"].to_numpy().tolist() == values.tolist()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"\\ä', max_size=3), inner, max_size=3),
    max_leaves=8,
)
text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
CELLS = {
    "i16": (st.integers(-(2**15), 2**15 - 1), pa.int16()),
    "i32": (st.integers(-(2**31), 2**31 - 1), pa.int32()),
    "i64": (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    "u64": (st.integers(0, 2**64 - 1), pa.uint64()),
    "f32": (st.floats(width=32, allow_nan=False), pa.float32()),
    "f64": (st.floats(allow_nan=False), pa.float64()),
    "bool": (st.booleans(), pa.bool_()),
    "text": (text, pa.string()),
    "category": (text, pa.dictionary(pa.int32(), pa.string())),
    "bytes": (st.binary(max_size=20), pa.binary()),
    "dec": (st.decimals(-(10**15), 10**15, places=4), pa.decimal128(38, 4)),
    "wide": (st.decimals(-(10**40), 10**40, places=2, allow_nan=False), pa.decimal256(60, 2)),
    "date": (st.dates(), pa.date32()),
    "time": (st.times(), pa.time64("us")),
    "ts": (st.datetimes(), pa.timestamp("us")),
    "tz": (st.datetimes(dt.datetime(2, 1, 1), timezones=st.just(UTC)), pa.timestamp("us", "UTC")),
    "td": (st.timedeltas(dt.timedelta(-100_000), dt.timedelta(100_000)), pa.duration("us")),
    "uuid": (st.uuids(), pa.uuid()),
    "json": (st.lists(json_values, max_size=3) | st.dictionaries(text, json_values, max_size=3), None),
}


@st.composite
def tables(draw):
    """The rows, as lists of Python values by column, and the same as a pandas DataFrame."""
    names = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=6, unique=True))
    rows = draw(st.integers(0, 6))
    data = {name: draw(st.lists(st.none() | CELLS[name][0], min_size=rows, max_size=rows)) for name in names}

    def column(name: str) -> pd.Series[Any]:
        kind = CELLS[name][1]
        if kind is None or kind == pa.uuid():
            return pd.Series(data[name], dtype=object)
        return pd.Series(pa.array(data[name], kind), dtype=pd.ArrowDtype(kind))

    return data, pd.DataFrame({name: column(name) for name in names})


@settings(
    max_examples=60,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking asks the database for minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(tables())
def test_any_frame_comes_out_equal(store, drawn):
    data, frame = drawn
    out = store(frame)
    for name, values in data.items():
        found = [None if is_null else v for v, is_null in zip(out[name], out[name].isna(), strict=True)]
        assert found == values, name
        assert all(type(a) is type(b) for a, b in zip(found, values, strict=True)) or name not in (
            "json",
            "text",
            "dec",
        )


# ---------------------------------------------------------------------------------------------------- refusals


def objects(*values: Any) -> pd.DataFrame:
    return pd.DataFrame({"x": pd.Series(list(values), dtype=object)})


REFUSED = {
    "int and str": (objects(1, "a"), "it holds int, str. Convert it to one type"),
    "str and bytes": (objects("a", b"a"), "it holds bytes, str"),
    "bool and int": (objects(True, 2), "it holds bool, int"),
    "date and datetime": (objects(dt.date(2024, 1, 1), MICRO), "it holds date, datetime"),
    "list and str": (objects(["a"], "a"), "it holds list, str"),
    "any object": (objects(object()), "it holds object"),
    "zones": (objects(MICRO, MICRO.replace(tzinfo=UTC)), "with and without a time zone"),
    "zoned time": (objects(dt.time(1, tzinfo=UTC)), "holds times with one"),
    "nanoseconds": (pd.DataFrame({"x": pd.to_datetime([1])}), "PostgreSQL keeps microseconds: round it"),
    "nanosecond objects": (objects(pd.Timestamp(1)), "it has nanoseconds"),
    "duration objects": (objects(pd.Timedelta(1)), "it has nanoseconds"),
    "duration": (pa.table({"x": pa.array([2**62], pa.duration("us"))}), "out of bounds"),
    "far away": (pa.table({"x": pa.array([2**62], pa.timestamp("s"))}), "out of bounds"),
    "long ago": (pa.table({"x": pa.array([-(2**62)], pa.timestamp("us"))}), "years 1 to 9999"),
    "year 10000": (pa.table({"x": pa.array([2_932_897], pa.int32()).cast(pa.date32())}), "years 1 to 9999"),
    "2**64": (objects(2**64), "too large"),
    "inexact float": (objects(2**53 + 1, 0.5), "outside of the range exactly representable"),
    "infinite decimal": (objects(Decimal("inf")), "NaN or infinite"),
    "decimal NaN": (
        objects(Decimal(1), Decimal("nan")),
        "Make them floats, or text. The first is in row 2.",
    ),
    "24:00": (pa.table({"x": pa.array([0, 86_400_000_000]).cast(pa.time64("us"))}), "time 24:00"),
    "year 10000 at noon": (
        pa.table({"x": pa.array([2_932_897], pa.int32()).cast(pa.date32()).cast(pa.timestamp("us"))}),
        "9999",
    ),
    "a key twice": (pa.table({"x": pa.array(['{"a": 1, "a": 2}'], pa.json_())}), "the same key twice"),
    "a long number": (
        pa.table({"x": pa.array(["0.12345678901234567890"], pa.json_())}),
        "no float is equal to",
    ),
    "NUL": (pd.DataFrame({"x": ["a\0b"]}), "the character NUL"),
    "NUL in JSON": (objects(["a\0b"]), "JSON cannot hold the str 'a\\x00b'"),
    "NaN in JSON": (objects([math.nan]), "JSON cannot hold the float nan"),
    "date in JSON": (pa.table({"x": [{"a": dt.date(2024, 1, 1)}]}), "JSON cannot hold the date"),
    "keys in JSON": (objects({1: "a"}), "JSON cannot hold the dict {1: 'a'}"),
    "surrogate": (objects("\ud800"), "surrogates not allowed"),
    "complex": (pd.DataFrame({"x": [1j]}), ""),
    "period": (pd.DataFrame({"x": pd.period_range("2024", periods=2)}), "nothing for its type"),
    "cut": (pd.DataFrame({"x": pd.cut(pd.Series([1, 2]), 2)}), "nothing for its type"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_come_out_equal_is_refused_with_table_and_column(case):
    frame, message = REFUSED[case]
    with pytest.raises(UnstorableResult) as refused:
        frames.to_arrow(frame, "stage_1.dfa")
    assert str(refused.value).startswith("stage_1.dfa: column 'x' cannot be stored: ")
    assert message in str(refused.value)


def test_python_objects_in_polars_are_refused():
    pl = pytest.importorskip("polars")
    with pytest.raises(UnstorableResult, match="column 'x' cannot be stored: it holds Python objects"):
        frames.to_arrow(pl.DataFrame({"x": [object()]}), "stage_1.dfa")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ([1, 2], "stage_1.dfa cannot be stored: it is a list, not a DataFrame"),
        (pd.Series([1]), "it is a Series"),
        (pd.DataFrame(), "stage_1.dfa has no columns"),
        (
            pd.DataFrame({"x": [1]}, index=pd.Index(["AA"], name="carrier")),
            r"an index named 'carrier', .* df.reset_index\(\)",
        ),
        (
            pd.DataFrame({"x": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)])),
            "a MultiIndex, which a table cannot hold",
        ),
        (pd.DataFrame([[1]]), r"the column name 0 is int, not text: rename it, as with df.rename\(columns=str\)"),
        (pd.DataFrame([[1]], columns=[("a", "b")]), r"several levels: join them, as with df.columns = \['_'.join"),
        (pd.DataFrame([range(1601)]).rename(columns=str), "1,601 columns, .* at most 1600"),
        (pd.DataFrame({"": [1]}), "the column name '' is empty"),
        (pd.DataFrame({"x" * 64: [1]}), "has 64 bytes, PostgreSQL allows 63"),
        (pd.DataFrame({"ä" * 32: [1]}), "has 64 bytes"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "'x' is there more than once"),
        (pd.DataFrame({"ctid": [1]}), "'ctid' belongs to PostgreSQL's own columns"),
    ],
)
def test_what_is_no_table_is_refused(frame, message):
    with pytest.raises(UnstorableResult, match=message):
        frames.to_arrow(frame, "stage_1.dfa")


# ------------------------------------------------------------------------------------------------------- read


def test_read_cannot_write(database_url):
    with pytest.raises(adbc_driver_manager.Error, match="read-only transaction"):
        frames.read(uri(database_url), "CREATE TABLE t AS SELECT 1 AS x")


def test_no_error_tells_the_password():
    closed = "postgresql://me:s3cr3t@127.0.0.1:1/shop"
    with pytest.raises(adbc_driver_manager.Error) as failed:
        frames.read(closed, "SELECT 1")
    assert "s3cr3t" not in str(failed.value)


def test_a_failed_write_leaves_nothing(database_url):
    rows = Content.of(pa.table({"x": pa.array(["a", "\0"], pa.large_string())}))
    wrong = pytest.raises(adbc_driver_manager.Error, match="invalid byte sequence")
    with wrong, adbc.transaction(uri(database_url)) as cursor:
        frames.write(cursor, "public", "t", rows)
    with psycopg.connect(uri(database_url)) as connection:
        assert connection.execute("SELECT to_regclass('public.t')").fetchone() == (None,)


# --------------------------------------------------------------------------------------------- content version

TEXTS = pa.array(["ab", "c", None, "ä", ""], pa.large_string())


def version(**columns: Any) -> str:
    return content_version(pa.table(columns))


def test_content_version_is_a_constant():
    table = pa.table({"id": pa.array([1, 2, None]), "text": pa.array(["a", "", None], pa.large_string())})
    assert content_version(table) == "2f5f09e8e615cdde1f97b26e7a7bebc2"


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_content_version_does_not_depend_on_chunks_slices_or_memory(case):
    values = ROUND_TRIPS[case][0]
    null = pa.nulls(1, values.type)
    table = frames.to_arrow(pa.table({"x": pa.chunked_array([values, null, values, null])}), "t")
    expected = content_version(table)
    middle = pa.concat_tables([table, table, table]).combine_chunks()[len(table) : 2 * len(table)]
    pieces = pa.concat_tables([table[:1], table[1:1], table[1:4], table[4:]])
    assert content_version(middle) == expected
    assert content_version(pieces) == expected
    assert content_version(table[:-1]) != expected


def test_content_version_ignores_what_is_under_a_null():
    def masked(under: int, text: str) -> str:
        valid = pa.py_buffer(b"\x05")  # rows 0 and 2
        numbers = pa.Array.from_buffers(pa.int64(), 3, [valid, pa.py_buffer(np.array([1, under, 3]))])
        plain = pa.array(["a", text, "c"], pa.large_string())
        texts = pa.Array.from_buffers(pa.large_string(), 3, [valid, *plain.buffers()[1:]])
        return version(numbers=numbers, texts=texts)

    assert masked(0, "") == masked(99, "garbage")


@pytest.mark.parametrize(
    "other",
    [
        {"y": TEXTS},
        {"x": TEXTS[::-1]},
        {"x": pa.array(["a", "bc", None, "ä", ""], pa.large_string())},
        {"x": pa.array(["ab", "c", "", "ä", None], pa.large_string())},
        {"x": TEXTS.cast(pa.large_binary())},
        {"x": TEXTS, "y": TEXTS},
        {"x": TEXTS[:4]},
    ],
    ids=["name", "order", "shifted", "null", "type", "more columns", "fewer rows"],
)
def test_content_version_changes_with_names_types_values_and_order(other):
    assert version(**other) != version(x=TEXTS)


def test_content_version_tells_nan_from_null_but_not_one_nan_from_another():
    nan = pa.array([math.nan])
    assert version(x=nan) != version(x=pa.array([None], pa.float64()))
    assert version(x=nan) == version(x=pa.array(np.array([-math.nan])))


def test_content_version_does_not_depend_on_the_library_the_frame_came_from():
    pl = pytest.importorskip("polars")
    data = {"i": [1, 2], "s": ["a", None], "f": [1.5, None], "t": [MICRO, None]}
    made = [frames.to_arrow(frame, "t") for frame in (pd.DataFrame(data), pl.DataFrame(data), pa.table(data))]
    assert len({content_version(table) for table in made}) == 1
