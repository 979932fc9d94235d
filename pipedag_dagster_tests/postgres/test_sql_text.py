"""The text of a query means what the query means to SQLAlchemy: the same values, of the same types."""

from __future__ import annotations

import datetime as dt
import decimal
import ipaddress
import math
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql as pg

from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.postgres.sql_text import render

ROWS = sa.values(sa.column("a", sa.Integer), sa.column("s", sa.Text), name="t").data([(1, "x"), (2, "y\\%"), (3, "")])
A, S = ROWS.c.a, ROWS.c.s


class Upper(sa.types.TypeDecorator[str]):
    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str:
        return str(value).upper()


def literal(value: Any, kind: Any = None) -> sa.Select[Any]:
    return sa.select(sa.literal(value, kind))


QUERIES: dict[str, sa.ClauseElement] = {
    "date": literal(dt.date(2024, 1, 31)),
    "date and time": literal(dt.datetime(2024, 1, 31, 12, 0, 0, 5)),
    "date and time with zone": literal(dt.datetime(2024, 1, 31, tzinfo=dt.UTC), sa.DateTime(timezone=True)),
    "time": literal(dt.time(1, 2, 3)),
    "interval": literal(dt.timedelta(days=1, seconds=5)),
    "uuid": literal(uuid.UUID(int=5)),
    "nan": literal(math.nan),
    "infinity": literal(-math.inf),
    "negative zero": literal(-0.0),
    "float": literal(0.1),
    "large float": literal(1e300),
    "decimal": literal(decimal.Decimal("1.50")),
    "negative decimal": literal(decimal.Decimal("-1.50")),
    "decimal that is no number": literal(decimal.Decimal("NaN")),
    "negative integer": literal(-5),
    "smallest bigint": literal(-(2**63)),
    "largest bigint": literal(2**63 - 1),
    "boolean": literal(True),
    "null": literal(None),
    "null of a type": literal(None, sa.Integer),
    "bytes": literal(b"\xff\x00'\\"),
    "quotes and backslashes": literal("it's \\ a \"text\" % :x $$ ''"),
    "any character": literal("ü😀\n\t"),
    "jsonb": literal({"a": [1, None, "x'"]}, pg.JSONB),
    "jsonb contains": sa.select(sa.cast(sa.text("'{\"a\": 1}'"), pg.JSONB).contains({"a": 1})),
    "jsonb key": sa.select(sa.cast(sa.text('\'{"a": {"b": 1}}\''), pg.JSONB)["a"]["b"].astext),
    "array": literal([1, 2], pg.ARRAY(sa.Integer)),
    "empty array": literal([], pg.ARRAY(sa.Text)),
    "array of texts": literal(["a'", "b,\\", 'c"'], pg.ARRAY(sa.Text)),
    "array of dates": literal([dt.date(2024, 1, 1)], pg.ARRAY(sa.Date)),
    "any": sa.select(sa.literal(1) == sa.any_([1, 2])),  # type: ignore[arg-type]
    "address": literal(ipaddress.ip_address("10.0.0.1")),
    "timestamp of pandas": literal(pd.Timestamp("2024-01-01 10:00")),
    "float of numpy": literal(np.float64(1.5)),
    "own type": literal("x", Upper()),
    "in": sa.select(A).where(A.in_([1, 2])),
    "in nothing": sa.select(A).where(A.in_([])),
    "not in nothing": sa.select(A).where(A.not_in([])),
    "tuple in": sa.select(A).where(sa.tuple_(A, S).in_([(1, "x")])),
    "like": sa.select(A).where(S.like("y\\\\\\%")),
    "contains with escape": sa.select(A).where(S.contains("\\%", autoescape=True)),
    "regular expression": sa.select(A).where(S.regexp_match("^x$")),
    "limit": sa.select(A).order_by(A).limit(1).offset(1),
    "remainder": sa.select(A % 2, A * -1, A - -3).order_by(A),
    "case of dates": sa.select(sa.case((A > 1, dt.date(2024, 1, 1)), else_=dt.date(2024, 6, 1))).order_by(A),
    "function that PostgreSQL must choose": sa.select(sa.func.date_trunc("month", sa.literal(dt.date(2024, 1, 31)))),
    "date and interval": sa.select(sa.literal(dt.datetime(2024, 1, 1)) + dt.timedelta(days=1)),
    "text with a parameter": sa.text("SELECT 5 % 3, '%', 'a::b', 12::text, '12:30', :x").bindparams(x=5),
    "text with a colon": sa.text(r"SELECT '100% \:done'"),
    "text with a list": sa.text("SELECT 1 WHERE 1 IN :ids").bindparams(sa.bindparam("ids", [1, 2], expanding=True)),
    "text of the user": sa.select(sa.literal_column("'a\\b%'")),
    "values": sa.select(ROWS).order_by(A),
}


