"""Flows and runs as pydiverse.pipedag has them: parts of a flow, results, options of tasks."""

from __future__ import annotations

import datetime as dt
import enum
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    AUTO_VERSION,
    CacheValidationMode,
    ConfigContext,
    FinalTaskState,
    Flow,
    GroupNode,
    PipedagConfig,
    Stage,
    Table,
    materialize,
)
from pipedag_dagster.errors import ConfigError, NotMaterialized, TaskFailed, UnknownOption, WiringError

ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@pytest.fixture
def full(config: PipedagConfig) -> Iterator[ConfigContext]:
    """The instance full, as the current one."""
    with config.get("full").evolve(fail_fast=True) as instance:
        yield instance


@materialize(version="1")
def one() -> Any:
    ran.append("one")
    return Table(pd.DataFrame({"x": [1]}))


@materialize(input_type=pd.DataFrame, version="1")
def plus_one(frame: pd.DataFrame) -> Any:
    ran.append("plus_one")
    return Table(frame + 1)


@pytest.fixture
def flow() -> Flow:
    with Flow("shop") as flow:
        with Stage("raw"):
            first = one()
        with Stage("report"):
            plus_one(plus_one(first))
    return flow


# ---- parts of a flow -----------------------------------------------------------------------------------------


def test_a_flow_runs_without_a_configuration_in_the_default_one(
    config: PipedagConfig, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEDAG_CONFIG", str(config.path))
    assert flow.run().successful


def test_stages_and_tasks_are_found_by_name(flow: Flow) -> None:
    raw = flow["raw"]
    assert flow.get_stage("raw") is raw
    assert repr(raw["one"]) == "raw.one"
    assert repr(flow["report"]["plus_one", 1]) == "report.plus_one_2"


@pytest.mark.parametrize("name", ["rwa", "raw.oen"])
def test_an_unknown_part_is_a_key_error_that_names_a_close_one(flow: Flow, name: str) -> None:
    with pytest.raises(KeyError, match="Did you mean"):
        flow[name]


def test_a_stage_runs_alone(full: ConfigContext, flow: Flow) -> None:
    flow.run(flow["raw"])
    assert ran == ["one"]
    flow.run("report")
    assert ran == ["one", "plus_one", "plus_one"]


def test_a_task_runs_alone(full: ConfigContext, flow: Flow) -> None:
    flow.run(stages=["raw"])
    flow.run(flow["report"]["plus_one"], cache_validation_mode=CacheValidationMode.FORCE_CACHE_INVALID)
    assert ran == ["one", "plus_one"]


def test_a_subflow_has_the_chosen_tasks(full: ConfigContext, flow: Flow) -> None:
    subflow = flow.get_subflow("raw")
    assert [str(call) for call in subflow.get_tasks()] == ["raw.one"]
    assert subflow.run().successful
    assert ran == ["one"]


def test_a_part_of_another_flow_is_refused(full: ConfigContext, flow: Flow) -> None:
    with Flow() as other, Stage("raw"):
        one()
    with pytest.raises(WiringError, match="not one of its stages"):
        flow.run(other["raw"])


def test_options_without_an_effect_are_noted(full: ConfigContext, flow: Flow, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        flow.run(ignore_position_hashes=True)
    assert "ignore_position_hashes=…) has no effect" in caplog.text


def test_a_nested_stage_belongs_to_the_outer_one(full: ConfigContext) -> None:
    with Flow() as flow:
        with Stage("outer"):
            first = one()
            with Stage("inner"):
                plus_one(first)
        with Stage("other"):
            plus_one(first)
    flow.run(flow["outer"])
    assert ran == ["one", "plus_one"]


# ---- results -------------------------------------------------------------------------------------------------


def test_the_result_says_what_became_of_each_task(full: ConfigContext, flow: Flow) -> None:
    first, second = flow["raw"]["one"], flow["report"]["plus_one"]
    result = flow.run("raw")
    assert (result.task_states[first], result.task_states[second]) == (
        FinalTaskState.COMPLETED,
        FinalTaskState.UNKNOWN,
    )
    assert flow.run().task_states[first] is FinalTaskState.CACHE_VALID
    assert (result.flow, result.exception) == (flow, None)


@materialize
def failing() -> Any:
    raise ZeroDivisionError("nothing to divide by")


def test_a_failed_task_is_an_error_of_its_own_kind(full: ConfigContext) -> None:
    with Flow() as flow, Stage("raw"):
        failing()
    result = flow.run(fail_fast=False)
    assert isinstance(result.exception, TaskFailed)
    assert isinstance(result.exception, ArithmeticError)
    assert result.task_states[flow["raw"]["failing"]].is_failure()
    with pytest.raises(ArithmeticError, match="nothing to divide by"):
        flow.run()


def test_an_output_is_read_from_what_was_committed_last(full: ConfigContext, flow: Flow) -> None:
    second = flow["report"]["plus_one"]
    with pytest.raises(NotMaterialized):
        second.get_output_from_store(pd.DataFrame)
    flow.run()
    assert second.get_output_from_store(as_type=pd.DataFrame)["x"].to_list() == [2]


# ---- the instance --------------------------------------------------------------------------------------------


def test_without_a_current_instance_there_is_a_lookup_error() -> None:
    with pytest.raises(LookupError):
        ConfigContext.get()


def test_an_instance_evolves_into_one_with_other_settings(full: ConfigContext) -> None:
    other = full.evolve(
        fail_fast=False, cache_validation={"mode": "IGNORE_FRESH_INPUT"}, attrs={"x": {"y": 1}}, kroki_url="…"
    )
    assert (full.fail_fast, other.fail_fast, other.instance_name, other.attrs) == (True, False, "full", {"x": {"y": 1}})
    assert other.cache_validation.mode is CacheValidationMode.IGNORE_FRESH_INPUT
    assert other.evolve(attrs={"x": {"z": 2}}).attrs == {"x": {"y": 1, "z": 2}}


@pytest.mark.parametrize(
    ("changes", "error"), [({"instance_id": "x"}, UnknownOption), ({"cache_validation": {"mode": "x"}}, ConfigError)]
)
def test_an_instance_does_not_evolve_into_nonsense(full: ConfigContext, changes: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        full.evolve(**changes)


# ---- options of tasks ----------------------------------------------------------------------------------------


def test_a_task_may_have_another_name(full: ConfigContext) -> None:
    with Flow() as flow, Stage("raw"):
        materialize(one.fn, name="first", version="1")()
    assert len(flow.run().get("raw.first")) == 1


@pytest.mark.parametrize(("version", "runs"), [("1", 0), ("2", 1)])
def test_a_lazy_task_with_another_version_makes_its_table_again(full: ConfigContext, version: str, runs: int) -> None:
    def query() -> Any:
        return Table(sa.select(sa.literal(1).label("x")))

    for number in ("1", version):
        with Flow() as flow, Stage("raw"):
            materialize(query, lazy=True, version=number)()
        result = flow.run()
    assert sum(not run.cached for run, _ in result.tables) == runs


def test_auto_version_is_a_fingerprint_and_plans_are_compared() -> None:
    assert materialize(one.fn, version=AUTO_VERSION).version is None
    assert not materialize(one.fn, version=AUTO_VERSION).lazy
    assert materialize(plus_one.fn, input_type=pl.LazyFrame, version=AUTO_VERSION).lazy


@contextmanager
def noted() -> Iterator[None]:
    ran.append("before")
    yield
    ran.append("after")


def test_a_task_is_called_in_its_context(full: ConfigContext) -> None:
    with Flow() as flow, Stage("raw"):
        materialize(one.fn, call_context=noted)()
    flow.run()
    assert ran == ["before", "one", "after"]


@materialize(add_input_source=True, input_type=pd.DataFrame)
def named(pair: tuple[pd.DataFrame, Table]) -> Any:
    frame, source = pair
    return [source.name, len(frame), frame.attrs["name"]]


def test_an_input_comes_with_the_table_that_it_is_from(full: ConfigContext) -> None:
    with Flow() as flow, Stage("raw"):
        result = named(one())
    assert flow.run().get(result) == ["one", 1, "one"]


def noting(name: str, **options: Any) -> Any:
    def note() -> Any:
        ran.append(name)
        return name

    return materialize(note, name=name, version="1", **options)


@pytest.mark.parametrize("kind", ["task", "group"])
def test_a_barrier_runs_after_what_comes_before_and_before_what_comes_after(full: ConfigContext, kind: str) -> None:
    with Flow() as flow, Stage("raw"):
        for number in range(3):
            noting(f"before_{number}")()
        if kind == "task":
            noting("barrier", ordering_barrier=True)()
        else:
            with GroupNode("group", ordering_barrier=True):
                noting("barrier")()
        for number in range(3):
            noting(f"after_{number}")()
    flow.run()
    assert [name.partition("_")[0] for name in ran] == ["before"] * 3 + ["barrier"] + ["after"] * 3


def test_a_barrier_outside_of_a_stage_is_refused() -> None:
    with Flow(), pytest.raises(WiringError, match="outside of a stage"), GroupNode(ordering_barrier=True):
        pass


def test_calls_of_a_group_run_alone(full: ConfigContext) -> None:
    with Flow() as flow, Stage("raw"):
        one()
        with GroupNode("group") as group:
            noting("inside")()
    flow.run(group)
    assert ran == ["inside"]


@materialize
def two() -> Any:
    return Table(pd.DataFrame({"x": [1]}), "a"), Table(pd.DataFrame({"x": [5]}), "b")


@materialize
def by_key() -> Any:
    return {"a": Table(pd.DataFrame({"x": [1]})), "b": Table(pd.DataFrame({"x": [5]}))}


@pytest.mark.parametrize(("task", "key"), [(two, 1), (by_key, "b")])
def test_a_part_of_a_result_is_taken_without_a_number_of_outputs(
    full: ConfigContext, task: Any, key: int | str
) -> None:
    with Flow() as flow, Stage("raw"):
        result = plus_one(task()[key])
    assert flow.run().get(result)["x"].to_list() == [6]


# ---- values --------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


VALUES = [
    dt.date(2024, 2, 29),
    dt.datetime(2024, 2, 29, 12, 30, 1, 7),
    dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC),
    dt.time(23, 59),
    Path("some") / "file.txt",
    Decimal("1.50"),
    Colour.RED,
]


@materialize
def same(value: Any) -> Any:
    return value


@materialize
def text_of(value: Any) -> Any:
    return repr(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_an_argument_a_result_and_an_input(full: ConfigContext, value: Any) -> None:
    with Flow() as flow, Stage("raw"):
        result = same({"value": value})
        text = text_of(result["value"])
    done = flow.run()
    assert done.get(result) == {"value": value}
    assert type(done.get(result)["value"]) is type(value)
    assert done.get(text) == repr(value)


@materialize
def names_of(config: PipedagConfig, instance: ConfigContext) -> Any:
    return [*config.instance_names, instance.instance_name]


def test_configurations_are_arguments(config: PipedagConfig, full: ConfigContext) -> None:
    with Flow() as flow, Stage("raw"):
        names = names_of(config, config.get("midi"))
    assert flow.run().get(names) == ["full", "midi", "mini", "midi"]


@pytest.mark.parametrize(
    ("input_type", "expected"),
    [
        (None, pd.DataFrame),
        (pl.DataFrame, pl.DataFrame),
        (pl.LazyFrame, pl.LazyFrame),
        (pa.Table, pa.Table),
        (sa.Table, pd.DataFrame),
        (pa.RecordBatchReader, pd.DataFrame),
    ],
    ids=str,
)
def test_a_result_without_a_type_has_the_input_type_of_its_task(
    full: ConfigContext, input_type: Any, expected: type
) -> None:
    @materialize(input_type=input_type)
    def orders() -> pd.DataFrame:
        return pd.DataFrame({"id": [1, 2]})

    with Flow("shop") as flow, Stage("raw"):
        table = orders()
    result = flow.run(config=full)
    assert isinstance(result.get(table), expected)
    assert isinstance(result.get(table, as_type=pd.DataFrame), pd.DataFrame)
