"""Tasks run in processes and on Dask under Dagster, too, whatever executes its steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipedag_dagster_tests.helpers import Instances, Query
from pipedag_dagster_tests.helpers.gated_project import Project


@pytest.mark.parametrize(("executor", "tasks"), [("multiprocess", "processes"), ("in_process", "dask")])
def test_a_run_of_dagster(instances: Instances, query: Query, tmp_path: Path, executor: str, tasks: str) -> None:
    instances(any=f"executor: {executor}\ntasks: {{on: {tasks}, workers: 1}}\n")
    project = Project(tmp_path)
    run = project.materialize()
    assert run.wait(120) == 0, project.log("dagster")
    assert query("SELECT count(*) FROM full_raw.orders") == [(3,)]
