"""Calls run at the same time where they can, each after those that it needs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import pytest

from pipedag_dagster import Flow, Stage, materialize
from pipedag_dagster.catalog.reason import Reason, ReasonKind
from pipedag_dagster.errors import PipedagError, SeveralFailed
from pipedag_dagster.execution.scheduler import Note, Scheduler
from pipedag_dagster.execution.stage_result import Outcome
from pipedag_dagster.graph.flow import TaskCall


@materialize
def task(*inputs: object) -> None: ...


def calls(needs: list[list[int]]) -> list[TaskCall]:
    """A call for each list, which needs the calls of these numbers."""
    with Flow("flow"), Stage("raw") as stage:
        outputs: list[object] = []
        for numbers in needs:
            outputs.append(task(*(outputs[number] for number in numbers)))
    return stage.calls


def done(call: TaskCall) -> Outcome:
    return Outcome(call, {}, Reason(ReasonKind.new), 0.0)


def fails(*names: str) -> Callable[[TaskCall], Outcome]:
    def run(call: TaskCall) -> Outcome:
        if call.name in names:
            raise PipedagError(call.name)
        return done(call)

    return run


def run(
    chosen: list[TaskCall], run: Callable[[TaskCall], Outcome] = done, *, threads: int = 1, fail_fast: bool = False
) -> list[str]:
    """The names of the calls, as they started."""
    started: list[str] = []
    scheduler = Scheduler(
        lambda call, note: run(call),
        started=lambda call: started.append(call.name),
        finished=lambda outcome: None,
        failed=lambda call: started.append(f"{call.name} failed"),
        threads=threads,
        fail_fast=fail_fast,
    )
    try:
        scheduler.run_all(chosen)
    except PipedagError as error:
        started.append(f"{type(error).__name__}")
    return started


@pytest.mark.parametrize(
    ("needs", "order"),
    [
        ([], []),
        ([[], [], []], ["task", "task_2", "task_3"]),
        ([[], [0], []], ["task", "task_2", "task_3"]),
        ([[], [0], [0], [1, 2]], ["task", "task_2", "task_3", "task_4"]),
    ],
)
def test_calls_start_in_the_order_of_the_flow(needs: list[list[int]], order: list[str]) -> None:
    assert run(calls(needs)) == order


def test_only_what_needs_a_failed_call_does_not_run() -> None:
    chosen = calls([[], [0], [1], []])
    assert run(chosen, fails("task")) == ["task", "task failed", "task_4", "PipedagError"]


def test_after_a_failure_nothing_starts_with_fail_fast() -> None:
    assert run(calls([[], []]), fails("task"), fail_fast=True) == ["task", "task failed", "PipedagError"]


def test_several_failures_are_told_together() -> None:
    assert run(calls([[], []]), fails("task", "task_2"))[-1] == SeveralFailed.__name__


def test_what_was_not_selected_is_not_waited_for() -> None:
    assert run(calls([[], [0]])[1:]) == ["task_2"]


def test_independent_calls_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def meet(call: TaskCall) -> Outcome:
        meeting.wait()
        return done(call)

    assert run(calls([[], []]), meet, threads=2) == ["task", "task_2"]


def test_never_more_run_than_the_limit() -> None:
    running, most, lock = [0], [0], threading.Lock()

    def count(call: TaskCall) -> Outcome:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return done(call)

    run(calls([[]] * 20), count, threads=3)
    assert most == [3]


def test_a_thousand_calls_in_a_chain_are_scheduled() -> None:
    needs = [[], *([number] for number in range(999))]
    assert len(run(calls(needs))) == 1000


def steps(work: Callable[[], object]) -> int:
    """How many functions of Python are called, in this thread."""
    count = 0

    def called(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "needs",
    [
        pytest.param(lambda number: [], id="independent"),
        pytest.param(lambda number: [number - 1] if number else [], id="chain"),
        pytest.param(lambda number: [0] if number else [], id="all need one"),
        pytest.param(lambda number: [*range(number)][-5:], id="each needs the five before"),
    ],
)
def test_twice_as_many_calls_take_twice_as_many_steps(needs: Callable[[int], list[int]]) -> None:
    few, many = ([needs(number) for number in range(size)] for size in (300, 600))
    for work in (calls, lambda needed: run(calls(needed))):
        assert steps(lambda: work(many)) < 2.3 * steps(lambda: work(few))  # noqa: B023


def test_a_note_is_called_between_the_start_and_the_end_of_its_call_in_the_thread_of_the_run() -> None:
    (call,) = calls([[]])
    events: list[str] = []
    thread = threading.get_ident()

    def noted(call: TaskCall, note: Callable[[Note], None]) -> Outcome:
        for number in range(3):
            note(lambda number=number: events.append(f"{number} {threading.get_ident() == thread}"))
        return done(call)

    Scheduler(
        noted,
        started=lambda call: events.append("started"),
        finished=lambda outcome: events.append("finished"),
        failed=lambda call: None,
        threads=1,
        fail_fast=False,
    ).run_all([call])
    assert events == ["started", "0 True", "1 True", "2 True", "finished"]
