"""One writer: one run at a time writes a stage; whoever reads it meanwhile sees one version; nobody else waits."""

from __future__ import annotations

import functools
import logging
import os
import queue
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipedag_dagster import PipedagConfig
from pipedag_dagster.cli.main import main
from pipedag_dagster.errors import ConnectionLost, DatabaseError, RunActive
from pipedag_dagster.orchestration.definitions import define
from pipedag_dagster.orchestration.run import execute
from pipedag_dagster.postgres import advisory_lock
from pipedag_dagster.versions import history, removal
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.torture import shop
from pipedag_dagster_tests.torture.shop import Tables, World
from pipedag_dagster_tests.torture.victim import SECONDS, Paused

OLD, NEW = World(head=1, tail=1), World(head=2, tail=2)


@dataclass(frozen=True)
class Done:
    """What became of a run, as its process tells it."""

    run_id: str
    error: BaseException | None
    ran: list[str]


def run(config: str, instance: str, world: World, *stages: str) -> Done:
    """Run an instance, or some of its stages."""
    ran: list[str] = []
    flow, context = shop.flow(world, ran=ran), PipedagConfig(config).get(instance)
    tables = [(stage.name, a) for stage in flow.stages for call in stage.calls for a in call.assets]
    chosen = [table for table in tables if not stages or table[0] in stages]
    result = execute(define(context, [flow]), context, selection=chosen)
    return Done(result.run_id, result.error, ran)


def shown(store: TableStore, stage: str) -> Tables:
    """What the committed tables hold."""
    tables = store.current([stage])[stage].tables.values()
    return {table.name: sorted(store.read(table).itertuples(index=False, name=None)) for table in tables}


def report(world: World) -> Tables:
    return shop.report_tables(shop.raw_tables(world.source()), world.code)


class Place:
    """The instances of the test, and runs of them in this process and in others."""

    def __init__(self, files: PipedagConfig) -> None:
        self.config = str(files.path)
        self.full = files.get("full").store.table_store
        self.midi = files.get("midi").store.table_store
        self.threads = ThreadPoolExecutor(1)

    def run(self, world: World, *stages: str, instance: str = "full") -> Done:
        return run(self.config, instance, world, *stages)

    def meanwhile(self, world: World, *stages: str) -> Future[Done]:
        return self.threads.submit(self.run, world, *stages)

    def pause(self, world: World, *stages: str, at: str, calls: int = 1, instance: str = "full") -> Paused[Done]:
        return Paused(functools.partial(run, self.config, instance, world, *stages), at, calls)


@pytest.fixture
def place(instances: Instances) -> Iterator[Place]:
    """Both instances have run in the old world."""
    place = Place(instances(midi=shop.MIDI))
    for instance in ("full", "midi"):
        assert place.run(OLD, instance=instance).error is None
    yield place
    place.threads.shutdown()


@pytest.fixture
def waits() -> Iterator[queue.Queue[str]]:
    """What runs in this process say when they wait."""
    told: queue.Queue[str] = queue.Queue()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.put(record.getMessage())

    listener, logger = Listener(logging.WARNING), logging.getLogger(advisory_lock.__name__)
    logger.addHandler(listener)
    yield told
    logger.removeHandler(listener)


def test_the_second_waits_says_for_whom_and_finds_its_work_cached(place: Place, waits: queue.Queue[str]) -> None:
    first = place.pause(NEW, at="before the commit")
    second = place.meanwhile(NEW)
    message = waits.get(timeout=SECONDS)
    assert not second.done()
    done = first.go()
    assert (done.error, done.ran) == (None, ["load", "scaled"])
    assert (second.result(SECONDS).error, second.result().ran) == (None, [])
    holder = rf"pipedag run {done.run_id[:8]} \(process {first.process.pid} on {re.escape(os.uname().nodename)}\)"
    assert re.fullmatch(
        rf"stage 'raw' of instance 'full': waiting for {holder}, which holds its lock since [\d: -]{{19}}\. "
        r"If it hangs, stop its process, or: pipedag-dagster unlock full raw",
        message,
    )


def test_a_run_whose_connection_is_cut_while_it_waits(place: Place, waits: queue.Queue[str]) -> None:
    first = place.pause(NEW, at="before the commit")
    second = place.meanwhile(NEW)
    waits.get(timeout=SECONDS)
    with place.full.database.connect("test") as connection:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ %s"
        connection.execute(query, [rf"^pipedag run .* \(process {os.getpid()} on"])
    assert isinstance(second.result(SECONDS).error, ConnectionLost)
    assert first.go().error is None


def test_a_run_that_waits_no_longer_than_lock_timeout(instances: Instances) -> None:
    place = Place(instances(full="lock_timeout: 0.2\n", midi=shop.MIDI))
    assert place.run(OLD).error is None
    first = place.pause(NEW, at="before the commit")
    second = place.run(NEW)
    assert isinstance(second.error, RunActive)
    assert re.search(
        rf"stage 'raw' of instance 'full' is being written by pipedag run .{{8}} \(process {first.process.pid} on .*, "
        r"and lock_timeout is 0\.2 s\. Nothing was done\..*pipedag-dagster unlock full raw",
        str(second.error),
    )
    assert second.ran == []
    assert first.go().error is None
    assert place.run(NEW).ran == []


