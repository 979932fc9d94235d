"""Content is identity: tables have the same content hash exactly when they hold the same values."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipedag_dagster.versions.content_hash import content
from pipedag_dagster.versions.write_table import columns_of

Hash = Callable[..., str]


@pytest.fixture(scope="module")
def connection(server_url: sa.URL) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server_url.render_as_string(hide_password=False)) as connection:
        connection.execute("CREATE TYPE pg_temp.pair AS (n numeric, i interval)")
        connection.execute("CREATE DOMAIN pg_temp.price AS numeric")
        connection.execute("CREATE DOMAIN pg_temp.padded AS bpchar")
        connection.execute("CREATE TYPE pg_temp.mood AS ENUM ('sad', 'happy')")
        connection.commit()
        yield connection


@pytest.fixture
def hash_of(connection: psycopg.Connection[Any]) -> Iterator[Hash]:
    """The content hash of the rows of a query."""

    def hash_of(query: str, *, ordered: bool = False, before: str = "SELECT") -> str:
        connection.execute(b"SET LOCAL search_path = pg_catalog, pg_temp")
        try:
            connection.execute(f"CREATE TABLE pg_temp.t AS {query}".encode())
            connection.execute(before.encode())
            return content(connection, "pg_temp.t", columns_of(connection, "pg_temp.t"), ordered=ordered)
        finally:
            connection.rollback()

    return hash_of


DIFFERENT = {
    "months and days": ("interval '1 month'", "interval '30 days'"),
    "days and hours": ("interval '1 day'", "interval '24 hours'"),
    "scales": ("1.0", "1.00"),
    "scales of a declared type": ("1.0::numeric(10,1)", "1.0::numeric(10,2)"),
    "negative zero": ("0.0::float8", "'-0.0'::float8"),
    "negative zero of real": ("0.0::float4", "'-0.0'::float4"),
    "close floats": ("0.1::float8", "0.1::float8 + 1.4e-17"),
    "NaN": ("'nan'::float8", "NULL::float8"),
    "a collation": ("'a'::text", "'a' COLLATE \"C\""),
    "spaces at the end": ("'a'::bpchar", "'a '::bpchar"),
    "spaces in a domain": ("'a'::pg_temp.padded", "'a '::pg_temp.padded"),
    "spaces in an array": ("ARRAY['a'::bpchar]", "ARRAY['a '::bpchar]"),
    "json": ("'{\"a\":1}'::json", "'{\"a\": 1}'::json"),
    "numbers in jsonb": ("'[1.0]'::jsonb", "'[1.00]'::jsonb"),
    "arrays of numeric": ("ARRAY[1.0]", "ARRAY[1.00]"),
    "arrays of intervals": ("ARRAY[interval '1 day']", "ARRAY[interval '24 hours']"),
    "arrays of another shape": ("'{1,2,3,4}'::int[]", "'{{1,2},{3,4}}'::int[]"),
    "arrays with another lower bound": ("'{1,2}'::int[]", "'[0:1]={1,2}'::int[]"),
    "arrays of domains": ("ARRAY[1.0::pg_temp.price]", "ARRAY[1.00::pg_temp.price]"),
    "composite": ("ROW(1.0, NULL)::pg_temp.pair", "ROW(1.00, NULL)::pg_temp.pair"),
    "composite with an interval": ("ROW(1, '1 mon')::pg_temp.pair", "ROW(1, '30 days')::pg_temp.pair"),
    "an empty composite": ("NULL::pg_temp.pair", "ROW(NULL, NULL)::pg_temp.pair"),
    "a domain": ("1.0::pg_temp.price", "1.00::pg_temp.price"),
    "enum": ("'sad'::pg_temp.mood", "'happy'::pg_temp.mood"),
    "ranges": ("numrange(1.0, 2)", "numrange(1.00, 2)"),
    "ranges of time": ("tstzrange('2024-01-01 UTC', NULL)", "tstzrange(NULL, '2024-01-01 UTC')"),
    "multiranges": ("nummultirange(numrange(1.0, 2))", "nummultirange(numrange(1.00, 2))"),
    "times with zone": ("timetz '12:00+00'", "timetz '13:00+01'"),
    "midnight": ("time '00:00'", "time '24:00'"),
    "bigint beyond 32 bits": ("1::bigint", "4294967296::bigint"),
    "negative bigint": ("-1::bigint", "-4294967296::bigint"),
    "bigints in arrays": ("ARRAY[1::bigint]", "ARRAY[4294967296]"),
    "time stamps": ("timestamp '2000-01-01'", "timestamp '2000-01-01 01:11:34.967297'"),
    "time stamps with zone": ("timestamptz '2000-01-01 UTC'", "timestamptz '2000-01-01 01:11:34.967297 UTC'"),
    "times": ("time '00:00'", "time '01:11:34.967297'"),
    "money": ("1::money", "42949672.96::money"),
    "money and NULL": ("0::money", "NULL::money"),
    "empty text and NULL": ("''::text", "NULL::text"),
    "an empty array and NULL": ("'{}'::int[]", "NULL::int[]"),
    "networks": ("inet '10.0.0.1/8'", "inet '10.0.0.1/9'"),
    "bits": ("B'1'::varbit", "B'10'::varbit"),
    "bytes": (r"'\x00'::bytea", r"'\x0000'::bytea"),
    "types": ("1::int", "1::bigint"),
    "points": ("point(0, 1)", "point(0, 1.0000000000000002)"),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_values_that_are_not_the_same_have_different_hashes(hash_of: Hash, one: str, other: str) -> None:
    hashes = [hash_of(f"SELECT {value} AS x") for value in (one, other, one)]
    assert hashes[0] == hashes[2]
    assert hashes[0] != hashes[1]


def test_texts_that_a_collation_calls_equal_have_different_hashes(
    connection: psycopg.Connection[Any], hash_of: Hash
) -> None:
    try:
        connection.execute(
            "CREATE COLLATION IF NOT EXISTS pg_catalog.caseless "
            "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except psycopg.errors.FeatureNotSupported:
        connection.rollback()
        pytest.skip("This server has no ICU: the embedded one has none. PIPEDAG_TEST_URL names another one.")
    connection.commit()
    assert hash_of("SELECT 'a' COLLATE caseless AS x") != hash_of("SELECT 'A' COLLATE caseless AS x")


@pytest.mark.parametrize("kind", ["int", "bigint", "text", "float8", "numeric"])
def test_rows_that_swap_their_values_are_other_rows(hash_of: Hash, kind: str) -> None:
    for number in range(20):
        a, b, c, d = number, number + 1000, number + 7000, number + 9000
        rows = f"(VALUES ({a}::{kind}, {{}}::{kind}), ({c}::{kind}, {{}}::{kind})) AS v (a, b)"
        assert hash_of(f"SELECT * FROM {rows}".format(b, d)) != hash_of(f"SELECT * FROM {rows}".format(d, b))


ROWS = "SELECT i, i % 3 AS j FROM generate_series(1, 100) AS i"


def test_the_order_of_rows_counts_only_where_it_was_asked_for(hash_of: Hash) -> None:
    assert hash_of(ROWS) == hash_of(f"{ROWS} ORDER BY i DESC")
    ordered = hash_of(f"{ROWS} ORDER BY i", ordered=True)
    assert ordered == hash_of(f"{ROWS} ORDER BY i", ordered=True)
    assert ordered != hash_of(f"{ROWS} ORDER BY i DESC", ordered=True)
    assert ordered != hash_of(f"{ROWS} ORDER BY i")


def test_how_often_a_row_is_there_counts(hash_of: Hash) -> None:
    assert hash_of("VALUES (1), (1), (2)") != hash_of("VALUES (1), (2), (2)")
    assert hash_of("VALUES (1), (1)") != hash_of("SELECT 1 AS column1 WHERE false")


SETTINGS = "SET LOCAL TimeZone = 'Asia/Tokyo'; SET LOCAL DateStyle = 'German'; SET LOCAL IntervalStyle = 'iso_8601'; "
SETTINGS += "SET LOCAL extra_float_digits = -10; SET LOCAL bytea_output = 'escape'; SET LOCAL search_path = public"


def test_what_a_script_has_set_makes_no_difference(hash_of: Hash) -> None:
    query = "SELECT ROW(1, '1 mon')::pg_temp.pair, numrange(1, 2), tstzrange('2024-01-01 UTC', NULL), point(0, 0.1)"
    named = f"SELECT * FROM ({query}) AS q (a, b, c, d)"
    assert hash_of(named) == hash_of(named, before=SETTINGS)


SCALARS = "SELECT 1::bigint AS a, 'é'::text AS b, 1.50 AS c, 0.1::float8 AS d, timestamp '2024-01-31 12:00' AS e"
OTHERS = "SELECT interval '1 month' AS a, ARRAY[1.0, NULL] AS b, '{\"a\": 1}'::jsonb AS c, NULL::date AS d, true AS e"
KNOWN = {SCALARS: "070e3dd9c50ae5bc", OTHERS: "d19858384bddd7ce"}


@pytest.mark.parametrize(("query", "known"), KNOWN.items(), ids=["scalars", "others"])
def test_the_hash_is_the_same_on_every_server(hash_of: Hash, query: str, known: str) -> None:
    """Run with PIPEDAG_TEST_URL on other versions of PostgreSQL."""
    assert hash_of(query) == known


@given(st.lists(st.floats(width=64), min_size=2, max_size=2))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
def test_floats_are_the_same_when_their_bits_are(hash_of: Hash, values: list[float]) -> None:
    one, other = (hash_of(f"SELECT '{value!r}'::float8 AS x") for value in values)
    bits = [b"nan" if value != value else struct.pack("d", value) for value in values]
    assert (one == other) == (bits[0] == bits[1])
