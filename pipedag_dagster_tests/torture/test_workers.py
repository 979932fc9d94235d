"""Nothing half-done: a worker that is killed at any instant leaves no half table, and another one does its task."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator

import pandas as pd
import psutil

from pipedag_dagster import ConfigContext, Flow, Stage, Table, materialize
from pipedag_dagster.errors import WorkerLost
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Instances, Query
from pipedag_dagster_tests.torture import count, tries

ROWS = 20_000


@materialize
def source(generation: int) -> Table:
    frame = pd.DataFrame({"id": range(ROWS), "process": os.getpid(), "generation": generation})
    return Table(frame, primary_key="id", indexes=[["process"]])


@materialize(input_type=Iterator[pd.DataFrame])
def streamed(source: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    for batch in source:
        yield batch.assign(process=os.getpid())


@materialize(input_type=pd.DataFrame)
def in_steps(source: pd.DataFrame) -> dict[str, Table]:
    first = Table(source.assign(process=os.getpid()), "first").materialize()
    return {"first": first, "second": Table(source.assign(process=os.getpid()), "second")}


def build(generation: int) -> Flow:
    with Flow("shop") as flow, Stage("work"):
        table = source(generation)
        streamed(table)
        in_steps(table)
    return flow


class Killer:
    """Kills workers of this process while a run goes on."""

    def __init__(self, chance: random.Random, waits: float) -> None:
        self.kills = 0
        self._chance, self._waits, self._ended = chance, waits, threading.Event()
        self._thread = threading.Thread(target=self._kill)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _kill(self) -> None:
        while not self._ended.wait(self._chance.uniform(0, self._waits)):
            for process in self._chance.sample(victims := workers(), min(1, len(victims))):
                os.kill(process, signal.SIGKILL)
                self.kills += 1


def workers() -> list[int]:
    """The processes in which tasks of this process run."""
    found = []
    for child in psutil.Process().children():
        if any("workers.template" in word for word in child.cmdline()):
            found += [worker.pid for worker in child.children()]
    return found


def is_whole(query: Query, generation: int) -> bool:
    """Each table has all rows of one generation, written by one process."""
    tables = ["source", "streamed", "first", "second"]
    counts = [
        query(f"SELECT count(*), count(DISTINCT process), min(generation), max(generation) FROM full_work.{table}")
        for table in tables
    ]
    return counts == [[(ROWS, 1, generation, generation)]] * len(tables)


def test_workers_killed_at_any_time(instances: Instances, query: Query) -> None:
    counted = count("nothing half-done: workers killed at a random time; whole tables, nothing left over")
    instance: ConfigContext = instances(any="tasks: {on: processes, workers: 2}\n").get("full")
    store = instance.store.table_store
    schema = store.schemas("work").versions
    chance, lost, generation = random.Random(0), 0, 0
    while counted.tries < tries(4, 200):
        generation += 1
        with Killer(chance, 1.5) as killer:
            result = build(generation).run(config=instance, fail_fast=False)
        counted.tries += killer.kills
        if not result.successful:  # a task has lost three workers
            assert isinstance(result.exception, WorkerLost)
            lost += 1
            assert build(generation).run(config=instance, fail_fast=True).successful
        tables = {name for (name,) in query(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")}
        with store.database.look() as connection:
            known = store.catalog.physical_names(connection, "work")
        whole = is_whole(query, generation) and tables == known and not differences(store)
        counted.violations += not whole
        assert whole
    counted.note = f"in {generation} runs, {lost} of which ended because a task had lost three workers"
