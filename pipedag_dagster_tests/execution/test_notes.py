"""A run says what a result depends on, where nobody will notice its change."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, Stage, materialize, table_content
from pipedag_dagster_tests.helpers import Connection, Instances


@pytest.fixture
def full(instances: Instances) -> ConfigContext:
    return instances().get("full")


def notes(full: ConfigContext, query: str, **options: Any) -> list[str]:
    """What is kept of a task with this query."""

    @materialize(lazy=True, **options)
    def late() -> Any:
        return sa.text(query)

    with Flow("shop") as flow, Stage("report"):
        late()
    ((_, table),) = flow.run(full, fail_fast=True).tables
    return list(table.parts.get("notes", []))


@pytest.mark.parametrize(
    ("query", "function"),
    [
        ("SELECT now() AS at", "now()"),
        ("SELECT current_date AS at", "current_date"),
        ("SELECT 1 AS a WHERE random() < 2", "random()"),
        ("SELECT clock_timestamp() AS at", "clock_timestamp()"),
        ("SELECT x FROM (SELECT statement_timestamp() AS x) AS t", "statement_timestamp()"),
        ("SELECT public.tax(1) AS a", "public.tax()"),
    ],
)
def test_a_function_whose_result_changes_by_itself_is_told(
    full: ConfigContext, connection: Connection, query: str, function: str
) -> None:
    connection.execute("CREATE FUNCTION public.tax(x int) RETURNS int LANGUAGE sql IMMUTABLE RETURN x")
    (note,) = notes(full, query)
    assert note.startswith(f"report.late uses {function}: its result may change by itself")


def test_a_table_that_is_not_an_input_is_told(full: ConfigContext, connection: Connection) -> None:
    connection.execute("CREATE TABLE public.people (id int)")
    (note,) = notes(full, "SELECT id FROM public.people")
    assert "report.late reads public.people, which is not an input of the task" in note
    assert '@materialize(cache=table_content("public.people"))' in note


@pytest.mark.parametrize(
    "query", ["SELECT sum(a) + abs(1) AS s, 'now()' AS t FROM (VALUES (1)) AS v (a)", "SELECT 1 AS a"]
)
def test_nothing_is_told_of_a_query_that_always_gives_the_same(full: ConfigContext, query: str) -> None:
    assert notes(full, query) == []


def test_nothing_is_told_of_a_task_with_a_cache_function(full: ConfigContext, connection: Connection) -> None:
    connection.execute("CREATE TABLE public.people (id int)")
    assert notes(full, "SELECT id FROM public.people", cache=table_content("public.people")) == []


@pytest.mark.parametrize(
    ("order", "sorts", "told"), [("", False, True), (" ORDER BY a", False, False), ("", True, False)]
)
def test_rows_that_are_taken_by_position_need_an_order(
    full: ConfigContext, order: str, sorts: bool, told: bool
) -> None:
    @materialize(lazy=True)
    def numbers() -> Any:
        return sa.text(f"SELECT a FROM (VALUES (2), (1)) AS t (a){order}")

    @materialize(input_type=pd.DataFrame)
    def first(numbers: pd.DataFrame) -> pd.DataFrame:
        return numbers.head(1)

    @materialize(input_type=pd.DataFrame)
    def smallest(numbers: pd.DataFrame) -> pd.DataFrame:
        return numbers.sort_values("a").head(1)

    with Flow("shop") as flow, Stage("report"):
        (smallest if sorts else first)(numbers())
    tables = [table for _, table in flow.run(full, fail_fast=True).tables]
    found = [note for table in tables for note in table.parts.get("notes", [])]
    assert [
        "uses .head, which depends on the order of rows, but report.numbers has none" in note for note in found
    ] == [True] * told
