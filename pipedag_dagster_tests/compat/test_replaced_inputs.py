"""`flow.run(inputs=…)`: tables of the database take the place of outputs for one run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    ConfigContext,
    ExternalTableReference,
    FinalTaskState,
    Flow,
    PipedagConfig,
    Stage,
    Table,
    materialize,
)
from pipedag_dagster.errors import NotMaterialized, WiringError
from pipedag_dagster_tests.helpers import Query

ORDERS = ExternalTableReference("orders", "crm")


@pytest.fixture
def full(config: PipedagConfig, query: Query) -> Iterator[ConfigContext]:
    """The instance full, as the current one, in a database where somebody else has a table of orders."""
    query("CREATE SCHEMA crm; CREATE TABLE crm.orders AS SELECT 7::bigint AS x")
    with config.get("full").evolve(fail_fast=True) as instance:
        yield instance


@materialize(version="1")
def load() -> Any:
    return Table(pd.DataFrame({"x": [1]}))


@materialize(version="1", nout=2)
def load_two() -> Any:
    return Table(pd.DataFrame({"x": [1]})), Table(pd.DataFrame({"x": [2]}))


@materialize(version="1", input_type=pd.DataFrame)
def doubled(frame: pd.DataFrame) -> Any:
    return Table(frame * 2)


@materialize(lazy=True, input_type=sa.Table)
def summed(table: Any) -> Any:
    return sa.select(sa.func.sum(table.c.x).label("x"))


@materialize(version="1", input_type=pd.DataFrame)
def all_rows(frames: Any) -> Any:
    return Table(pd.concat(frames))


@pytest.fixture
def flow() -> Flow:
    with Flow("shop") as flow:
        with Stage("raw"):
            orders = load()
        with Stage("report"):
            doubled(orders)
            summed(orders)
    return flow


def numbers(flow: Flow, task: str, **options: Any) -> list[int]:
    """The column x of what a task of the report has made in a run."""
    return list(flow.run(**options).get(flow["report"][task])["x"])


@pytest.mark.parametrize("key", ["output", "name", "call"])
def test_tasks_get_the_table_in_place_of_the_output(full: ConfigContext, flow: Flow, key: str) -> None:
    output = flow["raw"]["load"]
    result = flow.run(inputs={{"output": output, "name": "raw.load", "call": output.call}[key]: ORDERS})
    assert list(result.get("report.doubled")["x"]) == [14]
    assert list(result.get("report.summed")["x"]) == [7]
    assert list(result.get("raw.load")["x"]) == [1]


def test_a_run_through_dagster_gets_the_table_too(
    full: ConfigContext, flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert numbers(flow, "doubled", inputs={"raw.load": ORDERS}) == [14]


def test_a_reference_may_be_wrapped_in_a_table(full: ConfigContext, flow: Flow) -> None:
    assert numbers(flow, "doubled", inputs={"raw.load": Table(ORDERS)}) == [14]


def test_a_stage_runs_alone_when_its_inputs_are_given(full: ConfigContext, flow: Flow) -> None:
    result = flow.run("report", inputs={"raw.load": ORDERS})
    assert list(result.get("report.doubled")["x"]) == [14]
    assert result.task_states[flow["raw"]["load"]] is FinalTaskState.UNKNOWN


@pytest.mark.parametrize("task", ["doubled", "summed"])
def test_the_result_is_never_taken_for_that_of_a_usual_run(full: ConfigContext, flow: Flow, task: str) -> None:
    usual = numbers(flow, task)
    assert numbers(flow, task, inputs={"raw.load": ORDERS}) != usual
    assert numbers(flow, task) == usual


def test_a_usual_run_between_two_is_found_in_the_cache(full: ConfigContext, flow: Flow) -> None:
    flow.run()
    flow.run(inputs={"raw.load": ORDERS})
    assert flow.run().task_states[flow["report"]["doubled"]] is FinalTaskState.CACHE_VALID


@pytest.mark.parametrize("task", ["doubled", "summed"])
def test_other_rows_of_the_table_run_the_task_again(full: ConfigContext, flow: Flow, query: Query, task: str) -> None:
    before = numbers(flow, task, inputs={"raw.load": ORDERS})
    query("UPDATE crm.orders SET x = 8")
    assert numbers(flow, task, inputs={"raw.load": ORDERS}) != before


def test_the_same_rows_run_nothing(full: ConfigContext, flow: Flow) -> None:
    flow.run(inputs={"raw.load": ORDERS})
    states = flow.run(inputs={"raw.load": ORDERS}).task_states
    assert {states[call] for stage in flow.stages for call in stage.calls} == {FinalTaskState.CACHE_VALID}


def test_other_columns_run_the_task_again(full: ConfigContext, flow: Flow, query: Query) -> None:
    flow.run(inputs={"raw.load": ORDERS})
    query("ALTER TABLE crm.orders RENAME x TO y")
    result = flow.run("report.doubled", inputs={"raw.load": ORDERS})
    assert list(result.get("report.doubled").columns) == ["y"]


def test_the_table_needs_no_cache_function(full: ConfigContext, caplog: pytest.LogCaptureFixture) -> None:
    with Flow() as flow, Stage("report"):
        doubled(load())
    with caplog.at_level(logging.WARNING):
        flow.run(inputs={"report.load": ORDERS})
    assert "will not be noticed" not in caplog.text


def test_one_of_several_outputs_is_replaced(full: ConfigContext) -> None:
    with Flow() as flow, Stage("report"):
        _, second = load_two()
        everything = all_rows([*load_two(), second])
    assert sorted(flow.run(inputs={second: ORDERS}).get(everything)["x"]) == [1, 2, 7]


def test_a_task_stands_for_all_its_outputs(full: ConfigContext) -> None:
    with Flow() as flow, Stage("report"):
        both = load_two()
        everything = all_rows([*both])
    assert sorted(flow.run(inputs={both: ORDERS}).get(everything)["x"]) == [7, 7]


def test_the_part_of_an_output_that_is_taken_as_a_whole_is_refused(full: ConfigContext) -> None:
    with Flow() as flow, Stage("report"):
        both = load_two()
        all_rows(both)
    with pytest.raises(WiringError, match=r"report.all_rows takes report.load_two as a whole"):
        flow.run(inputs={both[1]: ORDERS})


def test_a_table_that_does_not_exist_is_named(full: ConfigContext, flow: Flow) -> None:
    with pytest.raises(NotMaterialized, match=r'"crm"\."missing" does not exist'):
        flow.run(inputs={"raw.load": ExternalTableReference("missing", "crm")})


def test_an_output_of_another_flow_is_refused(full: ConfigContext, flow: Flow) -> None:
    with Flow("other") as other, Stage("raw"):
        load()
    with pytest.raises(WiringError, match="is not an output of flow 'shop'"):
        flow.run(inputs={other["raw"]["load"]: ORDERS})


def test_a_value_is_refused(full: ConfigContext, flow: Flow) -> None:
    with pytest.raises(WiringError, match="an object of the class DataFrame"):
        flow.run(inputs={"raw.load": pd.DataFrame({"x": [1]})})  # type: ignore[dict-item]


def test_an_output_that_nobody_takes_is_noted(
    full: ConfigContext, flow: Flow, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        flow.run(inputs={"report.doubled": ORDERS})
    assert "no task of the flow takes report.doubled" in caplog.text
