"""Comparing two tables in the database: columns, rows, keys and values."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.comparing.compare_tables import compare
from pipedag_dagster.comparing.relation import Relation
from pipedag_dagster.comparing.table_diff import ColumnDiff, Status, TableDiff, ValueDiff
from pipedag_dagster.errors import NotComparable
from pipedag_dagster_tests.helpers import Connection

_COLUMNS = """
    SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum
"""


def relation(connection: Connection, table: str, key: str) -> Relation:
    columns = tuple(Column(name, kind) for name, kind in connection.execute(_COLUMNS, [table]).fetchall())
    (rows,) = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() or (0,)
    return Relation(f'"public"."{table}"', columns, rows, tuple(key.split()))


@pytest.fixture
def differs(connection: Connection) -> Any:
    """`differs("SELECT …", "SELECT …")`: what differs between two tables that these queries make."""

    def run(left: str, right: str, primary: str = "", primary_right: str | None = None, **options: Any) -> TableDiff:
        connection.execute(f"CREATE TABLE left_side AS {left}".encode())
        connection.execute(f"CREATE TABLE right_side AS {right}".encode())
        connection.execute("SET search_path = public, pg_catalog")
        sides = (
            relation(connection, "left_side", primary),
            relation(connection, "right_side", primary if primary_right is None else primary_right),
        )
        return compare(connection, "raw.t", *sides, **options)

    return run


def values(*rows: str, names: str = "id, amount") -> str:
    return f"SELECT * FROM (VALUES {', '.join(rows)}) AS t ({names})"


def test_equal_tables_are_equal_in_whatever_order(differs: Any) -> None:
    found = differs(values("(1, 'a')", "(2, 'b')"), values("(2, 'b')", "(1, 'a')"), "id")
    assert (found.status, found.both, found.only_left, found.only_right, found.changed) == (Status.equal, 2, 0, 0, 0)
    assert (found.values, found.columns, found.note) == ((), (), "")


def test_rows_with_the_same_key_are_compared_column_by_column(differs: Any) -> None:
    left = values("(1, 5, 'x')", "(2, 7, 'x')", "(3, 9, NULL)", names="id, amount, note")
    right = values("(1, 5, 'x')", "(2, 70, 'y')", "(4, 9, 'z')", names="id, amount, note")
    found = differs(left, right, "id")
    assert (found.status, found.key) == (Status.different, ("id",))
    assert (found.left_rows, found.right_rows) == (3, 3)
    assert (found.both, found.only_left, found.only_right, found.changed) == (2, 1, 1, 1)
    assert found.values == (ValueDiff("amount", 1, ("2",), "7", "70"), ValueDiff("note", 1, ("2",), "x", "y"))
    assert (found.left_examples, found.right_examples) == (({"id": "3"},), ({"id": "4"},))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("NULL::int", "0"),
        ("NULL::text", "''"),
        ("1.0::numeric", "1.00::numeric"),
        ("'1 month'::interval", "'30 days'::interval"),
        ("'0'::float8", "'-0'::float8"),
        ("1::bigint", "4294967297::bigint"),
        ("'{\"a\": 1}'::json", "'{\"a\":1}'::json"),
        ("'a'::char(3)", "'b'::char(3)"),
        ("ARRAY[1, NULL]", "ARRAY[1, 2]"),
        ("'a'::text", "'A'::text"),
    ],
)
def test_values_are_compared_by_identity(differs: Any, left: str, right: str) -> None:
    found = differs(f"SELECT 1 AS id, {left} AS v", f"SELECT 1 AS id, {right} AS v", "id")
    assert [value.column for value in found.values] == ["v"]


@pytest.mark.parametrize("value", ["NULL::int", "'NaN'::float8", "'{\"a\": 1}'::json", "'x'::text", "ARRAY['a', NULL]"])
def test_equal_values_of_any_type_are_equal(differs: Any, value: str) -> None:
    query = f"SELECT 1 AS id, {value} AS v"
    assert differs(query, query, "id").status is Status.equal


def test_columns_that_come_go_or_change_their_type_are_named(differs: Any) -> None:
    found = differs("SELECT 1 AS id, 2::int AS a, 3 AS old", "SELECT 1 AS id, 2::bigint AS a, 'x' AS new", "id")
    assert found.columns == (
        ColumnDiff("a", "integer", "bigint"),
        ColumnDiff("old", "integer", None),
        ColumnDiff("new", None, "text"),
    )
    assert (found.status, found.values) == (Status.different, ())


def test_where_types_differ_numbers_are_compared_by_value_and_the_rest_as_text(differs: Any) -> None:
    found = differs(
        "SELECT 1 AS id, 2::int AS same, '2024-01-01'::date AS day",
        "SELECT 1 AS id, 2.0 AS same, '2024-01-02' AS day",
        "id",
    )
    assert [value.column for value in found.values] == ["day"]


@pytest.mark.parametrize(
    ("left", "right"), [("1::int", "1::bigint"), ("1.0::numeric", "1.00::numeric"), ("1", "'1'::text")]
)
def test_keys_are_matched_by_equality(differs: Any, left: str, right: str) -> None:
    found = differs(f"SELECT {left} AS id", f"SELECT {right} AS id", "id")
    assert (found.both, found.only_left, found.only_right) == (1, 0, 0)


def test_a_key_of_several_columns_may_hold_null(differs: Any) -> None:
    left = values("(1, NULL, 5)", "(1, 'a', 6)", "(NULL, 'a', 7)", names="a, b, v")
    right = values("(1, NULL, 5)", "(1, '', 6)", "(NULL, 'a', 8)", names="a, b, v")
    found = differs(left, right, key=["a", "b"])
    assert (found.both, found.only_left, found.only_right, found.changed) == (2, 1, 1, 1)
    assert found.left_examples == ({"a": "1", "b": "a"},)
    assert found.values == (ValueDiff("v", 1, (None, "a"), "7", "8"),)


def test_the_key_of_one_side_is_enough_where_it_is_unique_on_the_other(differs: Any) -> None:
    assert differs(values("(1, 5)"), values("(1, 6)"), "", "id").key == ("id",)


def test_a_key_that_is_not_unique_on_the_other_side_is_not_used(differs: Any) -> None:
    found = differs(values("(1, 5)"), values("(1, 6)", "(1, 7)"), "id", "")
    assert (found.key, found.only_left, found.only_right) == ((), 1, 2)


def test_without_a_key_whole_rows_are_counted(differs: Any) -> None:
    left = values("(1, 5)", "(1, 5)", "(2, NULL)")
    right = values("(1, 5)", "(2, NULL)", "(3, 1)")
    found = differs(left, right)
    assert (found.both, found.only_left, found.only_right, found.changed) == (2, 1, 1, None)
    assert (found.left_examples, found.right_examples) == (
        ({"id": "1", "amount": "5"},),
        ({"id": "3", "amount": "1"},),
    )
    assert "No key is known" in found.note


def test_without_examples_no_data_is_shown(differs: Any) -> None:
    found = differs(values("(1, 5)", "(2, 1)"), values("(1, 6)", "(3, 1)"), "id", examples=0)
    assert found.values == (ValueDiff("amount", 1, (), None, None),)
    assert (found.left_examples, found.right_examples) == ((), ())


def test_an_unknown_column_of_the_key_gets_a_close_name(differs: Any) -> None:
    with pytest.raises(NotComparable, match=r"no column 'amont'\. Did you mean 'amount'"):
        differs(values("(1, 5)"), values("(1, 6)"), key=["amont"])


def test_a_wanted_key_that_is_not_unique_is_refused_with_an_example(differs: Any) -> None:
    with pytest.raises(NotComparable, match=r"not unique in raw\.t of the right side.*amount=5"):
        differs(values("(1, 5)"), values("(1, 5)", "(2, 5)"), key=["amount"])


def test_empty_tables_and_tables_without_a_common_column_are_compared(differs: Any) -> None:
    found = differs("SELECT 1 AS a WHERE false", "SELECT 1 AS b")
    assert (found.status, found.left_rows, found.right_rows, found.both) == (Status.different, 0, 1, None)


def test_many_columns_are_compared(differs: Any) -> None:
    columns = ", ".join(f"{number} AS c{number}" for number in range(450))
    found = differs(f"SELECT 1 AS id, {columns}", f"SELECT 1 AS id, {columns.replace('449 AS', '0 AS')}", "id")
    assert found.values == (ValueDiff("c449", 1, ("1",), "449", "0"),)


def test_names_with_quotes_are_compared(differs: Any) -> None:
    found = differs('SELECT 1 AS "Id", 2 AS "a""b%"', 'SELECT 1 AS "Id", 3 AS "a""b%"', "Id")
    assert found.values == (ValueDiff('a"b%', 1, ("1",), "2", "3"),)


def test_collations_do_not_decide(differs: Any, connection: Connection) -> None:
    """Two columns with other collations cannot be compared by `=`, and a nondeterministic one finds a equal to A."""
    try:
        connection.execute("CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server has no ICU")
    found = differs(
        "SELECT 'a'::text COLLATE ci AS id, 'x' AS v", "SELECT 'A'::text COLLATE \"C\" AS id, 'x' AS v", "id"
    )
    assert (found.both, found.only_left, found.only_right) == (0, 1, 1)
