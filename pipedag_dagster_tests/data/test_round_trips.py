"""Generated frames of every class: what goes in comes out. And the second table of docs/types.md."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import os
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pandas as pd
import polars as pl
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipedag_dagster.data import adbc, frames, pandas_frames, streams
from pipedag_dagster.data.content import Content, content_version
from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster_tests.data.types_page import check_table

EXAMPLES = 10_000 if os.environ.get("PIPEDAG_TORTURE") == "long" else 200
UTC = dt.UTC
_names = (f"r{number}" for number in itertools.count())
NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
}
#  how an Arrow table becomes a frame of each class
FRAMES: dict[str, Callable[[pa.Table], Any]] = {
    "pandas, numpy": lambda table: table.to_pandas(integer_object_nulls=True),
    "pandas, nullable": lambda table: table.to_pandas(types_mapper=NULLABLE.get, integer_object_nulls=True),
    "pandas, Arrow": lambda table: table.to_pandas(types_mapper=pd.ArrowDtype),
    "polars": pl.from_arrow,
    "polars, lazy": lambda table: pl.from_arrow(table).lazy(),  # type: ignore[union-attr]
    "pyarrow": lambda table: table,
}


@pytest.fixture(scope="module")
def uri(server_url: sa.URL) -> Any:
    admin = server_url.render_as_string(hide_password=False)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("CREATE DATABASE round_trips")
    yield server_url.set(database="round_trips").render_as_string(hide_password=False)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP DATABASE round_trips WITH (FORCE)")


def through(uri: str, frame: Any, cls: type = pa.Table) -> tuple[str, Any]:
    """The types of the columns that a frame is stored with, and what is read."""
    table, name = frames.to_arrow(frame, "raw.t"), next(_names)
    with adbc.transaction(uri) as cursor:
        frames.write(cursor, "public", name, Content.of(table))
    with psycopg.connect(uri, autocommit=True) as connection:
        query = "SELECT string_agg(format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute "
        row = connection.execute(f"{query} WHERE attrelid = '{name}'::regclass AND attnum > 0".encode()).fetchone()
        found = frames.read_table(uri, f"public.{name}", cls, "raw.t")
        check_streams(uri, name, table)
        connection.execute(f"DROP TABLE {name}, {name}_s".encode())
    assert row is not None
    return row[0], found


def check_streams(uri: str, name: str, table: pa.Table) -> None:
    """What is stored and read batch by batch is what is stored and read at once."""
    pieces = table.to_batches(max_chunksize=2)
    rows = streams.content(pa.RecordBatchReader.from_batches(table.schema, pieces), "raw.t")
    with adbc.transaction(uri) as cursor:
        frames.write(cursor, "public", f"{name}_s", rows)
    assert rows.version == content_version(table)
    at_once = frames.read_table(uri, f"public.{name}", pa.Table, "raw.t")
    assert pa.concat_tables(streams.read(uri, f"public.{name}_s", pa.Table, "raw.t")).equals(at_once)


def micro(low: dt.datetime, high: dt.datetime, **zone: Any) -> st.SearchStrategy[Any]:
    return st.datetimes(low, high, **zone)


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
CELLS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "i8": (pa.int8(), st.integers(-(2**7), 2**7 - 1)),
    "i16": (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "i32": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "i64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "u8": (pa.uint8(), st.integers(0, 2**8 - 1)),
    "u32": (pa.uint32(), st.integers(0, 2**32 - 1)),
    "f32": (pa.float32(), st.floats(width=32, allow_nan=False)),
    "f64": (pa.float64(), st.floats(allow_nan=False)),
    "bool": (pa.bool_(), st.booleans()),
    "text": (pa.string(), TEXT),
    "category": (pa.dictionary(pa.int32(), pa.string()), TEXT),
    "bytes": (pa.binary(), st.binary(max_size=12)),
    "decimal": (pa.decimal128(20, 4), st.decimals(-(10**15), 10**15, places=4)),
    "date": (pa.date32(), st.dates()),
    "time": (pa.time64("us"), st.times()),
    "timestamp": (pa.timestamp("us"), st.datetimes()),
    "zoned": (
        pa.timestamp("us", "UTC"),
        st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(UTC)),
    ),
    "duration": (pa.duration("us"), st.timedeltas(dt.timedelta(-100_000), dt.timedelta(100_000))),
}


@st.composite
def tables(draw: Any) -> pa.Table:
    """Some columns of some types, some values NULL, in one to three chunks; often empty, or NULL throughout."""
    names = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=5, unique=True))
    rows, cuts = draw(st.integers(0, 6)), draw(st.lists(st.integers(0, 6), max_size=2))
    columns = {}
    for name in names:
        kind, cell = CELLS[name]
        cell = st.none() if draw(st.integers(0, 9)) == 0 else st.none() | cell
        columns[name] = pa.array(draw(st.lists(cell, min_size=rows, max_size=rows)), kind)
    table = pa.table(columns)
    edges = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    return pa.concat_tables([table.slice(low, high - low) for low, high in itertools.pairwise(edges)])


def bits(value: Any) -> Any:
    """A value that is equal to another one only if it is the same: -0.0 is not 0.0."""
    return repr(value) if isinstance(value, float) else value


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking asks the database for minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tables(), st.sampled_from(sorted(FRAMES)), st.sampled_from([pd.DataFrame, pl.DataFrame, pa.Table]))
def test_a_generated_frame_comes_out_as_it_went_in(uri: str, table: pa.Table, origin: str, cls: type) -> None:
    _, found = through(uri, FRAMES[origin](table), cls)
    for name in table.column_names:
        expected = [bits(value) for value in table[name].to_pylist()]
        column = found[name].to_pylist() if cls is pa.Table else found[name].to_list()
        if cls is pd.DataFrame:
            column = [None if missing else value for value, missing in zip(column, found[name].isna(), strict=True)]
        assert [bits(value) for value in column] == expected, (name, origin, cls)


# ------------------------------------------------------------------------------------------- the table of the page

MICRO = dt.datetime(2024, 2, 29, 23, 59, 59, 999_999)
WRITTEN: dict[str, pa.Array] = {
    "int8": pa.array([-128, 127], pa.int8()),
    "int16": pa.array([-(2**15), 2**15 - 1], pa.int16()),
    "int32": pa.array([-(2**31), 2**31 - 1], pa.int32()),
    "int64": pa.array([-(2**63), 2**63 - 1], pa.int64()),
    "uint8": pa.array([0, 255], pa.uint8()),
    "uint16": pa.array([0, 2**16 - 1], pa.uint16()),
    "uint32": pa.array([0, 2**32 - 1], pa.uint32()),
    "uint64 below 2**63": pa.array([0, 2**63 - 1], pa.uint64()),
    "uint64": pa.array([0, 2**64 - 1], pa.uint64()),
    "float32": pa.array([1.5, -math.inf, -0.0], pa.float32()),
    "float64": pa.array([5e-324, math.inf, -0.0]),
    "bool": pa.array([True, False]),
    "text": pa.array(["", "ä🎉\n\\N"]),
    "text with NUL": pa.array(["a\0b"]),
    "categories": pa.array(["b", "a", "b"]).dictionary_encode(),
    "bytes": pa.array([b"", b"\0\xff"]),
    "decimals": pa.array([Decimal("1.50"), Decimal("-99.99")], pa.decimal128(10, 2)),
    "date": pa.array([dt.date.min, dt.date.max]),
    "time": pa.array([dt.time.min, dt.time.max]),
    "timestamp, s": pa.array([dt.datetime(2024, 2, 29)], pa.timestamp("s")),
    "timestamp, ms": pa.array([dt.datetime(2024, 2, 29, 1, 2, 3, 4000)], pa.timestamp("ms")),
    "timestamp, us": pa.array([dt.datetime.min, MICRO], pa.timestamp("us")),
    "timestamp, ns: whole microseconds": pa.array([1000], pa.timestamp("ns")),
    "timestamp, ns": pa.array([1001], pa.timestamp("ns")),
    "timestamp with a zone": pa.array([MICRO], pa.timestamp("us", "Europe/Berlin")),
    "duration, us": pa.array([dt.timedelta(-3, 0, 5)]),
    "duration of 300 years": pa.array([dt.timedelta(110_000)]),
    "lists": pa.array([[1, None], []]),
    "structs": pa.array([{"a": 1.5, "b": ["ä"]}]),
    "all NULL": pa.nulls(2),
}


def plain(value: Any) -> Any:
    """As the page means it: instants in UTC."""
    return value.astimezone(UTC) if isinstance(value, dt.datetime) and value.tzinfo else bits(value)


@pytest.mark.parametrize("origin", FRAMES)
@pytest.mark.parametrize("name", WRITTEN)
def test_a_type_is_written_exactly_or_refused(uri: str, name: str, origin: str) -> None:
    frame = _frame(name, origin)
    if frame is None:
        pytest.skip(f"{origin} has no such type")
    if name in ("text with NUL", "timestamp, ns", "duration of 300 years"):
        with pytest.raises(UnstorableResult, match=r"^raw\.t: column 'x' cannot be stored: "):
            through(uri, frame)
        return
    _, found = through(uri, frame)
    column = found["x"]
    values = pd.Series([]) if pa.types.is_null(column.type) else [plain(value) for value in column.to_pylist()]
    expected = [plain(value) for value in [*WRITTEN[name].to_pylist(), None]]
    if isinstance(column.type, pa.JsonType):
        values = pandas_frames.series(column).to_list()
    assert list(values) == expected


def _frame(name: str, origin: str) -> Any:
    values = WRITTEN[name]
    try:
        return FRAMES[origin](pa.table({"x": pa.chunked_array([values, pa.nulls(1, values.type)])}))
    except (pa.ArrowException, NotImplementedError):  # this library has no such type
        return None


def test_the_page_says_what_is_written(uri: str) -> None:
    rows = []
    origins = [origin for origin in FRAMES if origin != "polars, lazy"]
    for name in WRITTEN:
        cells = []
        for origin in origins:
            frame = _frame(name, origin)
            try:
                cells.append("–" if frame is None else f"`{through(uri, frame)[0]}`")
            except UnstorableResult:
                cells.append("refused")
        rows.append([name, *cells])
    check_table("writing", ["Values", *origins], rows)


def test_uuids_are_stored_as_such(uri: str) -> None:
    given = uuid.uuid4()
    kind, found = through(uri, pd.DataFrame({"x": [given, None]}), pd.DataFrame)
    assert (kind, found["x"].to_list()) == ("uuid", [given, None])
