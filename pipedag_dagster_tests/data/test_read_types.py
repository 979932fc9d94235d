"""Each type of PostgreSQL in each class of frames: the same value, or an error. The first table of docs/types.md."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pandas as pd
import polars as pl
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa

from pipedag_dagster.data import frames, pg_types
from pipedag_dagster.errors import TaskFailed
from pipedag_dagster_tests.data.types_page import check_table

CLASSES = (pd.DataFrame, pl.DataFrame, pa.Table)
ID = uuid.UUID("4ec2e354-43dc-4c23-aa59-77e4e5ad8922")
MICRO = dt.datetime(2024, 2, 29, 23, 59, 59, 999_999)
UTC = dt.UTC
REFUSED = "refused"


@dataclass(frozen=True)
class Case:
    """Values of a type of PostgreSQL, and what they are in Python (`polars`: what they are there, where it differs).
    The classes in `refused` refuse them."""

    sql: str
    values: list[str]
    expected: list[Any]
    polars: list[Any] | None = None
    refused: tuple[type, ...] = ()
    varies: bool = False  # the type in polars and pyarrow depends on the values


def refused(sql: str, *values: str) -> Case:
    return Case(sql, list(values), [], refused=CLASSES)


def only_pandas(sql: str, values: list[str], expected: list[Any]) -> Case:
    return Case(sql, values, expected, refused=(pl.DataFrame, pa.Table))


#  what the page calls them: a type, or a type and the values in question
CASES = {
    "smallint": Case("smallint", ["-32768", "32767"], [-(2**15), 2**15 - 1]),
    "integer": Case("integer", ["-2147483648", "2147483647"], [-(2**31), 2**31 - 1]),
    "bigint": Case("bigint", ["-9223372036854775808", "9223372036854775807"], [-(2**63), 2**63 - 1]),
    "real": Case("real", ["1.5", "-Infinity", "-0"], [1.5, -math.inf, -0.0]),
    "double precision": Case("float8", ["5e-324", "Infinity", "-0", "0"], [5e-324, math.inf, -0.0, 0.0]),
    "double precision: NaN beside NULL": Case("float8", ["NaN"], [math.nan], refused=(pd.DataFrame,)),
    "numeric(10,2)": Case("numeric(10,2)", ["1.50", "-99999999.99"], [Decimal("1.50"), Decimal("-99999999.99")]),
    "numeric": Case("numeric", ["1.5", "1.25"], [Decimal("1.5"), Decimal("1.25")], varies=True),
    "numeric: more than 38 digits": Case("numeric(50,0)", ["1" * 50], [Decimal("1" * 50)], refused=(pl.DataFrame,)),
    "numeric: NaN, Infinity": only_pandas("numeric", ["Infinity", "-Infinity"], [Decimal("inf"), Decimal("-inf")]),
    "money": Case("money", ["1.50", "-3.05"], [Decimal("1.50"), Decimal("-3.05")], varies=True),
    "boolean": Case("boolean", ["t", "f"], [True, False]),
    "text": Case("text", ["", "ä🎉\n\\N", "NULL"], ["", "ä🎉\n\\N", "NULL"]),
    "varchar(n)": Case("varchar(5)", ["abc"], ["abc"]),
    "char(n), padded": Case("char(5)", ["ab"], ["ab   "]),
    "name": Case("name", ["orders"], ["orders"]),
    "enum": Case("public.mood", ["sad", "ok"], ["sad", "ok"]),
    "bytea": Case("bytea", ["\\x", "\\x00ff"], [b"", b"\0\xff"]),
    "uuid": Case("uuid", [str(ID)], [ID], [str(ID)]),
    "date": Case("date", ["0001-01-01", "9999-12-31"], [dt.date.min, dt.date.max]),
    "date: infinity": refused("date", "infinity"),
    "date: before year 1": refused("date", "0044-03-15 BC"),
    "time": Case("time", ["00:00", "23:59:59.999999"], [dt.time.min, dt.time.max]),
    "time: 24:00": refused("time", "24:00"),
    "time with time zone": refused("timetz", "12:00+02"),
    "timestamp": Case("timestamp", ["0001-01-01", str(MICRO)], [dt.datetime.min, MICRO]),
    "timestamp: infinity": refused("timestamp", "-infinity"),
    "timestamp: year 10000": refused("timestamp", "10000-01-01"),
    "timestamp with time zone": Case(
        "timestamptz", [f"{MICRO}+02"], [MICRO.replace(tzinfo=UTC) - dt.timedelta(hours=2)]
    ),
    "timestamp with time zone: infinity": refused("timestamptz", "infinity"),
    "interval: days and less": Case(
        "interval", ["1 day -00:00:00.000001", "36 hours"], [dt.timedelta(1, 0, -1), dt.timedelta(1.5)]
    ),
    "interval: months, years": refused("interval", "1 month"),
    "interval: 300 years in hours": refused("interval", "3000000 hours"),
    "jsonb": Case(
        "jsonb", ['{"a": [1, 2.5, null]}', "[]"], [{"a": [1, 2.5, None]}, []], ['{"a": [1, 2.5, null]}', "[]"]
    ),
    "json": Case("json", ['{"b":1, "a":2}'], [{"b": 1, "a": 2}], ['{"b":1, "a":2}']),
    "json: a key twice": Case("json", ['{"a":1,"a":2}'], [], ['{"a":1,"a":2}'], refused=(pd.DataFrame,)),
    "jsonb: numbers that are no floats": Case(
        "jsonb", ["[0.12345678901234567890]"], [], ["[0.12345678901234567890]"], refused=(pd.DataFrame,)
    ),
    "jsonb: null": Case("jsonb", ["null"], [], ["null"], refused=(pd.DataFrame,)),
    "jsonb[]: null": Case("jsonb[]", ["{1,null}", '{"null"}'], [], [["1", None], ["null"]], refused=(pd.DataFrame,)),
    "integer[]": Case("integer[]", ["{1,NULL,3}", "{}"], [[1, None, 3], []]),
    "text[]": Case("text[]", ['{a,"b c",NULL}'], [["a", "b c", None]]),
    "numeric[]": Case("numeric[]", ["{1.50}"], [[Decimal("1.50")]], varies=True),
    "money[]": Case("money[]", ["{1.50}"], [[Decimal("1.50")]], varies=True),
    "jsonb[]": Case("jsonb[]", ['{"{\\"a\\": 1}"}'], [[{"a": 1}]], [['{"a": 1}']]),
    "uuid[]": Case("uuid[]", [f"{{{ID}}}"], [[ID]], [[str(ID)]]),
    "date[], timestamp[]": Case("date[]", ["{2024-02-29}"], [[dt.date(2024, 2, 29)]]),
    "date[]: infinity": refused("date[]", "{2024-02-29,infinity}"),
    "enum[]": Case("public.mood[]", ["{ok,NULL}"], [["ok", None]]),
    "arrays of several dimensions": only_pandas("integer[]", ["{{1,2},{3,4}}"], [[[1, 2], [3, 4]]]),
    "arrays that do not begin at 1": refused("integer[]", "[0:1]={1,2}"),
    "a domain of a type above": Case("public.positive", ["3"], [3]),
    "arrays of a domain": Case("public.positive[]", ["{3}"], [[3]]),
    "oid": Case("oid", ["4294967295"], [2**32 - 1]),
    "composite types": refused("public.pair", "(1,x)"),
    "ranges": refused("int4range", "[1,5)"),
    "multiranges": refused("int4multirange", "{[1,5)}"),
    "inet": refused("inet", "1.2.3.4"),
    "cidr": refused("cidr", "10.0.0.0/8"),
    "macaddr": refused("macaddr", "08:00:2b:01:02:03"),
    "bit": refused("bit(3)", "101"),
    "varbit": refused("varbit", "10"),
    "point": refused("point", "(1,2)"),
    "tsvector": refused("tsvector", "a:1"),
    "hstore": refused("public.hstore", "a=>1"),
}
TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS integer CHECK (value > 0); CREATE EXTENSION hstore;
"""


