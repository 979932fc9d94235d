"""Which rare rows a sample has: those with the lowest hashes, as a plain search of all rows finds them."""

from __future__ import annotations

import itertools
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.sampling.edge_cases import edge_case_handles
from pipedag_dagster.sampling.profile import FirstLook, rare_rows
from pipedag_dagster.sampling.rules import EdgeCases, Relation, SampleSpec
from pipedag_dagster.sampling.selection import SETTINGS
from pipedag_dagster.sampling.source_tables import Connection, SourceTable
from pipedag_dagster_tests.helpers.profiles import Remembered

CASES = 5_000 if os.environ.get("PIPEDAG_TORTURE") == "long" else 60
NAME = "raw.things"
COLUMNS = {
    "id": "integer",
    "category": "text",
    "amount": "numeric",
    "day": "date",
    "mood": "mood",
    "document": "json",
    "tags": "integer[]",
    "flag": "boolean",
}
ROOM = "room text DEFAULT repeat('x', 1500)"
"""Makes rows long, so that a few of them fill several pages."""


@pytest.fixture(scope="module")
def connection(server_url: sa.URL) -> Iterator[Connection]:
    with psycopg.connect(server_url.render_as_string(hide_password=False)) as connection:
        connection.execute("CREATE SCHEMA edge_cases")
        connection.execute("SET search_path = edge_cases")
        connection.execute("CREATE TYPE mood AS ENUM ('happy', 'sad', 'neither')")
        yield connection
        connection.rollback()


_numbers = itertools.count()


def create(
    connection: Connection, columns: dict[str, str], rows: list[Any], primary_key: str = "", name: str = NAME
) -> SourceTable:
    physical = f"table_{next(_numbers)}"
    body = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
    key = f", PRIMARY KEY ({primary_key})" if primary_key else ""
    connection.execute(f"CREATE TABLE {physical} ({body}, {ROOM}{key})".encode())
    connection.execute(f"ALTER TABLE {physical} ALTER room SET STORAGE PLAIN".encode())
    names, marks = ", ".join(f'"{column}"' for column in columns), ", ".join(["%s"] * len(columns))
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {physical} ({names}) VALUES ({marks})".encode(), rows)
    listed = tuple(Column(column, kind) for column, kind in columns.items())
    return SourceTable(name, "edge_cases", physical, listed, (primary_key,) if primary_key else ())


def hashes(connection: Connection, table: SourceTable) -> list[str]:
    """The handles of all rows, lowest hash first."""
    query = f"SELECT ctid::text FROM {table.sql} AS t ORDER BY {table.row_hash('t', 0)}, ctid"
    return [handle for (handle,) in connection.execute(query.encode())]


def content(connection: Connection, table: SourceTable, handles: list[str]) -> Counter[str]:
    """The texts of rows."""
    query = f"SELECT (SELECT t::text FROM {table.sql} AS t WHERE ctid = handle) FROM unnest(%s::tid[]) AS handle"
    return Counter(text for (text,) in connection.execute(query.encode(), (handles,)))


Found = tuple[str, str, tuple[str, ...]]


def search(connection: Connection, table: SourceTable, values: int, depth: int) -> set[Found]:
    """What `rare_rows` should find: feature, column and handles."""
    texts = ", ".join(
        f'"{name}"::text' if kind in ("json", "integer[]") else f'"{name}"' for name, kind in COLUMNS.items()
    )
    cells = {row[0]: row[1:] for row in connection.execute(f"SELECT ctid::text, {texts} FROM {table.sql}".encode())}
    order = hashes(connection, table)
    found: set[Found] = set()

    def add(feature: str, column: str, matches: Callable[[Any], bool]) -> None:
        at = list(COLUMNS).index(column)
        handles = tuple(handle for handle in order if matches(cells[handle][at]))[:depth]
        if handles:
            found.add((feature, column, handles))

    for at, column in enumerate(COLUMNS):
        given = {row[at] for row in cells.values()} - {None}
        add("NULL", column, lambda value: value is None)
        for value in given if len(given) <= values else ():
            add("value", column, lambda other, value=value: other == value)  # type: ignore[misc]
        if given and column in ("id", "amount", "day"):
            low, high = min(given), max(given)
            add("smallest", column, partial(operator.eq, low))
            add("largest", column, partial(operator.eq, high))
        if given and column == "category":
            longest = max(map(len, given))
            add("longest", column, lambda value, longest=longest: value is not None and len(value) == longest)  # type: ignore[misc]
            add("empty", column, lambda value: value == "")
    return found


