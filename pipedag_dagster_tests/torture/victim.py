"""A run in a process of its own, to be killed: at a named step by itself, or from outside at any time."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd
import sqlalchemy as sa

from pipedag_dagster import Flow, PipedagConfig, Result, Stage, Table, materialize
from pipedag_dagster.catalog.catalog import Catalog
from pipedag_dagster.data import frames
from pipedag_dagster.execution import stage_loop
from pipedag_dagster.versions import cleanup, commit, write_table
from pipedag_dagster.versions.locked_stage import LockedStage

TABLES = 4
SECONDS = 120
"""After which a test that waits has failed."""


def flow(generation: int) -> Flow:
    """A stage whose tables all say which generation they are: mixed generations are a broken promise."""

    @materialize(version=str(generation), outputs=["base"])
    def base() -> Table:
        return Table(pd.DataFrame({"id": [1, 2], "generation": [generation] * 2}), primary_key="id")

    @materialize(lazy=True, input_type=sa.Table)
    def query(base: sa.Alias) -> sa.Select[Any]:
        return sa.select(base.c.generation)

    @materialize(version=str(generation))
    def frame(base: pd.DataFrame) -> pd.DataFrame:
        return base[["generation"]]

    with Flow("victim") as made, Stage("work"):
        start = base()
        query(start)
        for _ in range(TABLES - 2):
            frame(start)
    return made


def run(config: str, generation: int, **options: Any) -> Result:
    """Run a generation in this process."""
    return flow(generation).run(PipedagConfig(config).get("full"), **options)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(original: Callable[..., Any], calls: int, act: Callable[[], object]) -> Callable[..., Any]:
    left = itertools.count(calls, -1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(left) == 1:
            act()
        return original(*args, **kwargs)

    return wrapped


def _after(original: Callable[..., Any], calls: int, act: Callable[[], object]) -> Callable[..., Any]:
    left = itertools.count(calls, -1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if next(left) == 1:
            act()
        return result

    return wrapped


STEPS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "before an upload": (frames, "write", _before),
    "after an upload": (frames, "write", _after),
    "before constraints and statistics": (write_table, "finish", _before),
    "between tables": (LockedStage, "add", _after),
    "before a result is recorded": (LockedStage, "add", _before),
    "before the commit": (commit, "commit", _before),
    "when the views are prepared": (commit, "_wait_for_readers", _before),
    "inside the commit, before the catalog": (Catalog, "commit", _before),
    "inside the commit, after the catalog": (Catalog, "move_pin", _after),
    "after the commit": (commit, "commit", _after),
    "during the clean-up": (Catalog, "forget", _after),
    "after the clean-up": (cleanup, "clean_up", _after),
    "after the stage": (stage_loop, "run_stage", _after),
}
"""Where a run can be killed: what is patched, in the victim's process only."""

ALL_STEPS = STEPS | {"when a sample is remembered": (Catalog, "add_sample", _after)}
"""With those to which only a small instance comes."""


@contextmanager
def at(step: str, act: Callable[[], object], calls: int = 1) -> Iterator[None]:
    """Do `act` when this process comes to `step` for the `calls`-th time."""
    owner, name, how = ALL_STEPS[step]
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(how(original, calls, act)))
    try:
        yield
    finally:
        setattr(owner, name, original)


def _main(job: Callable[[], object], step: str | None, calls: int) -> None:
    with nullcontext() if step is None else at(step, _die, calls):
        job()


def start(config: Path | str, generation: int, step: str | None = None) -> ForkServerProcess:
    """Start a run of a generation in a process of its own."""
    return start_job(functools.partial(run, str(config), generation), step)


def start_job(job: Callable[[], object], step: str | None = None, calls: int = 1) -> ForkServerProcess:
    """Do something in a process of its own, which kills itself when it comes to `step` for the `calls`-th time. It
    imports nothing: it is forked from a process that has done so."""
    process = _context().Process(target=_main, args=(job, step, calls), daemon=True)
    process.start()
    return process


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "pipedag_dagster_tests.torture.shop"])
    return context


T = TypeVar("T")


class Paused(Generic[T]):
    """Something that is done in a process of its own, which comes to `step` and stays there until it may `go` on."""

    def __init__(self, job: Callable[[], T], step: str, calls: int = 1) -> None:
        context = _context()
        self._reached, self._go = context.Event(), context.Event()
        self._answer, answer = context.Pipe(duplex=False)
        arguments = (job, step, calls, self._reached, self._go, answer)
        self.process = context.Process(target=_pausing, args=arguments, daemon=True)
        self.process.start()
        assert self._reached.wait(SECONDS)

    def go(self) -> T:
        """Let it go on. Returns what it returns."""
        self._go.set()
        assert self._answer.poll(SECONDS)
        result: T = self._answer.recv()
        self.process.join(SECONDS)
        return result


def _pausing(job: Callable[[], object], step: str, calls: int, reached: Any, go: Any, answer: Any) -> None:
    def pause() -> None:
        reached.set()
        go.wait(SECONDS)

    with at(step, pause, calls):
        answer.send(job())