@pytest.fixture(scope="module")
def uri(server_url: sa.URL) -> Any:
    admin = server_url.render_as_string(hide_password=False)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("CREATE DATABASE types_of_columns")
    uri = server_url.set(database="types_of_columns").render_as_string(hide_password=False)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(TYPES)
        for number, case in enumerate(CASES.values()):
            for suffix in ("values", "empty", "null"):
                connection.execute(f"CREATE TABLE t{number}_{suffix} (x {case.sql})".encode())
            for value in (*case.values, None):
                connection.execute(f"INSERT INTO t{number}_values VALUES (%s::{case.sql})".encode(), (value,))
            connection.execute(f"INSERT INTO t{number}_null VALUES (NULL), (NULL)".encode())
    yield uri
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP DATABASE types_of_columns WITH (FORCE)")


def read(uri: str, name: str, part: str, cls: type) -> Any:
    return frames.read_table(uri, f"public.t{list(CASES).index(name)}_{part}", cls, "raw.t")


def dtype(frame: Any) -> str:
    kind = frame.schema.field("x").type if isinstance(frame, pa.Table) else frame["x"].dtype
    if isinstance(kind, pa.JsonType):
        return "pa.json_()"
    if isinstance(kind, pa.UuidType):
        return "pa.uuid()"
    return "str" if kind == pd.Series(["a"]).dtype else str(kind)


