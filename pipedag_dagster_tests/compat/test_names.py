"""Names, arguments and attributes that programs for pydiverse.pipedag use: those that exist, and those that say what to
write instead."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

import pipedag_dagster
from pipedag_dagster import (
    Blob,
    CacheValidationMode,
    ConfigContext,
    ExternalTableReference,
    Flow,
    GroupNode,
    PipedagConfig,
    RawSql,
    Result,
    Schema,
    SortCol,
    Stage,
    Table,
    Task,
    View,
    VisualizationStyle,
    create_basic_pipedag_config,
    materialize,
)
from pipedag_dagster.errors import NotHere, WiringError, WrongCall

DOC = Path(__file__).parents[2] / "docs" / "from_pipedag.md"


@pytest.fixture
def full(config: PipedagConfig) -> Iterator[ConfigContext]:
    """The instance full, as the current one."""
    with config.get("full").evolve(fail_fast=True) as instance:
        yield instance


@materialize
def make(x: Any = None) -> Any:
    return x


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (Flow, "name"),
        (Flow.run, "config fail_fast cache_validation_mode disable_cache_function ignore_task_version inputs"),
        (Stage, "name materialization_details group_node_tag force_committed"),
        (Stage.get_task, "name index"),
        (Stage.is_inner, "other"),
        (Table, "obj name primary_key indexes type_map nullable non_nullable materialization_details annotation stage"),
        (View, "src sort_by columns limit"),
        (RawSql, "sql name separator"),
        (RawSql.get, "table default"),
        (Blob, "obj name"),
        (SortCol, "col order nulls_first"),
        (Schema, "name prefix suffix"),
        (ExternalTableReference, "name schema shared_lock_allowed"),
        (GroupNode, "label style ordering_barrier style_tag"),
        (VisualizationStyle, "hide_box hide_content hide_label box_color_always box_color_any_failure"),
        (PipedagConfig, "path"),
        (PipedagConfig.get, "instance flow per_user"),
        (create_basic_pipedag_config, "engine_url blob_directory name instance_id auto_table fail_fast"),
        (Result.get, "task as_type write_local_table_cache"),
        (Task.get_output_from_store, "as_type ignore_position_hashes write_local_table_cache"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_arguments_have_the_same_names(function: Any, parameters: str) -> None:
    assert set(parameters.split()) <= set(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (Blob, "obj name"),
        (RawSql, "sql name separator"),
        (GroupNode, "label style"),
        (PipedagConfig.get, "self instance flow per_user"),
        (Result.get, "self task as_type write_local_table_cache"),
        (Stage, "name materialization_details group_node_tag force_committed"),
        (SortCol, "col order nulls_first"),
        (Schema, "name prefix suffix"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_arguments_have_the_same_order(function: Any, parameters: str) -> None:
    order = parameters.split()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [name for name, p in inspect.signature(function).parameters.items() if p.kind in kinds]
    assert positional[: len(order)] == order


def test_every_cache_mode_has_the_same_name() -> None:
    names = "NORMAL ASSERT_NO_FRESH_INPUT IGNORE_FRESH_INPUT FORCE_FRESH_INPUT FORCE_CACHE_INVALID"
    assert all(hasattr(CacheValidationMode, name) for name in names.split())


ABSENT = [
    *[(Result, name) for name in ("task_values", "evolve", "subflow", "underlying")],
    *[(Stage, name) for name in ("did_commit", "set_transaction_name")],
    *[(ConfigContext, name) for name in ("new", "logger", "get_logger", "auto_table", "auto_blob")],
    *[(ConfigContext, name) for name in ("create_lock_manager", "create_orchestration_engine", "kroki_url")],
    *[(ConfigContext, name) for name in ("stage_commit_technique", "strict_result_get_locking", "network_interface")],
    *[(ConfigContext, name) for name in ("visualization", "disable_kroki")],
]


@pytest.mark.parametrize(("cls", "name"), ABSENT)
def test_an_absent_attribute_says_what_to_write(cls: type, name: str) -> None:
    with pytest.raises(NotHere, match=rf"{cls.__name__} has no attribute '{name}' here\. \w+"):
        getattr(cls, name)
    assert not hasattr(cls, name)


@pytest.mark.parametrize(("cls", "name"), ABSENT)
def test_the_docs_name_each_absent_attribute(cls: type, name: str) -> None:
    assert f"`{cls.__name__}.{name}`" in DOC.read_text()


@pytest.mark.parametrize("name", ["visualize", "visualize_url", "visualize_pydot"])
def test_drawing_is_refused_with_the_arguments_that_it_has(name: str) -> None:
    for owner in (Flow, Result):
        with pytest.raises(WiringError, match="dagster dev"):
            getattr(owner, name)(None, None, visualization_tag="x")


@pytest.mark.parametrize("obj", [Table(None), Blob(1), RawSql("SELECT 1"), View(sa.text("SELECT 1"))])
def test_a_name_that_is_not_a_text_is_refused_at_once(obj: Any) -> None:
    with pytest.raises(WrongCall, match=r"name=5 is not a text\. Write name="):
        obj.name = 5
    obj.name = "orders"
    assert obj.name == "orders"


@pytest.mark.parametrize("indexes", ["a", ["a"], [["a"]], [("a",)]])
def test_one_index_may_be_written_without_a_list(indexes: Any) -> None:
    assert Table(None, indexes=indexes).indexes == (("a",),)


@pytest.mark.parametrize("indexes", [5, [5], [[5]], [None]])
def test_an_index_of_something_else_is_refused(indexes: Any) -> None:
    with pytest.raises(WiringError, match="is not a column"):
        Table(None, indexes=indexes)


def test_a_table_says_how_it_was_called() -> None:
    table = Table(None, primary_key="a", nullable=["b"], type_map={"a": sa.Integer})
    assert (table.primary_key, table.nullable, table.type_map) == (("a",), ("b",), {"a": sa.Integer})


def test_a_stage_lists_its_tasks() -> None:
    with Flow(), Stage("outer") as outer:
        first, second = make(), make(1)
        with Stage("inner") as inner:
            pass
    assert [task.call for task in outer.all_tasks()] == [first.call, second.call]
    assert outer.get_task("make").call is first.call
    assert outer.get_task("make", 1).call is second.call
    assert (inner.is_inner(outer), outer.is_inner(inner), outer.is_inner(outer)) == (True, False, False)


def test_how_a_group_is_drawn_can_be_read() -> None:
    assert VisualizationStyle(hide_box=True).hide_box
    with pytest.raises(TypeError, match="hidden"):
        VisualizationStyle(hidden=True)  # type: ignore[call-arg]


def test_a_result_is_read_by_the_names_of_the_arguments(full: ConfigContext) -> None:
    with Flow() as flow, Stage("raw"):
        made = make(3)
    assert flow.run().get(task=made, as_type=pd.DataFrame, write_local_table_cache=False) == 3


SCRIPT = "CREATE TABLE one AS SELECT 1 AS x; CREATE VIEW two AS SELECT 2 AS x"


def wired_script(use: Any, script: RawSql, **options: Any) -> tuple[Flow, Any, Any]:
    """A flow of a task that returns the script, and one that takes it."""
    with Flow() as flow, Stage("raw"):
        made = materialize(lambda: script, name="script", lazy=True)()
        used = materialize(use, name="use", input_type=pd.DataFrame, version="1", **options)(made)
    return flow, made, used


def test_a_task_takes_a_script_as_a_script(full: ConfigContext) -> None:
    def use(raw: Any) -> Any:
        assert isinstance(raw, RawSql)
        return {
            "names": sorted(raw),
            "stage": raw.stage.name,
            "name": raw.name,
            "sql": raw.sql,
            "x": int(raw["one"]["x"][0]),
            "absent": [raw.get("three"), "three" in raw, "two" in raw],
            "size": [len(raw), len(raw.keys()), len(raw.values()), len(raw.items()), len(dict(raw)), bool(raw)],
        }

    flow, _, used = wired_script(use, RawSql(SCRIPT, "shop"))
    assert flow.run().get(used) == {
        "names": ["one", "two"],
        "stage": "raw",
        "name": "shop",
        "sql": None,
        "x": 1,
        "absent": [None, False, True],
        "size": [2, 2, 2, 2, 2, True],
    }


def test_a_table_that_a_script_has_not_made_is_an_error_with_a_hint(full: ConfigContext) -> None:
    flow, _, _ = wired_script(lambda raw: len(raw["on"]), RawSql(SCRIPT))
    with pytest.raises(KeyError, match=r"has made no table 'on'\. Did you mean 'one'\?"):
        flow.run()


def test_a_task_may_return_the_script_that_it_takes(full: ConfigContext) -> None:
    with Flow() as flow:
        with Stage("raw"):
            made = materialize(lambda: RawSql(SCRIPT), name="script", lazy=True)()
        with Stage("copy"):
            copied = materialize(lambda raw: raw, name="copied", input_type=sa.Table, lazy=True)(made)
    result = flow.run()
    assert sorted(result.get(copied)) == ["one", "two"]
    assert result.get(made)["two"]["x"].to_list() == [2]


def test_a_script_is_split_at_its_separator(full: ConfigContext) -> None:
    script = RawSql("CREATE TABLE one AS SELECT 1 AS x\nGO\nCREATE TABLE two AS SELECT 2 AS x\nGO\n", separator="GO")
    assert script.sql is not None
    flow, made, _ = wired_script(lambda raw: len(raw), script)
    assert sorted(flow.run().get(made)) == ["one", "two"]


@pytest.mark.parametrize("separator", ["", None, 5])
def test_a_separator_that_is_not_a_text_is_refused(separator: Any) -> None:
    with pytest.raises(WrongCall, match="is not a text"):
        RawSql("SELECT 1", separator=separator)


def test_every_public_name_is_here() -> None:
    names = (
        "AUTO_VERSION Blob CacheValidationMode ConfigContext ExternalTableReference Flow GroupNode PipedagConfig "
        "RawSql Result Schema SortCol SortOrder Stage StageLockContext Table Task TaskGetItem View VisualizationStyle "
        "input_stage_versions materialize materialize_table"
    )
    assert set(names.split()) <= set(pipedag_dagster.__all__)
