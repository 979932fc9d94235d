"""A run in a process of its own, to be killed: at a named step by itself, or from outside at any time."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from pipedag_dagster import Flow, PipedagConfig, Result, Stage, Table, materialize
from pipedag_dagster.orchestration import assets
from pipedag_dagster.store import commit, frames, physical, table_store
from pipedag_dagster.store.catalog import Catalog

TABLES = 4


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


def _before(original: Callable[..., Any], calls: int) -> Callable[..., Any]:
    left = itertools.count(calls, -1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(left) == 1:
            _die()
        return original(*args, **kwargs)

    return wrapped


def _after(original: Callable[..., Any], calls: int) -> Callable[..., Any]:
    left = itertools.count(calls, -1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if next(left) == 1:
            _die()
        return result

    return wrapped


STEPS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "before an upload": (frames, "write", _before),
    "after an upload": (frames, "write", _after),
    "before constraints and statistics": (physical, "_finish", _before),
    "between tables": (table_store.TableStore, "add", _after),
    "before a result is recorded": (table_store.TableStore, "add", _before),
    "before the commit": (commit, "commit", _before),
    "when the views are prepared": (commit, "_wait_for_readers", _before),
    "inside the commit, before the catalog": (Catalog, "commit", _before),
    "inside the commit, after the catalog": (Catalog, "move_pin", _after),
    "after the commit": (commit, "commit", _after),
    "during the clean-up": (Catalog, "forget", _after),
    "after the clean-up": (commit, "clean_up", _after),
    "after the commit, before Dagster's events": (assets, "_results", _before),
}
"""Where a run can be killed: what is patched, in the victim's process only."""


def _main(job: Callable[[], object], step: str | None, calls: int) -> None:
    if step is not None:
        owner, name, how = STEPS[step]
        original = getattr(owner, name)
        setattr(owner, name, functools.wraps(original)(how(original, calls)))
    job()


def start(config: Path | str, generation: int, step: str | None = None) -> ForkServerProcess:
    """Start a run of a generation in a process of its own."""
    return start_job(functools.partial(run, str(config), generation), step)


def start_job(job: Callable[[], object], step: str | None = None, calls: int = 1) -> ForkServerProcess:
    """Do something in a process of its own, which kills itself when it comes to `step` for the `calls`-th time. It
    imports nothing: it is forked from a process that has done so."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "pipedag_dagster_tests.torture.shop"])
    process = context.Process(target=_main, args=(job, step, calls), daemon=True)
    process.start()
    return process
