"""Values that tasks return, names that are no text, and what a cache function knows of its task."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from pipedag_dagster import Blob, ConfigContext, Flow, PipedagConfig, RawSql, Stage, Table, TaskContext, materialize
from pipedag_dagster.errors import TaskFailed, WiringError


@pytest.fixture
def full(config: PipedagConfig) -> ConfigContext:
    return config.get("full").evolve(fail_fast=True)


@pytest.mark.parametrize("value", [dt.timedelta(1, 2, 3), -dt.timedelta(microseconds=1), dt.timedelta.max])
def test_a_duration_is_a_value(full: ConfigContext, value: dt.timedelta) -> None:
    with Flow() as flow, Stage("raw"):
        out = materialize(lambda: {"waits": [value]}, name="task")()
        same = materialize(lambda given: given == {"waits": [value]}, name="same")(out)
    result = flow.run(config=full)
    assert result.get(out) == {"waits": [value]}
    assert result.get(same) is True


@pytest.mark.parametrize(
    "kind", [Table, Blob, lambda obj, name: RawSql("SELECT 1", name)], ids=["Table", "Blob", "RawSql"]
)
def test_a_name_that_is_no_text_is_refused_at_once(kind: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r'name=5 is not a text. Write name="orders"'):
        kind(None, name=5)


def test_a_cache_function_knows_its_task(full: ConfigContext) -> None:
    known = []

    def looks() -> int:
        known.append((TaskContext.get().name, TaskContext.get().stage.name))
        return 1

    with Flow() as flow, Stage("raw"):
        materialize(lambda: 1, name="task", version="1", cache=looks)()
    flow.run(config=full)
    assert known == [("task", "raw")]


def test_a_cache_function_writes_no_table(full: ConfigContext) -> None:
    with Flow() as flow, Stage("raw"):
        materialize(lambda: 1, name="task", version="1", cache=lambda: Table("frame").materialize())()
    with pytest.raises(TaskFailed, match="materialize\\(\\) in the task"):
        flow.run(config=full)


def test_a_table_of_a_task_is_not_stored_by_hand(full: ConfigContext) -> None:
    with pytest.raises(WiringError, match=r"Write Table\(…\)\.materialize\(\) in the task"):
        full.store.table_store.store_table(Table("frame"), task=object())
