"""A worker may die at any time. Its task is tried again, nobody sees half a table, and nothing is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipedag_dagster import ConfigContext
from pipedag_dagster.errors import ConnectionLost, SeveralFailed, WorkerLost
from pipedag_dagster.versions.verify import differences
from pipedag_dagster.workers import processes
from pipedag_dagster_tests.helpers import Instances, Query, travelling
from pipedag_dagster_tests.helpers.gated_project import wait_for

WORKERS = ["processes", "dask"]


def on(instances: Instances, place: str) -> ConfigContext:
    """An instance whose tasks run there."""
    return instances(any=f"tasks: {{on: {place}, workers: 2}}\n").get("full")


def physical_tables(instance: ConfigContext, query: Query) -> set[str]:
    schema = instance.store.table_store.schemas("work").versions
    return {name for (name,) in query(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")}


def recorded(instance: ConfigContext) -> set[str]:
    version = instance.store.table_store.current(["work"])["work"]
    return {table.physical for table in version.tables.values() if table.in_database}


@pytest.mark.parametrize("place", WORKERS)
@pytest.mark.parametrize(
    ("task", "table", "rows"),
    [
        (travelling.dies_before, "dies_before", 2),
        (travelling.dies_in_a_stream, "dies_in_a_stream", 20_000),
        (travelling.dies_after_a_table, "first", 1),
    ],
    ids=["before", "in a stream", "after a table"],
)
def test_a_task_whose_worker_was_killed_is_tried_again(
    instances: Instances, query: Query, tmp_path: Path, place: str, task: Any, table: str, rows: int
) -> None:
    instance, mark = on(instances, place), tmp_path / "died"
    result = travelling.dying(task, mark).run(config=instance, fail_fast=True)
    assert result.successful
    assert mark.exists()
    assert query(f"SELECT count(*) FROM full_work.{table}") == [(rows,)]
    assert physical_tables(instance, query) == recorded(instance)
    assert differences(instance.store.table_store) == []


@pytest.mark.parametrize("place", WORKERS)
def test_a_task_that_ends_every_worker_fails_and_the_others_are_kept(instances: Instances, place: str) -> None:
    instance = on(instances, place)
    result = travelling.dying(travelling.dies_always).run(config=instance, fail_fast=False)
    assert isinstance(result.exception, WorkerLost)
    assert "work.dies_always" in str(result.exception)
    again = travelling.talking().run(config=instance, fail_fast=True)
    assert [record.cached for record, _ in again.tables] == [True]


def test_each_attempt_is_shown(instances: Instances, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    travelling.dying(travelling.dies_before, tmp_path / "died").run(config=on(instances, "processes"), fail_fast=True)
    assert "work.dies_before: its process was ended by SIGKILL, attempt 1 of 3" in caplog.text


def test_processes_start_again_when_their_template_was_killed(
    instances: Instances, query: Query, tmp_path: Path
) -> None:
    instance = on(instances, "processes")
    travelling.talking().run(config=instance, fail_fast=True)
    os.kill(processes._template()._process.pid, signal.SIGKILL)
    travelling.dying(travelling.dies_before, tmp_path / "died").run(config=instance, fail_fast=True)
    assert query("SELECT count(*) FROM full_work.dies_before") == [(2,)]


@pytest.mark.parametrize("place", WORKERS)
def test_a_run_that_has_lost_its_lock_records_nothing(
    instances: Instances, query: Query, tmp_path: Path, place: str
) -> None:
    """A worker may write for longer than the run lives. What it has written is dropped by the next commit."""
    instance, gate = on(instances, place), tmp_path / "gate"
    errors: list[Any] = []
    flow = travelling.waiting(gate)
    run = threading.Thread(target=lambda: errors.append(flow.run(config=instance, fail_fast=False).exception))
    run.start()
    wait_for((tmp_path / "gate.waits").exists, "the task began")
    query("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()")
    gate.touch()
    run.join(60)
    found = errors[0].failures if isinstance(errors[0], SeveralFailed) else errors
    assert any(isinstance(error, ConnectionLost) for error in found)
    assert query("SELECT count(*) FROM pg_views WHERE schemaname = 'full_work'") == [(0,)]
    assert flow.run(config=instance, fail_fast=True).successful
    assert physical_tables(instance, query) == recorded(instance)


HOST = """
import sys
from pathlib import Path
from pipedag_dagster import PipedagConfig
from pipedag_dagster_tests.helpers import travelling
if __name__ == "__main__":
    instance = PipedagConfig(sys.argv[1]).get("full")
    travelling.waiting(Path(sys.argv[2])).run(config=instance)
"""


@pytest.mark.parametrize(
    ("place", "how"),
    [("processes", signal.SIGKILL), ("processes", signal.SIGINT), ("dask", signal.SIGKILL), ("dask", signal.SIGINT)],
    ids=["processes, killed", "processes, Ctrl-C", "dask, killed", "dask, Ctrl-C"],
)
def test_workers_end_with_the_run(
    instances: Instances, query: Query, tmp_path: Path, place: str, how: signal.Signals
) -> None:
    """In the middle of a task: nobody would record what they write."""
    instance, gate = on(instances, place), tmp_path / "gate"
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(instance.files.path), str(gate)],
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    wait_for((tmp_path / "gate.waits").exists, "the task began")
    children = psutil.Process(host.pid).children(recursive=True)
    (worker,) = [child for child in children if child.pid == int((tmp_path / "gate.waits").read_text())]
    os.killpg(host.pid, how) if how == signal.SIGINT else os.kill(host.pid, how)
    host.communicate(timeout=60)
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker ended")
    gate.touch()
    assert travelling.waiting(gate).run(config=instance, fail_fast=True).successful
    assert physical_tables(instance, query) == recorded(instance)
