"""The types that are made from names are those that SQLAlchemy finds in the database."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster.data.sql_types import sql_type
from pipedag_dagster_tests.helpers import Connection

NAMES = [
    *("smallint", "integer", "bigint", "boolean", "real", "double precision", "text", "bytea", "date", "uuid"),
    *("json", "jsonb", "interval", "numeric", "numeric(10,2)", "numeric(3,0)", "character varying"),
    *("character varying(7)", "character(3)", "integer[]", "text[]", "numeric(10,2)[]"),
    *("timestamp without time zone", "timestamp(3) without time zone", "timestamp with time zone"),
    *("timestamp(0) with time zone", "time without time zone", "time(2) without time zone", "time with time zone"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_type_is_the_one_that_sqlalchemy_reflects(name: str, connection: Connection, database_url: sa.URL) -> None:
    connection.execute(psycopg.sql.SQL(f"CREATE TABLE t (x {name})"))  # type: ignore[arg-type]
    (printed,) = connection.execute(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum = 1"
    ).fetchone() or ("",)
    engine = sa.create_engine(database_url.set(drivername="postgresql+psycopg"))
    try:
        reflected = sa.Table("t", sa.MetaData(), autoload_with=engine).c.x.type
    finally:
        engine.dispose()
    made = sql_type(printed)
    assert (type(made), repr(made)) == (type(reflected), repr(reflected))


@pytest.mark.parametrize("name", ["mood", '"Mood"', "other.mood", "interval day", "character", "bit(3)", "numeric(3"])
def test_other_types_are_left_to_sqlalchemy(name: str) -> None:
    assert sql_type(name) is None
