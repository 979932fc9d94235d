"""`@input_stage_versions`: the tables of a stage, beside those that are committed or those of another instance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    Blob,
    ConfigContext,
    FinalTaskState,
    Flow,
    PipedagConfig,
    Stage,
    Table,
    View,
    input_stage_versions,
    materialize,
)
from pipedag_dagster.errors import TaskFailed


@pytest.fixture
def full(config: PipedagConfig) -> Iterator[ConfigContext]:
    """The instance full, as the current one."""
    with config.get("full").evolve(fail_fast=True) as instance:
        yield instance


@materialize(nout=2)
def load(rows: int) -> Any:
    return Table(pd.DataFrame({"x": range(rows)}), "a"), Table(pd.DataFrame({"x": [1]}), "b")


@input_stage_versions(input_type=pd.DataFrame)
def rows_before_and_after(tables: dict[str, pd.DataFrame], committed: dict[str, pd.DataFrame]) -> Any:
    return Table(
        pd.DataFrame(
            {
                "name": [*tables],
                "after": [len(table) for table in tables.values()],
                "before": [len(committed[name]) if name in committed else -1 for name in tables],
            }
        ),
        "differences",
    )


@input_stage_versions(input_type=sa.Table, pass_args=["least"])
def enough_rows(tables: dict[str, Any], committed: dict[str, Any], *, least: int) -> None:
    with ConfigContext.get().store.table_store.engine_connect() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(tables["a"]))
    if count < least:
        raise ValueError(f"{count} rows are not enough")


def run(rows: int) -> list[tuple[str, int, int]]:
    with Flow() as flow, Stage("raw"):
        load(rows)
        differences = rows_before_and_after()
    found = flow.run().get(differences)
    return sorted(found.itertuples(index=False, name=None))


def test_a_stage_is_compared_with_its_committed_version(full: ConfigContext) -> None:
    assert run(3) == [("a", 3, -1), ("b", 1, -1)]
    assert run(5) == [("a", 5, 3), ("b", 1, 1)]
    assert run(5) == [("a", 5, 5), ("b", 1, 1)]


def test_a_stage_that_fails_its_validation_is_not_committed(full: ConfigContext) -> None:
    def flow_with(rows: int) -> Flow:
        with Flow() as flow, Stage("raw"):
            load(rows)
            enough_rows(least=3)
        return flow

    flow_with(4).run()
    with pytest.raises(TaskFailed, match="2 rows are not enough"):
        flow_with(2).run()
    assert len(flow_with(4)["raw.load"].get_output_from_store()) == 4


# ---- some tables, and blobs ------------------------------------------------------------------------------------


@input_stage_versions(input_type=pd.DataFrame)
def lengths(tables: dict[str, pd.DataFrame], committed: dict[str, pd.DataFrame]) -> Any:
    return [{name: len(table) for name, table in version.items()} for version in (tables, committed)]


@materialize
def model(rows: int) -> Any:
    return Blob({"rows": rows}, "model")


def run_with(rows: int, *, named: bool = False) -> Any:
    """What a task gets that compares the first table of the stage `raw`, from within it."""
    with Flow() as flow, Stage("raw"):
        first, _ = load(rows)
        result = lengths(table=[first]) if named else lengths({"key": first})
    return flow.run().get(result)


@pytest.mark.parametrize("named", [True, False])
def test_outputs_among_the_arguments_choose_the_tables(full: ConfigContext, named: bool) -> None:
    assert run_with(3, named=named) == [{"a": 3}, {}]
    assert run_with(5, named=named) == [{"a": 5}, {"a": 3}]


def test_a_table_of_another_stage_has_its_stage_in_its_name(full: ConfigContext) -> None:
    with Flow() as flow:
        with Stage("raw"):
            first, second = load(2)
        with Stage("report"):
            result = lengths(first, second)
    assert flow.run().get(result) == [{"raw.a": 2, "raw.b": 1}] * 2


def test_the_tables_of_another_instance_are_read_beside_them(config: PipedagConfig) -> None:
    @input_stage_versions(input_type=pd.DataFrame)
    def both(tables: Any, theirs: Any, source: ConfigContext) -> Any:
        return [source.instance_name, len(tables["a"]), len(theirs["a"])]

    def flow_of(rows: int, source: ConfigContext | None) -> Flow:
        with Flow() as flow, Stage("raw"):
            first, _ = load(rows)
            if source is not None:
                both(first, source)
        return flow

    flow_of(4, None).run(config=config.get("full"))
    flow = flow_of(2, config.get("full"))
    result = flow.run(config=config.get("mini").evolve(fail_fast=True))
    assert result.get(flow["raw"]["both"]) == ["full", 2, 4]


def test_blobs_come_as_two_more_dicts(full: ConfigContext) -> None:
    @input_stage_versions(input_type=pd.DataFrame)
    def blobs(tables: Any, committed: Any, blobs: Any, committed_blobs: Any) -> Any:
        return [sorted(tables), blobs, committed_blobs]

    found = []
    for rows in (1, 2):
        with Flow() as flow, Stage("raw"):
            first, _ = load(rows)
            result = blobs(first, model(rows))
        found.append(flow.run().get(result))
    assert found == [[["a"], {"model": {"rows": 1}}, {}], [["a"], {"model": {"rows": 2}}, {"model": {"rows": 1}}]]


def test_passed_arguments_may_be_outputs(full: ConfigContext) -> None:
    @input_stage_versions(input_type=pd.DataFrame, pass_args=["other"])
    def passed(tables: Any, committed: Any, *, other: pd.DataFrame) -> Any:
        return [sorted(tables), len(other)]

    with Flow() as flow, Stage("raw"):
        first, second = load(3)
        result = passed(first, other=second)
    assert flow.run().get(result) == [["a"], 1]


def test_nothing_runs_again_when_the_chosen_tables_are_the_same(full: ConfigContext) -> None:
    for rows in (3, 3, 3):
        with Flow() as flow, Stage("raw"):
            first, _ = load(rows)
            result = lengths(first)
        states = flow.run().task_states
    assert states[result] is FinalTaskState.CACHE_VALID


def test_views_may_be_left_out(full: ConfigContext) -> None:
    @materialize(lazy=True, input_type=sa.Table)
    def view(table: Any) -> Any:
        return View(sa.select(table), "view")

    def names(tables: Any, committed: Any) -> Any:
        return sorted(tables)

    with Flow() as flow, Stage("raw"):
        first, _ = load(1)
        view(first)
        everything = input_stage_versions(name="everything")(names)()
        tables = input_stage_versions(name="tables", include_views=False, lock_source_stages=False)(names)()
    result = flow.run()
    assert result.get(everything) == ["a", "b", "view"]
    assert result.get(tables) == ["a", "b"]


# ---- copying ---------------------------------------------------------------------------------------------------


@input_stage_versions
def copy(tables: Any, theirs: Any, source: ConfigContext) -> Any:
    return [Table(table.head(1), name) for name, table in sorted(theirs.items())]


@input_stage_versions(nout=2)
def copy_two(tables: Any, theirs: Any, source: ConfigContext) -> Any:
    return [Table(table.head(1), name) for name, table in sorted(theirs.items())]


@materialize(input_type=pd.DataFrame)
def count_all(tables: list[pd.DataFrame]) -> Any:
    return [[table.attrs["name"], len(table)] for table in tables]


@pytest.mark.parametrize("task", [copy, copy_two])
def test_what_a_copying_task_returns_is_passed_on_as_a_whole(config: PipedagConfig, task: Any) -> None:
    def build(instance: ConfigContext) -> Flow:
        with Flow() as flow:
            with Stage("raw"):
                tables = load(5) if instance.instance_name == "full" else task(config.get("full"))
            with Stage("report"):
                count_all(tables)
        return flow

    found = {}
    for name in ("full", "mini"):
        instance = config.get(name).evolve(fail_fast=True)
        flow = build(instance)
        found[name] = flow.run(config=instance).get(flow["report"]["count_all"])
    assert found == {"full": [["a", 5], ["b", 1]], "mini": [["a", 1], ["b", 1]]}
