"""Somebody follows a stage run: told when each call starts and ends, in an order that respects what it needs."""

from __future__ import annotations

import pandas as pd
import pytest

from pipedag_dagster import Flow, Stage, materialize
from pipedag_dagster.catalog.reason import Reason
from pipedag_dagster.errors import TaskFailed
from pipedag_dagster.execution.progress import Progress
from pipedag_dagster.execution.stage_result import Outcome
from pipedag_dagster.execution.stage_run import run_stage
from pipedag_dagster.graph.flow import TaskCall
from pipedag_dagster_tests.helpers import Instances


class Recorded(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.messages: list[str] = []

    def started(self, call: TaskCall) -> None:
        self.events.append(f"started {call.name}")

    def running(self, call: TaskCall, reason: Reason) -> None:
        self.events.append(f"running {call.name}: {reason}")

    def sent(self, call: TaskCall, rows: int) -> None:
        self.events.append(f"sent {call.name}: {rows}")

    def failed(self, call: TaskCall) -> None:
        self.events.append(f"failed {call.name}")

    def finished(self, outcome: Outcome) -> None:
        self.events.append(f"finished {outcome.call.name}: {outcome.reason}")

    def warning(self, text: str) -> None:
        self.message(text)

    def message(self, text: str) -> None:
        self.messages.append(text)


def stage(*, fails: bool = False) -> Stage:
    @materialize(version="1")
    def first() -> pd.DataFrame:
        if fails:
            raise ValueError("no")
        return pd.DataFrame({"x": [1]})

    @materialize(version="1")
    def second(first: pd.DataFrame) -> pd.DataFrame:
        return first

    with Flow("shop"), Stage("raw") as raw:
        second(first())
    return raw


def test_each_call_is_told_when_it_starts_and_when_it_ends(instances: Instances) -> None:
    progress = Recorded()
    run_stage(instances().get("full"), stage(), "run", progress=progress)
    assert progress.events == [
        *("started first", "running first: new", "sent first: 1", "finished first: new"),
        *("started second", "running second: new", "sent second: 1", "finished second: new"),
    ]


def test_a_cached_call_is_told_too(instances: Instances) -> None:
    config = instances().get("full")
    run_stage(config, stage(), "run")
    progress = Recorded()
    run_stage(config, stage(), "again", progress=progress)
    assert progress.events == [
        *("started first", "finished first: cached"),
        *("started second", "finished second: cached"),
    ]


def test_a_call_that_failed_is_not_finished_and_what_needs_it_does_not_start(instances: Instances) -> None:
    progress = Recorded()
    with pytest.raises(TaskFailed):
        run_stage(instances().get("full"), stage(fails=True), "run", progress=progress)
    assert progress.events == ["started first", "running first: new", "failed first"]
