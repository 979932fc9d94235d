"""SQL that runs is the SQL that was written: rendered queries give the rows and types that SQLAlchemy gets itself."""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg.types.range import Range
from sqlalchemy.dialects import postgresql as pg

from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.postgres.sql_text import is_ordered, render

Run = Callable[[Any], tuple[list[int], str]]


class Mood(enum.Enum):
    sad = 1
    happy = 2


class Cents(sa.TypeDecorator[int]):
    """Money in Python, cents in the database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> int | None:
        return None if value is None else int(value * 100)


@pytest.fixture(scope="module")
def connection(server_url: sa.URL) -> Iterator[sa.Connection]:
    engine = sa.create_engine(server_url.set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TYPE pg_temp.mood AS ENUM ('sad', 'happy')")
        connection.exec_driver_sql("SET search_path = public, pg_temp")
        connection.commit()
        yield connection
    engine.dispose()


@pytest.fixture
def run(connection: sa.Connection) -> Run:
    """The types and the rows of a query, as the driver gives them."""

    def run(query: Any) -> tuple[list[int], str]:
        try:
            if isinstance(query, str):
                result = connection.exec_driver_sql(query, execution_options={"no_parameters": True})
            else:
                result = connection.execute(query)
            assert result.cursor is not None
            return [column.type_code for column in result.cursor.description], repr(result.cursor.fetchall())
        finally:
            connection.rollback()

    return run


BERLIN = dt.timezone(dt.timedelta(hours=1))
NUMBERS = sa.values(sa.column("x", sa.Integer), sa.column("day", sa.Date), name="v").data(
    [(1, dt.date(2024, 1, 1)), (2, dt.date(2024, 2, 1)), (3, None)]
)
x, day = NUMBERS.c.x, NUMBERS.c.day
VALUES: dict[str, Any] = {
    "int": sa.literal(5),
    "negative int": sa.literal(-(2**31)),
    "bigint": sa.literal(2**62),
    "negative bigint": sa.literal(-(2**63), sa.BigInteger),
    "more than bigint": sa.literal(2**70, sa.Numeric),
    "bool": sa.literal(True),
    "float": sa.literal(0.1),
    "nan": sa.literal(float("nan")),
    "inf": sa.literal(float("inf")),
    "-inf": sa.literal(float("-inf")),
    "-0.0": sa.literal(-0.0),
    "tiny": sa.literal(5e-324),
    "a float as an integer": sa.literal(2.5, sa.Integer),
    "decimal": sa.literal(Decimal("1.50")),
    "decimal with an exponent": sa.literal(Decimal("1E+5")),
    "decimal nan": sa.literal(Decimal("NaN")),
    "decimal with a scale": sa.literal(Decimal("1.5"), sa.Numeric(10, 2)),
    "text": sa.literal("a"),
    "hostile text": sa.literal("it's 100% \\n \\' :x %s ?; -- é ☃ 😀 $$ {}"),
    "empty text": sa.literal(""),
    "text that is an int": sa.literal("5", sa.Text),
    "bytes": sa.literal(b"\xff\x00'\\"),
    "date": sa.literal(dt.date(2024, 1, 31)),
    "date from a time stamp": sa.literal(dt.datetime(2024, 1, 31, 23), sa.Date),
    "first date": sa.literal(dt.date(1, 1, 1)),
    "time stamp": sa.literal(dt.datetime(2024, 1, 31, 12, 30, 1, 5)),
    "time stamp with zone": sa.literal(dt.datetime(2024, 1, 31, tzinfo=BERLIN), sa.DateTime(timezone=True)),
    "zone that the column has not": sa.literal(dt.datetime(2024, 1, 31, tzinfo=BERLIN)),
    "time": sa.literal(dt.time(3, 4, 5, 6)),
    "time with zone": sa.literal(dt.time(3, tzinfo=dt.UTC), sa.Time(timezone=True)),
    "interval": sa.literal(dt.timedelta(days=-1, microseconds=3)),
    "uuid": sa.literal(uuid.UUID(int=5)),
    "uuid as text": sa.literal(str(uuid.UUID(int=5)), sa.Uuid(as_uuid=False)),
    "json": sa.literal({"a": [1, 'é"\\', None]}, sa.JSON),
    "json null": sa.literal(None, sa.JSON),
    "jsonb": sa.literal({"b": 1, "a": "it's"}, pg.JSONB),
    "ints": sa.literal([1, None, 3], pg.ARRAY(sa.Integer)),
    "no ints": sa.literal([], pg.ARRAY(sa.Integer)),
    "nested ints": sa.literal([[1, 2], [3, 4]], pg.ARRAY(sa.BigInteger)),
    "texts": sa.literal(["a", None, "NULL", 'x"y\\{},', "it's", ""], pg.ARRAY(sa.Text)),
    "dates": sa.literal([dt.date(2024, 1, 1)], pg.ARRAY(sa.Date)),
    "floats": sa.literal([1.5, float("nan"), float("-inf")], pg.ARRAY(sa.Float)),
    "list of bytes": sa.literal([b"\x00'\\\""], pg.ARRAY(sa.LargeBinary)),
    "list of jsonb": sa.literal([{"a": 1}], pg.ARRAY(pg.JSONB)),
    "list of uuids": sa.literal([uuid.UUID(int=1)], pg.ARRAY(sa.Uuid)),
    "list without a type": sa.literal([1, 2]),
    "ip address": sa.literal(ipaddress.ip_address("::1"), pg.INET),
    "ip address without a type": sa.literal(ipaddress.ip_address("10.0.0.1")),
    "cidr": sa.literal(ipaddress.ip_network("10.0.0.0/8"), pg.CIDR),
    "range": sa.literal(pg.Range(1, 5), pg.INT4RANGE),
    "empty range": sa.literal(pg.Range(empty=True), pg.INT4RANGE),
    "date range": sa.literal(pg.Range(dt.date(2024, 1, 1), None), pg.DATERANGE),
    "range of psycopg": sa.literal(Range(dt.date(2024, 1, 1), None)),
    "multirange": sa.literal([pg.Range(1, 5), pg.Range(7, 9)], pg.INT4MULTIRANGE),
    "enum": sa.literal(Mood.sad, sa.Enum(Mood, name="mood")),
    "enum of postgresql": sa.literal("happy", pg.ENUM("sad", "happy", name="mood", create_type=False)),
    "bits": sa.cast(sa.literal("101"), pg.BIT(3)),
    "type of the user": sa.literal(Decimal("1.23"), Cents),
    "numpy int": sa.literal(np.int64(5)),
    "numpy small int": sa.literal(np.int8(-5)),
    "numpy unsigned": sa.literal(np.uint64(2**64 - 1)),
    "numpy float": sa.literal(np.float64(0.1)),
    "numpy float32": sa.literal(np.float32(0.1)),
    "numpy bool": sa.literal(np.bool_(True)),
    "pandas time stamp": sa.literal(pd.Timestamp("2024-01-31 12:00:00.000001")),
    "pandas time stamp with zone": sa.literal(pd.Timestamp("2024-07-01", tz="Europe/Berlin")),
    "pandas time delta": sa.literal(pd.Timedelta("-1 day 3 us")),
}
QUERIES: dict[str, Any] = {
    **{f"value: {name}": sa.select(value.label("value")) for name, value in VALUES.items()},
    "case": sa.select(sa.case((x > 1, dt.date(2024, 1, 1)), else_=dt.date(2024, 6, 1))),
    "coalesce": sa.select(sa.func.coalesce(day, dt.date(1970, 1, 1))),
    "function of a date": sa.select(sa.func.date_trunc("month", sa.literal(dt.date(2024, 1, 31)))),
    "date and timedelta": sa.select(sa.literal(dt.datetime(2024, 1, 31)) + dt.timedelta(days=1)),
    "negative operand": sa.select(x - sa.literal(-1), -x, x * -2),
    "in": sa.select(x).where(x.in_([1, 3])),
    "in nothing": sa.select(x).where(x.in_([])),
    "not in nothing": sa.select(x).where(x.not_in([])),
    "in of dates": sa.select(x).where(day.in_([dt.date(2024, 1, 1), dt.date(2024, 2, 1)])),
    "in of tuples": sa.select(x).where(sa.tuple_(x, day).in_([(1, dt.date(2024, 1, 1)), (2, None)])),
    "in of a parameter": sa.select(x).where(x.in_(sa.bindparam("some", [1, 2], expanding=True))),
    "any": sa.select(x).where(x == sa.any_(sa.literal([1, 2], pg.ARRAY(sa.Integer)))),
    "any of a list": sa.select(sa.literal(1) == sa.any_([1, 2])),
    "array of literals": sa.select(pg.array([1, 2, 3])),
    "array slice": sa.select(sa.type_coerce(pg.array([1, 2, 3]), pg.ARRAY(sa.Integer))[1:2]),
    "json contains": sa.select(sa.cast({"a": 1}, pg.JSONB).contains({"a": 1})),
    "json path": sa.select(sa.cast({"a": {"b": [5]}}, pg.JSONB)[("a", "b", 0)]),
    "json key": sa.select(sa.cast({"a": "x"}, pg.JSONB)["a"].astext),
    "json has key": sa.select(sa.cast({"a": "x"}, pg.JSONB).has_key("a")),
    "like": sa.select(sa.literal("50% \\ off").like("50\\% \\\\%"), sa.literal("a_b").contains("_", autoescape=True)),
    "like with escape": sa.select(sa.literal("a%").like("a/%", escape="/"), sa.literal("a").like("a\\", escape="\\")),
    "regular expression": sa.select(sa.literal("a1").regexp_match(r"^\w\d$"), sa.literal("A").regexp_match("a", "i")),
    "replace by a pattern": sa.select(sa.func.regexp_replace("a1b2", r"\d", "", "g")),
    "modulo": sa.select(x % 2, sa.literal_column("7 % 4")),
    "full text": sa.select(sa.literal("a cat").match("cats", postgresql_regconfig="english")),
    "limit and offset": sa.select(x).order_by(x).limit(1).offset(1),
    "string_agg": sa.select(sa.func.aggregate_strings(sa.cast(x, sa.Text), ", ")),
    "interval in text": sa.select(sa.text("timestamp '2024-01-31' + interval '1 month'")),
    "union": sa.union_all(sa.select(sa.literal("a")), sa.select(sa.literal("b"))).order_by(sa.text("1")),
    "cte": sa.select(sa.select(sa.literal(dt.date(2024, 1, 1)).label("d")).cte("c")),
    "is null": sa.select(x).where(day.is_(None), x == sa.bindparam("limit", 3)),
    "compared with a missing value": sa.select(x).where(x == sa.bindparam("limit", None, sa.Integer)),
    "values": NUMBERS,
    "text with parameters": sa.text("SELECT :day AS day, CAST(:n AS int), :n * 2").bindparams(
        day=dt.date(2024, 1, 1), n=4
    ),
    "text with a list": sa.text("SELECT 1 WHERE 2 IN :list").bindparams(sa.bindparam("list", [1, 2], expanding=True)),
    "text with an escaped colon": sa.text(r"SELECT '\:open', (ARRAY[1, 2, 3])[\:2]"),
    "text with casts": sa.text("SELECT '1'::int, ('{1,2}'::int[])[1:2], '12:30'::time"),
    "quoted label": sa.select(sa.literal(1).label('a "b" :c %d')),
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_rendered_query_gives_what_sqlalchemy_gets_by_executing_it(run: Run, query: Any) -> None:
    executed = query if not isinstance(query, sa.Values) else sa.select(query)
    assert run(render(query)) == run(executed)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (sa.Integer(), "integer"),
        (sa.Numeric(10, 2), "numeric"),
        (sa.Float(), "double precision"),
        (sa.Text(), "character varying"),
        (sa.Boolean(), "boolean"),
        (sa.Date(), "date"),
        (sa.DateTime(timezone=True), "timestamp with time zone"),
        (sa.Interval(), "interval"),
        (sa.Uuid(), "uuid"),
        (sa.LargeBinary(), "bytea"),
        (pg.INET(), "inet"),
        (pg.ARRAY(sa.Integer), "integer[]"),
        (pg.DATERANGE(), "daterange"),
        (Cents(), "bigint"),
    ],
    ids=str,
)
def test_null_has_the_type_of_its_parameter(run: Run, kind: Any, name: str) -> None:
    value = render(sa.select(sa.literal(None, kind).label("x")))
    assert run(f"SELECT pg_typeof(x)::text, x IS NULL FROM ({value}) AS q")[1] == repr([(name, True)])


@pytest.mark.parametrize(
    ("value", "kind", "name"),
    [("10.0.0.1", pg.INET, "inet"), ("1.50", sa.Numeric, "numeric"), ("$1.50", pg.MONEY, "money")],
    ids=["inet", "numeric", "money"],
)
def test_a_text_of_a_declared_type_has_that_type(run: Run, value: str, kind: Any, name: str) -> None:
    assert run(render(sa.select(sa.func.pg_typeof(sa.literal(value, kind)).cast(sa.Text))))[1] == repr([(name,)])


TEXTS: dict[str, tuple[str, str]] = {
    "a constant": ("SELECT '100% :done'", "100% :done"),
    "json": ("""SELECT '{"a": {"b":null, "c" :x}}'""", '{"a": {"b":null, "c" :x}}'),
    "a quote in a constant": ("SELECT 'it''s :open'", "it's :open"),
    "an escape constant": (r"SELECT E'\' :open'", "' :open"),
    "dollar quotes": ("SELECT $$ :open 'x $$", " :open 'x "),
    "tagged dollar quotes": ("SELECT $a$ $$ :open $b$ $a$", " $$ :open $b$ "),
    "a comment to the end of the line": ("SELECT 'a' -- it's :open\n", "a"),
    "a nested comment": ("SELECT /* :a /* it's */ :b */ 'a'", "a"),
    "a quoted name": ('SELECT a.":x" FROM (SELECT \'a\' AS ":x") AS a', "a"),
    "a comment and a semicolon at the end": ("SELECT 'a'; -- the end;\n", "a"),
    "a semicolon in a constant": ("SELECT 'a;b';", "a;b"),
    "backslashes and percent signs": (r"SELECT '\d+ 100%%s'", r"\d+ 100%%s"),
    "parentheses": ("(SELECT 'a')", "a"),
}


@pytest.mark.parametrize(("text", "value"), TEXTS.values(), ids=TEXTS)
def test_a_colon_in_a_constant_a_name_or_a_comment_is_a_colon(run: Run, text: str, value: str) -> None:
    assert run(render(sa.text(text)))[1] == repr([(value,)])


REFUSED: dict[str, tuple[Any, str]] = {
    "a parameter without a value": (
        sa.text("SELECT :limit"),
        r"parameter :limit has no value. Write .bindparams\(limit=…",
    ),
    "in a condition": (sa.select(x).where(sa.text("x > :limit")), "parameter :limit has no value"),
    "a bindparam": (sa.select(x).where(x > sa.bindparam("limit")), "parameter :limit has no value"),
    "an expanding one": (
        sa.select(x).where(x.in_(sa.bindparam("some", expanding=True))),
        "parameter :some has no value",
    ),
    "a quoted parameter": (sa.text("SELECT ':a'").bindparams(a=1), "parameter :a has a value, but is written inside"),
    "in a comment": (
        sa.text("SELECT 1 -- :a").bindparams(a=1),
        "parameter :a has a value, but is written inside",
    ),
    "several statements": (sa.text("SELECT 1; COMMIT; DROP SCHEMA s"), r"several statements.*RawSql\("),
    "several after a comment": (sa.text("SELECT 1 /* ; */; SELECT 2"), "several statements"),
    "another statement": (sa.text("DELETE FROM t"), r"begins with DELETE, and so is not a query.*RawSql\("),
    "an insert": (sa.insert(sa.table("t", sa.column("a"))).values(a=1), "begins with INSERT"),
    "nothing": (sa.text(" -- nothing\n ; "), "is empty"),
    "NUL": (sa.select(sa.literal("a\0b")), "NUL"),
    "a surrogate": (sa.select(sa.literal("\ud800")), "cannot be written as SQL"),
    "nanoseconds": (sa.select(sa.literal(pd.Timestamp("2024-01-01 00:00:00.000000001"))), r"value.round\('us'\)"),
    "pandas' NA": (sa.select(sa.literal(pd.NA)), "NAType.*cannot be written as SQL"),
    "an array of numpy": (sa.select(sa.literal(np.array([1]))), r"ndarray.*value.tolist\(\)"),
    "a dict without a type": (sa.select(sa.bindparam("x", {"a": 1}, sa.types.NullType())), "dict.*cannot be written"),
    "an object": (sa.select(sa.bindparam("x", object(), sa.types.NullType())), "object.*cannot be written as SQL"),
}


@pytest.mark.parametrize(("query", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_sql_form_is_refused_by_name(query: Any, message: str) -> None:
    with pytest.raises(UnstorableResult, match=f"(?s)report.out: .*{message}|(?s:report.out cannot.*{message})"):
        render(query, "report.out")


ORDERED = {
    "SELECT 1 ORDER BY 1": True,
    "SELECT 1 order\n-- up\nby 1 LIMIT 1": True,
    "(SELECT 1 ORDER BY 1)": True,
    "((SELECT 1) ORDER BY 1)": True,
    "WITH a AS (SELECT 1) SELECT * FROM a ORDER BY 1": True,
    "SELECT 1 UNION SELECT 2 ORDER BY 1": True,
    "SELECT * FROM (SELECT 1 ORDER BY 1) AS q": False,
    "(SELECT 1 ORDER BY 1) UNION ALL (SELECT 2)": False,
    "SELECT row_number() OVER (ORDER BY x) FROM t": False,
    "SELECT array_agg(x ORDER BY x) FROM t": False,
    "SELECT 'ORDER BY x' -- ORDER BY x": False,
    'SELECT "ORDER" BY FROM t': False,
}


@pytest.mark.parametrize(("query", "ordered"), ORDERED.items())
def test_whether_the_outermost_level_is_ordered(query: str, ordered: bool) -> None:
    assert is_ordered(query) is ordered


scalars = {
    sa.Integer: st.integers(-(2**31), 2**31 - 1),
    sa.BigInteger: st.integers(-(2**63), 2**63 - 1),
    sa.Float: st.floats(),
    sa.Numeric: st.decimals(allow_nan=False, allow_infinity=False),
    sa.Text: st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    sa.LargeBinary: st.binary(),
    sa.Date: st.dates(),
    sa.DateTime: st.datetimes(timezones=st.none() | st.just(BERLIN)),
    sa.Time: st.times(),
    sa.Interval: st.timedeltas(dt.timedelta(-(10**6)), dt.timedelta(10**6)),
    sa.Uuid: st.uuids(),
    sa.Boolean: st.booleans(),
}
single = st.sampled_from(list(scalars)).flatmap(lambda kind: st.tuples(st.just(kind()), scalars[kind]))
listed = st.sampled_from(list(scalars)).flatmap(
    lambda kind: st.tuples(st.just(pg.ARRAY(kind)), st.lists(st.none() | scalars[kind]))
)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | scalars[sa.Text],
    lambda inner: st.lists(inner) | st.dictionaries(scalars[sa.Text], inner),
    max_leaves=5,
)


@given(st.lists(single | listed | st.tuples(st.sampled_from([sa.JSON(), pg.JSONB()]), jsons), min_size=1, max_size=5))
@example([(sa.Text(), "\\"), (sa.LargeBinary(), b"\\"), (pg.ARRAY(sa.Text), ['"\\'])])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_any_literal_reads_back_as_the_parameter_does(run: Run, values: list[tuple[Any, Any]]) -> None:
    query = sa.select(*(sa.literal(value, kind).label(f"c{number}") for number, (kind, value) in enumerate(values)))
    try:
        executed = run(query)
    except (sa.exc.SQLAlchemyError, ValueError, OverflowError):  # psycopg cannot send it, or not read it back
        return
    assert run(render(query)) == executed
