"""SQL of users: one statement for a query, which writes to nothing, and whose names fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, StageLockContext, View, materialize
from pipedag_dagster.checks import check
from pipedag_dagster.errors import UnstorableResult

LONG = "revenue_of_all_customers_in_the_region_in_the_last_fiscal_year_before_tax"


@pytest.fixture
def full(instances: Callable[..., PipedagConfig]) -> ConfigContext:
    return instances().get("full")


@pytest.fixture
def connection(database_url: sa.URL) -> psycopg.Connection[Any]:
    """Somebody else's connection."""
    return psycopg.connect(database_url.render_as_string(hide_password=False), autocommit=True)


def run(full: ConfigContext, result: Any, **options: Any) -> Any:
    @materialize(lazy=True, input_type=sa.Table, outputs=["out"], **options)
    def out() -> Any:
        return result

    with Flow("shop") as flow, Stage("report"):
        out()
    return flow.run(config=full, fail_fast=True)


AS_TABLE_OR_VIEW = pytest.mark.parametrize(
    "returned", [lambda text: sa.text(text), lambda text: View(sa.text(text))], ids=["table", "view"]
)


@AS_TABLE_OR_VIEW
def test_a_query_is_one_statement(
    full: ConfigContext, connection: psycopg.Connection[Any], returned: Callable[[str], Any]
) -> None:
    connection.execute("CREATE TABLE precious AS SELECT 1 AS x")
    with pytest.raises(UnstorableResult, match=r"several statements.*Return RawSql"):
        run(full, returned("SELECT 1 AS x; COMMIT; DROP TABLE precious"))
    assert connection.execute("SELECT x FROM precious").fetchall() == [(1,)]


def test_a_query_that_writes_to_a_table_is_refused(full: ConfigContext, connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE TABLE calls (x int)")
    connection.execute(
        "CREATE FUNCTION counted() RETURNS int LANGUAGE sql AS 'INSERT INTO calls VALUES (1) RETURNING x'"
    )
    with pytest.raises(UnstorableResult, match=r'writes to "public"\."calls"'):
        run(full, sa.text("SELECT counted() AS x"))
    assert connection.execute("SELECT count(*) FROM calls").fetchone() == (0,)


@AS_TABLE_OR_VIEW
def test_a_name_that_postgresql_would_cut_is_refused(full: ConfigContext, returned: Callable[[str], Any]) -> None:
    with pytest.raises(UnstorableResult, match=f'"{LONG}".*allows 63 bytes.*Shorten it'):
        run(full, returned(f"SELECT 1 AS {LONG}"))


def test_names_are_looked_at_whatever_the_role_says_about_notices(
    full: ConfigContext, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("ALTER ROLE CURRENT_USER SET client_min_messages = error")
    try:
        with pytest.raises(UnstorableResult, match="Shorten it"):
            run(full, sa.text(f"SELECT 1 AS {LONG}"))
    finally:
        connection.execute("ALTER ROLE CURRENT_USER RESET client_min_messages")


def test_a_check_is_one_statement(full: ConfigContext, connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE TABLE precious AS SELECT 1 AS x")

    @check
    def hostile(table: Any) -> Any:
        return sa.text("SELECT 1) AS q) AS b; COMMIT; DROP TABLE precious; SELECT * FROM (SELECT 1 FROM (SELECT 1")

    result = run(full, sa.text("SELECT 1 AS x"), checks=[hostile])
    assert [checked.passed for checked in result.checks] == [False]
    assert connection.execute("SELECT x FROM precious").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("before", "after", "reruns"), [(" ORDER BY x", " ORDER BY x DESC", True), ("", " OFFSET 0", False)]
)
def test_the_order_of_rows_counts_when_the_query_has_an_order(
    full: ConfigContext, before: str, after: str, reruns: bool
) -> None:
    seen: list[list[int]] = []

    def flow_of(order: str) -> Flow:
        @materialize(lazy=True)
        def numbers() -> Any:
            return sa.text(f"SELECT x FROM generate_series(1, 3) AS x{order}")

        @materialize(input_type=pd.DataFrame, version="1")
        def take(numbers: pd.DataFrame) -> pd.DataFrame:
            seen.append(numbers["x"].tolist())
            return numbers

        with Flow("shop") as flow, Stage("report"):
            take(numbers())
        return flow

    flow_of(before).run(config=full, fail_fast=True)
    flow_of(after).run(config=full, fail_fast=True)
    assert seen == ([[1, 2, 3], [3, 2, 1]] if reruns else [[1, 2, 3]])


def test_inputs_of_one_name_can_be_joined(full: ConfigContext) -> None:
    def orders_of(amount: int) -> Any:
        @materialize(version="1", outputs=["orders"])
        def orders() -> pd.DataFrame:
            return pd.DataFrame({"id": [1], "amount": [amount]})

        return orders

    texts: list[str] = []

    @materialize(lazy=True, input_type=sa.Table)
    def joined(raw: Any, clean: Any, again: Any) -> Any:
        query = sa.select(raw.c.amount.label("a"), clean.c.amount.label("b"), again.c.amount.label("c"))
        query = query.select_from(raw.join(clean, raw.c.id == clean.c.id).join(again, raw.c.id == again.c.id))
        texts.append(f"{raw.name} {clean.name} {again.name}")
        return query

    with Flow("shop") as flow:
        with Stage("raw"):
            raw = orders_of(1)()
        with Stage("clean"):
            clean = orders_of(2)()
        with Stage("report"):
            out = joined(raw, clean, raw)
    with StageLockContext():
        assert flow.run(config=full, fail_fast=True).get(out).to_numpy().tolist() == [[1, 2, 1]]
    flow.run(config=full, fail_fast=True)
    assert set(texts) == {"orders orders_2 orders_3"}, "the names are the same in each run"