def values(frame: Any) -> list[Any]:
    if isinstance(frame, pd.DataFrame):
        return [None if is_null else value for value, is_null in zip(frame["x"], _missing(frame["x"]), strict=True)]
    return [_python(value) for value in frame["x"].to_pylist()] if isinstance(frame, pa.Table) else frame["x"].to_list()


def _missing(column: pd.Series[Any]) -> list[bool]:
    return [value is None or value is pd.NaT or value is pd.NA or value != value for value in column]


def _python(value: Any) -> Any:
    return value


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return repr(float(found)) == repr(expected)
    return bool(found == expected)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__.partition('.')[0]}")
@pytest.mark.parametrize("name", CASES)
def test_a_type_is_read_exactly_or_refused(uri: str, name: str, cls: type) -> None:
    case = CASES[name]
    if cls in case.refused:
        with pytest.raises(TaskFailed, match=r"^raw\.t: column 'x' cannot be read: .*(text|polars)"):
            read(uri, name, "values", cls)
        return
    expected = case.expected
    if case.polars is not None and (cls is pl.DataFrame or (cls is pa.Table and "json" in case.sql)):
        expected = case.polars
    frame = read(uri, name, "values", cls)
    found = values(frame)
    assert len(found) == len(expected) + 1
    assert found[-1] is None
    assert all(map(same, found, expected)), found
    if case.varies and cls is not pd.DataFrame:
        return
    empty, null = (read(uri, name, part, cls) for part in ("empty", "null"))
    assert values(empty) == []
    assert values(null) == [None, None]
    assert dtype(frame) == dtype(empty) == dtype(null)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refused == CLASSES and ":" in name])
def test_a_column_without_such_values_is_read(uri: str, name: str) -> None:
    """It is the value that is refused, and not its type."""
    assert len(read(uri, name, "null", pd.DataFrame)) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timestamp: infinity", "The first is in row 1."),
        ("interval: months, years", "it holds the interval 1 mon, which has no fixed length"),
        ("arrays that do not begin at 1", r"does not begin at 1, but with \[0:1\].* row 1"),
        ("date[]: infinity", "it holds infinity, .* row 1"),
        ("composite types", r"Select its parts, as in \(column\)\.part"),
        ("inet", "nothing for its type inet. Select it as text: column::text"),
    ],
)
def test_a_refusal_says_what_to_do(uri: str, name: str, message: str) -> None:
    with pytest.raises(TaskFailed, match=message):
        read(uri, name, "values", pd.DataFrame)