def test_other_stages_and_other_instances_do_not_wait(place: Place) -> None:
    first = place.pause(NEW, "raw", at="inside the commit, after the catalog")
    other_code = World(head=1, tail=1, code=2)
    assert place.run(other_code, "report").error is None
    assert place.run(other_code, instance="midi").error is None
    assert first.go().error is None
    assert shown(place.full, "report") == report(other_code)


def test_a_run_sees_one_version_of_what_it_reads_while_another_process_commits_it(place: Place) -> None:
    """From its first step to its last; what it reads is kept for it, and cleaned away after it."""
    recode = World(head=1, tail=1, code=2)
    reading = place.pause(recode, "report", at="before an upload")  # it has pinned `raw`, and read some of it
    for amount in (2, 3, 4):
        assert place.run(World(head=amount, tail=amount), "raw").error is None
    assert [version.number for version in history.versions(place.full, "raw")] == [4, 3, 1]
    done = reading.go()
    assert done.error is None
    assert shown(place.full, "report") == report(recode)
    removal.gc(place.full, "gc")
    assert [version.number for version in history.versions(place.full, "raw")] == [4, 3]


MODULE = """\
from pipedag_dagster import build_definitions
from pipedag_dagster_tests.torture import shop

def build(instance=None):
    return shop.flow(shop.World())

full = build_definitions(build, "instances", instance="full")
"""


def unlock(monkeypatch: pytest.MonkeyPatch, place: Place, stage: str = "raw") -> None:
    folder = Path(place.config).parent
    monkeypatch.chdir(folder)
    (folder / "hanging_shop.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "hanging_shop", raising=False)  # that of another test
    with suppress(SystemExit):
        main(["unlock", "full", stage, "--yes", "-m", "hanging_shop"])


def test_a_run_that_hangs_loses_its_lock_to_unlock_and_cannot_commit(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unlock(monkeypatch, place, "rwa")
    assert "Instance 'full' has no stage 'rwa'. Did you mean 'raw'?" in capsys.readouterr().err
    unlock(monkeypatch, place)
    assert "Nobody holds the lock of stage 'raw' of instance 'full'." in capsys.readouterr().out
    hanging = place.pause(NEW, at="before the commit")
    unlock(monkeypatch, place)
    output = capsys.readouterr().out
    assert f"process {hanging.process.pid} on" in output
    assert "stage 'raw' of instance 'full': free." in output
    newest = World(head=3, tail=3)
    assert place.run(newest).error is None
    done = hanging.go()
    assert isinstance(done.error, ConnectionLost)
    assert "the lock is lost" in str(done.error)
    assert shown(place.full, "report") == report(newest)
    assert [one for one in differences(place.full) if not one.harmless] == []


def test_a_lock_that_is_taken_away_inside_of_a_commit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that commits goes on. The other must not touch its views, and comes too late with its own."""
    first = place.pause(NEW, "raw", at="inside the commit, after the catalog")
    unlock(monkeypatch, place)
    newest = World(head=3, tail=3)
    second = place.meanwhile(newest, "raw")
    with place.full.database.connect("test") as connection:
        while not connection.execute(AT_THE_GATE).fetchone():
            assert not second.done()
            time.sleep(0.05)
    assert first.go().error is None
    late = second.result(SECONDS)
    assert type(late.error) is DatabaseError
    assert "Version 2 of stage 'raw' of instance 'full'" in str(late.error)
    assert "another run has made it meanwhile" in str(late.error)
    assert shown(place.full, "raw") == shop.raw_tables(NEW.source())
    assert [one for one in differences(place.full) if not one.harmless] == []
    assert place.run(newest).ran == ["scaled"]  # what it had staged is reused


AT_THE_GATE = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


# Copies


def test_a_copy_and_the_commits_of_its_source_do_not_wait_for_each_other(place: Place) -> None:
    """The copy is in the middle of its transaction, and reads the source's tables, while the source commits until the
    version that is copied is not kept any more."""
    assert place.run(NEW).error is None
    copying = place.pause(NEW, instance="midi", at="before constraints and statistics", calls=2)
    for amount in (3, 4, 5):
        assert place.run(World(head=amount, tail=amount)).error is None
    assert copying.go().error is None
    assert shown(place.midi, "raw") == shop.raw_tables(NEW.source()[: shop.SAMPLE])


def test_a_source_in_the_middle_of_a_commit_keeps_no_copy_waiting(place: Place) -> None:
    assert place.run(NEW).error is None
    committing = place.pause(World(head=3, tail=3), at="inside the commit, after the catalog")
    copied = place.run(NEW, instance="midi")
    assert copied.error is None
    rows = NEW.source()[: shop.SAMPLE]
    assert shown(place.midi, "raw") == shop.raw_tables(rows)
    assert committing.go().error is None
