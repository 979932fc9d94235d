"""Processes that commit a stage again and again, and processes that read it meanwhile."""

from __future__ import annotations

import dataclasses
import multiprocessing
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from pipedag_dagster import PipedagConfig
from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.names import quote
from pipedag_dagster.versions import commit
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.verify import differences
from pipedag_dagster.versions.write_table import Constraints

STAGE = "work"
TABLES = 30
ALLOWANCE = 1.0
"""Seconds that a commit may take besides its patience: the machine has other things to do."""
LOCK_WAIT = 0.1
"""Seconds after which a reader has waited too long for a lock."""


Stop = Callable[[], bool]
"""Whether to stop."""


def together(jobs: Sequence[Callable[[Stop], Any]], seconds: float) -> list[Any]:
    """Do all the jobs at the same time, each in a process of its own, for some seconds. Returns what they return."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imports once
    stop, ready = context.Event(), context.Semaphore(0)
    pipes = [context.Pipe(duplex=False) for _ in jobs]
    processes = [
        context.Process(target=_work, args=(job, ready, stop, answer), daemon=True)
        for job, (_, answer) in zip(jobs, pipes, strict=True)
    ]
    for process in processes:
        process.start()
    try:
        for _ in processes:
            assert ready.acquire(timeout=60)
        time.sleep(seconds)
    finally:
        stop.set()
    for _, answer in pipes:
        answer.close()
    results = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join()
    return results


def _work(job: Callable[[Stop], Any], ready: Any, stop: Any, answer: Any) -> None:
    ready.release()
    answer.send(job(stop.is_set))


@dataclass
class Reads:
    """What one reader has seen. `partial`: statements in which the rows of a table were missing."""

    statements: int = 0
    mixed: int = 0
    partial: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    lock_waits: int = 0
    seconds: list[float] = field(default_factory=list)

    def add(self, other: Reads) -> None:
        for name in ("statements", "mixed", "partial", "lock_waits", "errors", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def slowest(self) -> float:
        return max(self.seconds, default=0)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[len(self.seconds) * 99 // 100] if self.seconds else 0


@dataclass
class Commits:
    """How long each commit has taken, in seconds."""

    seconds: list[float] = field(default_factory=list)

    @property
    def late(self) -> int:
        return sum(seconds > commit.PATIENCE + ALLOWANCE for seconds in self.seconds)

    @property
    def impatient(self) -> int:
        """How many may have renamed the views without a lock, because readers did not let them have it."""
        return sum(seconds >= commit.PATIENCE for seconds in self.seconds)


def write(stop: Stop, config: str, again: int) -> Commits:
    """Commit generation after generation, and then back and forth between two of them, until told to stop.

    Args:
        again: how many more commits of tables that are there already follow each new generation.
    """
    store = PipedagConfig(config).get("full").store.table_store
    done = Commits()
    original = commit.commit

    def timed(*args: Any, **options: Any) -> None:
        started = time.perf_counter()
        original(*args, **options)
        done.seconds.append(time.perf_counter() - started)

    commit.commit = timed  # in this process only; the clean-up, which drops many tables, is not part of it
    number = store.current([STAGE])[STAGE].number
    before: dict[str, TableVersion] = {}
    with store.lock(STAGE, "writer") as held:
        while not stop():
            staged = stage(held, number + 1)
            for tables in (staged, *([before, staged] * (again // 2) if before else [])):
                number += 1
                held.commit(number, tables)
            before = staged
    return done


def stage(held: LockedStage, generation: int, tables: int = TABLES) -> dict[str, TableVersion]:
    """Make tables that all say which generation they are."""
    made = []
    for number in range(tables):
        name, execution = f"t{number}", uuid.uuid4().hex
        table = held.write_query(name, f"SELECT {generation} AS generation", Constraints())
        made.append(table_version(name, execution, dataclasses.asdict(table) | {"columns": table.columns}))
    return {table.asset: table for table in held.add(made)}


def table_version(name: str, execution: str, made: dict[str, Any]) -> TableVersion:
    return TableVersion(
        stage=STAGE,
        asset=name,
        name=name,
        physical=made["physical"],
        flow="torture",
        task=name,
        execution=execution,
        slot="None",
        task_key=execution,
        cache_key=execution,
        parts={},
        code_version="1",
        data_version=made["content"] or execution,
        columns=made["columns"],
        primary_key=(),
        indexes=(),
        rows=made["rows"],
        bytes=made["bytes"],
        query=None,
        run_id="writer",
        seconds=0.0,
    )


def read(stop: Stop, uri: str, schema: str, isolation: str, seed: int) -> Reads:
    """Statements that each name many views of the stage, each one in a transaction of its own."""
    done, chance = Reads(), random.Random(seed)
    with psycopg.connect(uri, autocommit=True) as connection:

        def notice(diagnostic: Any) -> None:
            done.lock_waits += "still waiting for" in (diagnostic.message_primary or "")

        connection.add_notice_handler(notice)
        # The server itself says when a reader has waited for a lock; a busy machine makes no difference to that.
        connection.execute(f"SET deadlock_timeout = {int(LOCK_WAIT * 1000)}")
        connection.execute("SET log_lock_waits = on; SET client_min_messages = log")
        connection.execute(f"SET default_transaction_isolation = '{isolation}'".encode())
        while not stop():
            names = chance.sample(range(TABLES), chance.choice([5, 15, TABLES]))
            parts = (f"SELECT generation FROM {quote(schema, f't{number}')}" for number in names)
            query = " UNION ALL ".join(parts).encode()
            started = time.perf_counter()
            try:
                rows = connection.execute(query).fetchall()
            except psycopg.Error as error:
                done.errors[error.diag.message_primary or str(error)] += 1
            else:
                done.mixed += len(set(rows)) > 1
                done.partial += len(rows) != len(names)
            done.seconds.append(time.perf_counter() - started)
            done.statements += 1
    return done


def linger(stop: Stop, uri: str, schema: str, hold: float) -> int:
    """A reader whose transactions stay open for long, one after the other."""
    done = 0
    with psycopg.connect(uri) as connection:
        while not stop():
            connection.execute(f"SELECT generation FROM {quote(schema, f't{done % TABLES}')}".encode())
            time.sleep(hold)
            connection.commit()
            done += 1
    return done


def check(stop: Stop, config: str) -> Reads:
    """`pipedag-dagster check --database`: `mixed` when it finds catalog and views of different versions."""
    store = PipedagConfig(config).get("full").store.table_store
    done = Reads()
    while not stop():
        try:
            done.mixed += any(not found.harmless for found in differences(store))
        except Exception as error:
            done.errors[f"{type(error).__name__}: {error}"] += 1
        done.statements += 1
    return done


def read_pinned(stop: Stop, config: str) -> Reads:
    """Reads through the store: what a run has pinned, table by table."""
    store = PipedagConfig(config).get("full").store.table_store
    done = Reads()
    while not stop():
        run_id = uuid.uuid4().hex
        started = time.perf_counter()
        try:
            tables = store.pin(run_id, [STAGE])[STAGE].tables.values()
            seen = [int(store.read(table)["generation"].item()) for table in list(tables)[::5]]
            done.mixed += len(set(seen)) > 1
        except Exception as error:
            done.errors[f"{type(error).__name__}: {error}"] += 1
        finally:
            store.unpin(run_id)
        done.seconds.append(time.perf_counter() - started)
        done.statements += 1
    return done
