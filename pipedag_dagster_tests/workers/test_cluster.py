"""A cluster of Dask with a scheduler and workers of its own: they have no file and no variable of the run."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from pipedag_dagster import ConfigContext, Flow, Stage
from pipedag_dagster.errors import WorkerLost
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Instances, Query, travelling
from pipedag_dagster_tests.helpers.gated_project import wait_for


class Cluster:
    """A scheduler, and workers in an empty folder, with the packages and the modules of the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
        self.scheduler = self._start([*command, "--host", "127.0.0.1"], {})
        self.address = self._wait_for(self.scheduler, r"Scheduler at: +(tcp://\S+)")

    def add_worker(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            self.address,
            "--no-dashboard",
            "--nthreads",
            "1",
            "--no-nanny",
        ]
        worker = self._start([*command, *options], environment)
        self._wait_for(worker, "Registered to")
        return worker

    def end(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.communicate(timeout=30)

    def _start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        tests = str(Path(travelling.__file__).parents[2])
        own = {"PATH": os.defpath, "HOME": str(self.folder), "PYTHONPATH": tests} | environment
        process = subprocess.Popen(command, cwd=self.folder, env=own, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    @staticmethod
    def _wait_for(process: subprocess.Popen[str], pattern: str) -> str:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(pattern, line):
                threading.Thread(target=process.stderr.read, daemon=True).start()  # so that it never waits for us
                return found[found.lastindex or 0]
        raise AssertionError(f"it ended before it printed {pattern!r}")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    cluster = Cluster(folder)
    yield cluster
    cluster.end()


def on(instances: Instances, cluster: Cluster) -> ConfigContext:
    return instances(any=f"tasks: {{on: dask, address: '{cluster.address}', workers: 2}}\n").get("full")


def test_workers_need_nothing_of_the_run(instances: Instances, query: Query, cluster: Cluster) -> None:
    cluster.add_worker()
    cluster.add_worker()
    instance = on(instances, cluster)
    assert travelling.everything(instance).run(config=instance, fail_fast=True).successful
    assert query("SELECT * FROM full_work.counted") == [(3,)]
    assert differences(instance.store.table_store) == []
    assert [file.name for file in cluster.folder.iterdir() if not file.name.startswith((".", "dask"))] == []


def test_a_killed_scheduler_is_the_error(instances: Instances, query: Query, cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_worker()
    flow, errors = travelling.waiting(tmp_path / "gate"), list[Any]()
    instance = on(instances, cluster)
    run = threading.Thread(target=lambda: errors.append(flow.run(config=instance, fail_fast=False).exception))
    run.start()
    wait_for((tmp_path / "gate.waits").exists, "the task began")
    cluster.scheduler.kill()
    run.join(60)
    assert isinstance(errors[0], WorkerLost)
    assert f"the scheduler of {cluster.address} is gone" in str(errors[0])
    (tmp_path / "gate").touch()
    threads = instances(any="tasks: threads\n").get("full")
    assert flow.run(config=threads, fail_fast=True).successful  # nothing holds the lock


def test_an_address_without_a_scheduler(instances: Instances) -> None:
    instance = instances(any="tasks: {on: dask, address: 'tcp://127.0.0.1:9'}\n").get("full")
    quickly = dask.config.set({"distributed.comm.timeouts.connect": "1s"})
    message = r"Dask at tcp://127\.0\.0\.1:9 cannot be reached.*tasks\.address"
    with quickly, pytest.raises(WorkerLost, match=message):
        travelling.talking().run(config=instance, fail_fast=True)


def test_a_task_runs_where_its_resources_are(
    instances: Instances, query: Query, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.add_worker()
    with Flow("placed") as flow, Stage("work"):
        travelling.needs_a_gpu()
    errors: list[Any] = []
    instance = on(instances, cluster)
    run = threading.Thread(target=lambda: errors.append(flow.run(config=instance, fail_fast=False).exception))
    run.start()
    message = f"work.needs_a_gpu: it waits: none of the 1 workers of {cluster.address} has gpu=1"
    wait_for(lambda: message in caplog.text, "the message")
    worker = cluster.add_worker("--resources", "gpu=1")
    run.join(60)
    assert errors == [None]
    assert query("SELECT process FROM full_work.needs_a_gpu") == [(worker.pid,)]


def test_a_worker_without_the_users_modules_is_named(
    instances: Instances, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text(
        "import pandas as pd\nfrom pipedag_dagster import materialize\n"
        "@materialize\ndef count():\n    return pd.DataFrame({'x': [1]})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    only_here = importlib.import_module("only_here")

    cluster.add_worker()
    with Flow("shop") as flow, Stage("work"):
        only_here.count()
    with pytest.raises(WorkerLost, match="cannot import only_here, which the task needs"):
        flow.run(config=on(instances, cluster), fail_fast=True)


def test_other_versions_on_the_worker_are_named(instances: Instances, cluster: Cluster, tmp_path: Path) -> None:
    old = tmp_path / "old" / "cloudpickle-0.0.1.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: cloudpickle\nVersion: 0.0.1\n")
    tests = str(Path(travelling.__file__).parents[2])
    cluster.add_worker(PYTHONPATH=f"{old.parent}{os.pathsep}{tests}")
    with pytest.raises(WorkerLost, match=r"The worker has cloudpickle 0\.0\.1 instead of \d.*same versions"):
        travelling.talking().run(config=on(instances, cluster), fail_fast=True)