def test_a_lazy_frame_of_polars_has_what_the_eager_one_has(uri: str) -> None:
    lazy = read(uri, "uuid", "values", pl.LazyFrame)
    assert isinstance(lazy, pl.LazyFrame)
    assert lazy.collect().equals(read(uri, "uuid", "values", pl.DataFrame))


def test_a_condition_and_a_limit_choose_rows(uri: str) -> None:
    table = f"public.t{list(CASES).index('smallint')}_values"
    assert frames.read_table(uri, table, pa.Table, "t", where="x > 0").to_pydict() == {"x": [2**15 - 1]}
    assert len(frames.read_table(uri, table, pd.DataFrame, "t", limit=0)) == 0


def test_a_table_that_is_not_there_is_an_error_of_the_database(uri: str) -> None:
    with pytest.raises(Exception, match="does not exist") as failed:
        frames.read_table(uri, "public.nothing", pd.DataFrame, "raw.nothing")
    assert failed.value.sqlstate == psycopg.errors.UndefinedTable.sqlstate  # type: ignore[attr-defined]


@pytest.mark.skipif(pd.Series(["a"]).dtype == object, reason="pandas 2 has no type for text")
def test_the_page_says_what_is_read(uri: str) -> None:
    rows = []
    for name, case in CASES.items():
        cells = []
        for cls in CLASSES:
            if cls in case.refused:
                cells.append(REFUSED)
            else:
                found = dtype(read(uri, name, "values", cls))
                cells.append(f"`{found}`" + (" (by its values)" if case.varies and cls is not pd.DataFrame else ""))
        rows.append([name, *cells])
    check_table("reading", ["PostgreSQL", "pandas", "polars", "pyarrow"], rows)


ASSIGNED = ["1.5::float8", "1.5::real", "1.5::numeric", "1::bigint", "1::oid", "true", "'a'::text", "'1 day'::interval"]
ASSIGNED += [f"'2026-01-01'::{kind}" for kind in ("date", "timestamp", "timestamptz")]


@pytest.mark.parametrize("value", ASSIGNED)
def test_a_task_can_assign_to_a_dataframe_that_was_read(uri: str, value: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE assigned AS SELECT {value} AS x UNION ALL SELECT {value}".encode())
        frame = frames.read_table(uri, "assigned", pd.DataFrame, "assigned")
        connection.execute("DROP TABLE assigned")
    frame.loc[0, "x"] = frame["x"].iloc[1]
    frame.loc[frame.index == 1, "x"] = None
    assert frame["x"].notna().tolist() == [True, False]


@pytest.mark.parametrize("value", ASSIGNED)
def test_a_task_can_assign_to_a_column_that_was_read_with_null(uri: str, value: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE assigned AS SELECT {value} AS x UNION ALL SELECT NULL".encode())
        frame = frames.read_table(uri, "assigned", pd.DataFrame, "assigned")
        connection.execute("DROP TABLE assigned")
    frame.loc[1, "x"] = frame["x"].iloc[0]
    frame.loc[frame.index == 0, "x"] = None
    assert frame["x"].notna().tolist() == [False, True]


def test_a_column_of_arrow_is_freed_when_it_was_converted() -> None:
    columns = [pa.chunked_array([[1, 2], [3]]), pa.chunked_array([["a", "b"], ["c"]])]
    described = [pg_types.PgColumn(name, name, -1, False, False, name) for name in ("int8", "text")]
    frame = frames._frame(described, columns, 3, pd.DataFrame, "t")
    assert frame.to_dict("list") == {"int8": [1, 2, 3], "text": ["a", "b", "c"]}
    assert not columns
