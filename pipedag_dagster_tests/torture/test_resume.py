"""Resumed: a stage whose last table fails begins, after the task was fixed, at its last table."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest

from pipedag_dagster import PipedagConfig
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.torture import count

TABLES = 10
PROJECT = """\
import pandas as pd
from pathlib import Path
from pipedag_dagster import Flow, PipedagConfig, Stage, build_definitions, materialize

@materialize()
def make(number: int, before: pd.DataFrame | None = None) -> pd.DataFrame:
    with Path("ran").open("a") as log:
        log.write(f"{number}\\n")
    return pd.DataFrame({"n": [number]})

@materialize()
def last(table: pd.DataFrame) -> pd.DataFrame:
    with Path("ran").open("a") as log:
        log.write("last\\n")
    MEND
    return table

def build(instance=None):
    with Flow("ten") as flow, Stage("work"):
        table = None
        for number in range(COUNT - 1):
            table = make(number, table)
        last(table)
    return flow

full = build_definitions(build, "instances", instance="full")

def full_job():
    return full.resolve_job_def("full")
""".replace("COUNT", str(TABLES))


class Project:
    """A project in a folder of its own, whose last task is broken until it is fixed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write('raise RuntimeError("not today")')

    def write(self, line: str) -> None:
        (self.folder / "ten_tables.py").write_text(PROJECT.replace("MEND", line))
        sys.modules.pop("ten_tables", None)
        importlib.invalidate_caches()

    def load(self) -> ModuleType:
        return importlib.import_module("ten_tables")

    def ran(self) -> list[str]:
        """The tasks that have run since this was asked last."""
        log = self.folder / "ran"
        lines = log.read_text().split()
        log.write_text("")
        return lines


@pytest.fixture
def project(instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    instances()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it may be written twice within one second
    yield Project(tmp_path)
    sys.modules.pop("ten_tables", None)


EVERYTHING = [*map(str, range(TABLES - 1)), "last"]


def test_the_next_run_reuses_nine_of_ten(project: Project) -> None:
    counted = count("resumed: the last of ten fails, nine are reused")
    config = PipedagConfig("instances").get("full")
    assert not project.load().build().run(config, fail_fast=False).successful
    assert project.ran() == EVERYTHING
    project.write("pass")
    result = project.load().build().run(config)
    assert result.successful
    ran = project.ran()
    counted.tries, counted.violations = TABLES - 1, len(set(ran) - {"last"})
    assert ran == ["last"]
    assert [str(run.reason) for run, _ in result.tables] == [*["cached"] * (TABLES - 1), "new"]


AGAIN = """\
import sys
import dagster as dg
from ten_tables import full_job

with dg.DagsterInstance.local_temp("home") as dagster:
    options = dg.ReexecutionOptions.from_failure(sys.argv[1], dagster)
    with dg.execute_job(dg.reconstructable(full_job), instance=dagster, reexecution_options=options) as again:
        sys.exit(not again.success)
"""


def test_reexecution_from_failure_in_dagster_reuses_nine_of_ten(project: Project) -> None:
    counted = count("resumed: the same, re-executed from failure in Dagster")
    (project.folder / "home").mkdir()
    job = dg.reconstructable(project.load().full_job)
    with dg.DagsterInstance.local_temp("home") as dagster, dg.execute_job(job, instance=dagster) as failed:
        assert not failed.success
    assert project.ran() == EVERYTHING
    project.write("pass")
    # In a process of its own: Dagster would remember the code as it was.
    (project.folder / "again.py").write_text(AGAIN)
    subprocess.run([sys.executable, "again.py", failed.run_id], check=True, timeout=120)
    ran = project.ran()
    counted.tries, counted.violations = TABLES - 1, len(set(ran) - {"last"})
    assert ran == ["last"]