@pytest.fixture(scope="module")
def connection(server_url: sa.URL) -> Iterator[sa.Connection]:
    engine = sa.create_engine(server_url.set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def result(cursor: sa.CursorResult[Any]) -> tuple[list[tuple[str, ...]], list[int]]:
    """The rows, as texts because NaN equals nothing; and the types of the columns."""
    kinds = [column[1] for column in cursor.cursor.description]  # type: ignore[union-attr]
    return [tuple(map(repr, row)) for row in cursor], kinds


def as_sqlalchemy(connection: sa.Connection, query: Any) -> Any:
    return result(connection.execute(query))


def as_text(connection: sa.Connection, query: Any) -> Any:
    return result(connection.exec_driver_sql(render(query), execution_options={"no_parameters": True}))


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_the_text_gives_what_sqlalchemy_gives(connection: sa.Connection, query: Any) -> None:
    assert as_text(connection, query) == as_sqlalchemy(connection, query)


def test_a_text_of_a_declared_type_has_that_type(connection: sa.Connection) -> None:
    query = sa.select(sa.func.pg_typeof(sa.literal("10.0.0.1", pg.INET)))
    assert connection.exec_driver_sql(render(query)).scalar() == "inet"


VALUES = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=True),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20),
    st.booleans(),
    st.binary(),
    st.dates(),
    st.datetimes(),
    st.times(),
    st.uuids(),
    st.timedeltas(dt.timedelta(days=-100_000), dt.timedelta(days=100_000)),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES)
def test_any_value_comes_back_as_the_value_that_it_is(connection: sa.Connection, value: Any) -> None:
    query = literal(value)
    (row,), _ = as_text(connection, query)
    (expected,), _ = as_sqlalchemy(connection, query)
    assert row == expected


@pytest.mark.parametrize(
    ("query", "said"),
    [
        pytest.param(sa.text("SELECT :limit"), "parameter 'limit', which has no value", id="without a value"),
        pytest.param(sa.text("SELECT ':done'"), "parameter 'done', which has no value", id="meant as text"),
        pytest.param(sa.select(sa.bindparam("x")), "parameter 'x', which has no value", id="of bindparam"),
        pytest.param(
            sa.text("SELECT 'a :b'").bindparams(b=1), "parameter 'b' inside of a quoted text", id="inside of quotes"
        ),
        pytest.param(sa.text("SELECT 1 -- :b").bindparams(b=1), "parameter 'b' inside of", id="in a comment"),
        pytest.param(sa.text("SELECT $x$ :b $x$").bindparams(b=1), "parameter 'b' inside of", id="dollar-quoted"),
        pytest.param(literal(object()), "SQL has no constant for", id="of no type that SQL knows"),
    ],
)
def test_a_parameter_that_cannot_be_written_is_an_error_that_names_it(query: Any, said: str) -> None:
    with pytest.raises(UnstorableResult, match=said.replace("(", r"\(")):
        render(query)
