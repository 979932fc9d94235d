"""What a run raises can be caught as what the task has raised."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, RawSql, Stage, Table, materialize
from pipedag_dagster.errors import TaskFailed, UnstorableResult


class Refused(Exception):
    """An error of a user."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


class ByKeyword(Exception):
    def __new__(cls, *, code: int) -> ByKeyword:
        return super().__new__(cls)

    def __init__(self, *, code: int) -> None:
        self.code = code


@pytest.fixture
def full(config: PipedagConfig) -> ConfigContext:
    return config.get("full").evolve(fail_fast=True)


def failure(instance: ConfigContext, function: Callable[[], Any], **options: Any) -> TaskFailed:
    """What `flow.run()` raises for a task."""
    with Flow() as flow, Stage("raw"):
        materialize(name="task", version="1", **options)(function)()
    with pytest.raises(TaskFailed) as raised:
        flow.run(config=instance)
    result = flow.run(config=instance, fail_fast=False)
    assert type(result.exception) is type(raised.value)
    return raised.value


def raising(error: Exception) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    "error", [Refused(5, "too large"), Slotted(5), ByKeyword(code=5)], ids=lambda e: type(e).__name__
)
def test_of_ones_own_class_with_its_attributes(full: ConfigContext, error: Any) -> None:
    raised: Any = failure(full, raising(error))
    assert isinstance(raised, type(error))
    assert (raised.code, raised.args) == (5, error.args)
    assert raised.__cause__ is error
    assert str(raised).startswith(f"raw.task failed: {type(error).__name__}: ")


@pytest.mark.parametrize(
    ("function", "kind", "attributes"),
    [
        (
            lambda: Path("/nowhere/orders.csv").read_text(),
            FileNotFoundError,
            {"errno": 2, "filename": "/nowhere/orders.csv"},
        ),
        (lambda: json.loads("{"), json.JSONDecodeError, {"lineno": 1, "pos": 1}),
        (lambda: b"\xff".decode(), UnicodeDecodeError, {"encoding": "utf-8", "start": 0}),
        (lambda: __import__("no_such_module"), ModuleNotFoundError, {"name": "no_such_module"}),
    ],
    ids=["OSError", "JSON", "Unicode", "import"],
)
def test_of_pythons_classes_with_their_attributes(
    full: ConfigContext, function: Any, kind: type[Exception], attributes: dict[str, Any]
) -> None:
    raised = failure(full, function)
    assert isinstance(raised, kind)
    assert {name: getattr(raised, name) for name in attributes} == attributes


def ask_the_database() -> None:
    ConfigContext.get().store.table_store.execute("SELECT * FROM nowhere")


@pytest.mark.parametrize(
    ("function", "options", "kind"),
    [
        (lambda: sa.text("SELECT * FROM nowhere"), {"lazy": True}, sa.exc.ProgrammingError),
        (lambda: RawSql("SELECT * FROM nowhere"), {"lazy": True}, sa.exc.ProgrammingError),
        (lambda: Table(pd.DataFrame({"a": [1, 1]}), primary_key="a"), {}, sa.exc.IntegrityError),
        (lambda: Table(sa.text("SELECT NULL AS a"), non_nullable="a"), {"lazy": True}, sa.exc.IntegrityError),
        (ask_the_database, {}, sa.exc.ProgrammingError),
    ],
    ids=["query", "script", "key", "NULL", "task"],
)
def test_what_the_database_refuses_is_also_sqlalchemys(
    full: ConfigContext, function: Any, options: dict[str, Any], kind: type[Exception]
) -> None:
    raised: Any = failure(full, function, **options)
    assert isinstance(raised, kind)
    assert raised.orig is not None
    assert isinstance(raised, UnstorableResult) == (function is not ask_the_database)


def test_in_another_process_it_is_a_failed_task_with_the_same_text(full: ConfigContext) -> None:
    raised = failure(full, raising(Refused(5, "too large")))
    copied = pickle.loads(pickle.dumps(raised))
    assert type(copied) is TaskFailed
    assert (str(copied), copied.task, copied.line) == (str(raised), raised.task, raised.line)


def test_the_end_of_an_iterator_is_no_end_of_ours(full: ConfigContext) -> None:
    assert not isinstance(failure(full, raising(StopIteration())), StopIteration)