def optional(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from([None, *values])


ROW = st.tuples(
    optional(["", "a", "b", "bb", "ccc", "ddd", "e|'\\"]),
    optional([Decimal(text) for text in ("0", "0.0", "1.5", "-3", "Infinity", "7", "8")]),
    optional([date(2020, 1, day) for day in range(1, 6)]),
    optional(["happy", "sad", "neither"]),
    optional(['{"a": 1}', "[]", "null"]),
    optional([[1], [1, 2], []]),
    optional([True, False]),
)


@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    rows=st.lists(ROW, max_size=40),
    alike=st.integers(0, 30),
    keyed=st.booleans(),
    values=st.integers(0, 5),
    depth=st.integers(1, 3),
    look=st.sampled_from([FirstLook(), FirstLook(2, -4), FirstLook(3, -2), FirstLook(1, 100)]),
)
def test_a_plain_search_of_all_rows_finds_the_same(
    connection: Connection, rows: list[Any], alike: int, keyed: bool, values: int, depth: int, look: FirstLook
) -> None:
    rows = rows + rows[:1] * alike
    with connection.transaction(force_rollback=True):
        connection.execute(SETTINGS)
        numbered = [(number if keyed else number % 5, *row) for number, row in enumerate(rows)]
        table = create(connection, COLUMNS, numbered, "id" if keyed else "")
        kept = Remembered()
        rare = rare_rows(connection, table, 0, kept, values=values, depth=depth, first_look=look)
        found = {(one.feature, one.column, one.handles[:depth]) for one in rare}
        assert found == search(connection, table, values, depth)


ALL = EdgeCases(per_value=2, values=50, nulls=2, extremes=2, orphans=2)
FLIGHTS = [(number, f"carrier {number % 7}", None if number % 50 == 0 else number % 300) for number in range(2000)]
FLIGHT = {"id": "integer", "carrier": "text", "plane": "integer"}
RELATION = Relation("raw.flights", ("plane",), "raw.planes", ("number",))


def chosen(connection: Connection, flights: list[Any], wanted: EdgeCases) -> Counter[str]:
    """The rows of flights that are edge cases; planes from 250 on do not exist."""
    planes = create(connection, {"number": "integer"}, [(number,) for number in range(250)], name="raw.planes")
    table = create(connection, FLIGHT, flights, "id", "raw.flights")
    spec = SampleSpec(relations=(RELATION,), edge_cases=wanted)
    cases = edge_case_handles(connection, table, {RELATION: planes}, spec, Remembered())
    return content(connection, table, sorted({case.handle for case in cases}))


@pytest.fixture
def transaction(connection: Connection) -> Iterator[Connection]:
    with connection.transaction(force_rollback=True):
        connection.execute(SETTINGS)
        yield connection


def test_the_order_of_the_rows_makes_no_difference(transaction: Connection) -> None:
    rows = chosen(transaction, FLIGHTS, ALL)
    assert rows == chosen(transaction, FLIGHTS[::-1], ALL)
    assert len(rows) > 15


@pytest.mark.parametrize("name", ["per_value", "nulls", "extremes", "orphans"])
def test_more_of_a_kind_contains_fewer(transaction: Connection, name: str) -> None:
    few, many = (chosen(transaction, FLIGHTS, EdgeCases(**{name: count})) for count in (1, 9))
    assert few < many or (name == "extremes" and few <= many)


def test_more_values_contain_fewer(transaction: Connection) -> None:
    few, many = (chosen(transaction, FLIGHTS, EdgeCases(per_value=1, values=values)) for values in (6, 7))
    assert sum(few.values()) == 0
    assert sum(many.values()) == 7


def test_orphans_are_rows_that_refer_to_no_row(transaction: Connection) -> None:
    rows = chosen(transaction, FLIGHTS, EdgeCases(orphans=5))
    assert len(rows) == 5
    assert all(int(row.split(",")[2]) >= 250 for row in rows)


def test_two_rows_of_a_key_that_is_not_unique(transaction: Connection) -> None:
    columns = {"number": "integer", "name": "text"}
    rows = [(number, "x") for number in range(30)] + [(7, "y"), (7, "z"), (9, "y"), (None, "a"), (None, "b")]
    planes = create(transaction, columns, rows, name="raw.planes")
    spec = SampleSpec(relations=(RELATION,), edge_cases=EdgeCases(extremes=1))
    cases = edge_case_handles(transaction, planes, {RELATION: planes}, spec, Remembered())
    doubled = [case.handle for case in cases if case.reason == "has the (number) of another row"]
    numbers = [row.strip("(").split(",")[0] for row in content(transaction, planes, doubled)]
    assert len(numbers) == 2
    assert numbers[0] == numbers[1]
    assert numbers[0] in ("7", "9")


TYPES = {
    "jsonb": '{"a": 1}',
    "json": '{"a": 1}',
    "json[]": "{}",
    "point": "(1,2)",
    "path": "((1,2),(3,4))",
    "int4range": "[1,5)",
    "int4multirange": "{[1,5)}",
    "tsvector": "a b",
    "bit(3)": "101",
    "money": "1.50",
    "bytea": "\\x00ff",
    "uuid": "6ecd8c99-4036-403d-bf84-cf8400f67836",
    "inet": "10.0.0.1",
    "cidr": "10.0.0.0/8",
    "interval": "1 month",
    "timestamptz": "infinity",
    "timetz": "10:00+02",
    "real": "NaN",
    '"char"': "c",
    "character(5)": "ab",
    "varchar(20)": "it's",
    "name": "n",
    "oid": "7",
    "regclass": "pg_class",
    "xid": "7",
    "mood": "sad",
    "mood[]": "{sad,happy}",
    "text[]": "{a,b}",
    "moody": "sad",
    "pair": "(1,{})",
    "positive": "3",
    "many": "{1,2}",
}


@pytest.mark.parametrize("look", [FirstLook(), FirstLook(1, -5)], ids=["looked at whole", "looked at in part"])
def test_every_type_is_searched(transaction: Connection, look: FirstLook) -> None:
    for statement in (
        "CREATE DOMAIN moody AS mood",
        "CREATE TYPE pair AS (a int, b json)",
        "CREATE DOMAIN positive AS bigint CHECK (VALUE > 0)",
        "CREATE DOMAIN many AS integer[]",
    ):
        transaction.execute(statement.encode())
    columns = {f"column {at}": kind for at, kind in enumerate(TYPES)}
    rows = [tuple(TYPES.values())] * 12 + [(None,) * len(TYPES)] * 2
    table = create(transaction, columns, rows)
    rare = rare_rows(transaction, table, 0, Remembered(), values=50, depth=1, first_look=look)
    for feature in ("value", "NULL"):
        assert [one.column for one in rare if one.feature == feature] == list(columns)
    ordered = {columns[one.column] for one in rare if one.feature == "smallest"}
    assert ordered == {"money", "interval", "timestamptz", "timetz", "real", "oid", "positive"}
    texts = {columns[one.column] for one in rare if one.feature == "longest"}
    assert {"character(5)", "varchar(20)", "name"} <= texts <= {"character(5)", "varchar(20)", "name", '"char"'}


def test_one_scan_of_the_table_and_none_the_second_time(transaction: Connection) -> None:
    columns = {f"c{at}": "integer" for at in range(40)}
    table = create(transaction, columns, [tuple(range(at, at + 40)) for at in range(300)])
    kept = Remembered()
    scans = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relid = %s::regclass"
    before = transaction.execute(scans, (table.sql,)).fetchone()
    spec = SampleSpec(edge_cases=ALL)
    first = edge_case_handles(transaction, table, {}, spec, kept)
    assert transaction.execute(scans, (table.sql,)).fetchone() == (before[0] + 2 if before else 2,)
    closed = psycopg.connect(transaction.info.dsn, password=transaction.info.password)
    closed.close()
    assert edge_case_handles(closed, table, {}, spec, kept) == first


def test_a_table_may_have_very_many_columns(transaction: Connection) -> None:
    columns = {f"c{at}": "integer" for at in range(1200)}
    table = create(transaction, columns, [(1,) * 1200])
    rare = rare_rows(transaction, table, 0, Remembered(), values=5, depth=1)
    assert len(rare) == 3 * 1200
