"""Runs whose steps are in processes of their own: one view of the data, whatever happens to the processes."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import yaml
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value

from pipedag_dagster import (
    ConfigContext,
    Flow,
    InstanceResource,
    Stage,
    Table,
    TableIOManager,
    build_definitions,
    materialize,
)
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.orchestration.executors import release_ended
from pipedag_dagster_tests.helpers import Instances, Query
from pipedag_dagster_tests.helpers.gated_project import Project, kill, redis, running, wait_for

MINI = "attrs: {copy_filtered_input: true, copy_source: full}\n"


@pytest.fixture
def project(instances: Instances, tmp_path: Path) -> Project:
    instances(any="executor: multiprocess\nkeep_versions: 1\n", mini=MINI)
    return Project(tmp_path)


def done(process: Any, project: Project, program: str = "dagster") -> None:
    assert process.wait(120) == 0, project.log(program)


def test_a_run_in_several_processes_sees_one_version_of_every_stage(project: Project, query: Query) -> None:
    done(project.command("pipedag-dagster", "run", "full", "-m", "shop_flow"), project)
    project.set_orders(1, 2)
    project.close_gate()
    run = project.materialize()
    with running(run):
        wait_for(project.reached, "the middle of the run")
        # Another run commits the first stage, twice; only one version is kept.
        for orders in ((7,), (8, 9)):
            project.set_orders(*orders)
            done(project.command("pipedag-dagster", "run", "full", "-m", "shop_flow", "--select", "raw"), project)
        assert query("SELECT count(*) FROM full_raw.orders") == [(2,)]
        project.open_gate()
        done(run, project)
    assert sorted(query("SELECT id, seen_by_clean FROM full_report.report")) == [(1, 2), (2, 2)]
    assert query("SELECT * FROM full_pipedag.pin") == []


CELERY = """\
executor:
  celery:
    broker: "{broker}"
    backend: "{broker}"
    config_source:
      task_acks_late: true
      broker_transport_options: {{visibility_timeout: {timeout}}}
"""


VISIBLE_AGAIN = 1
"""Seconds after which Redis gives out again what no worker has confirmed."""


@pytest.fixture
def celery(instances: Instances, tmp_path: Path) -> Iterator[Project]:
    pytest.importorskip("dagster_celery", reason="pip install 'pipedag_dagster[celery]'")
    with redis(tmp_path) as broker:
        text = CELERY.format(broker=broker, timeout=VISIBLE_AGAIN)
        instances(any=text)
        project = Project(tmp_path)
        options = yaml.safe_load(text)["executor"]["celery"]
        (tmp_path / "celery.yaml").write_text(yaml.safe_dump({"execution": {"config": options}}))
        yield project


def worker(project: Project, name: str) -> Any:
    """A Celery worker in a folder of its own: it knows the project by PYTHONPATH and nothing else."""
    folder = project.folder / name
    folder.mkdir()
    return project.command(
        "dagster-celery",
        "worker",
        "start",
        "-A",
        "dagster_celery.app",
        "-n",
        name,
        "-y",
        str(project.folder / "celery.yaml"),
        "--",
        "-c",
        "1",
        cwd=folder,
    )


def test_a_celery_worker_that_is_killed_in_the_middle(celery: Project, query: Query) -> None:
    """Its step is done again by another worker, once Redis gives it out again; nothing half-done is ever seen."""
    workers = [worker(celery, "one"), worker(celery, "two")]
    with running(*workers):
        done(celery.command("pipedag-dagster", "run", "full", "-m", "shop_flow"), celery, "pipedag-dagster")
        assert query("SELECT count(*) FROM full_report.report") == [(3,)]
        celery.set_orders(1, 2)
        celery.close_gate()
        run = celery.materialize()
        with running(run):
            wait_for(celery.reached, "the middle of the run")
            (pid,) = celery.reached()
            kill(next(process for process in workers if os.getpgid(pid) == process.pid))
            assert query("SELECT count(*) FROM full_middle.clean") == [(3,)]
            assert query("SELECT count(*) FROM full_report.report") == [(3,)]
            celery.open_gate()
            time.sleep(VISIBLE_AGAIN)
            # As a supervisor does. A worker looks for what is due when it starts, and then only every 100 s.
            replacement = worker(celery, "three")
            with running(replacement):
                done(run, celery)
                assert query("SELECT count(*) FROM full_report.report") == [(2,)]
                assert query("SELECT * FROM full_pipedag.pin") == []
                (run_id,) = query("SELECT DISTINCT run_id FROM full_pipedag.stage_version WHERE number = 2")
                with dg.DagsterInstance.from_config(str(celery.home)) as dagster:
                    (record,) = dagster.get_run_records(dg.RunsFilter(run_ids=list(run_id)))
                    starts = [
                        entry.step_key
                        for entry in dagster.all_logs(record.dagster_run.run_id)
                        if "in celery worker" in entry.message
                    ]
                assert starts.count("full__middle") == 2, "that it was done again shows in the run's log"
    assert query("SELECT stage, max(number) FROM full_pipedag.stage_version GROUP BY stage ORDER BY stage") == [
        ("middle", 2),
        ("raw", 2),
        ("report", 2),
    ]


def test_dask_runs_what_was_selected_and_nothing_else(instances: Instances, tmp_path: Path, query: Query) -> None:
    """dagster-dask forgets the selection of the run on the way to the step."""
    pytest.importorskip("dagster_dask", reason="pip install 'pipedag_dagster[dask]'")
    instances(any="executor: {dask: {cluster: {local: {n_workers: 1}}}}\n")
    project = Project(tmp_path)
    done(project.materialize(), project)
    assert query("SELECT * FROM full_pipedag.pin") == []
    query_text = "SELECT asset FROM full_pipedag.run_table GROUP BY asset HAVING count(*) > 1"
    assert query(query_text) == []
    done(project.materialize(select='key:"full/middle/other"'), project)
    assert query(query_text) == [("other",)]


# ---- what is said when definitions are loaded ------------------------------------------------------------------


def nothing(instance: ConfigContext) -> Flow:
    @materialize(input=True, outputs=["a"], version="1")
    def load() -> Table:
        return Table(pd.DataFrame({"a": [1]}))

    with Flow("shop") as flow, Stage("raw"):
        load()
    return flow


def executor_of(instances: Instances, text: str) -> dg.ExecutorDefinition:
    definitions = build_definitions(nothing, instances(any=text), instance="full")
    executor = definitions.resolve_job_def("full").executor_def
    assert executor is not None
    return executor


@pytest.mark.parametrize(
    ("text", "module", "name"),
    [
        ("executor: in_process\n", "dagster", "in_process"),
        ("executor: {multiprocess: {max_concurrent: 3, start_method: {spawn: {}}}}\n", "dagster", "multiprocess"),
        ("executor: {celery: {broker: redis://queue/0, backend: redis://queue/0}}\n", "dagster_celery", "celery"),
        ("executor: dask\n", "dagster_dask", "dask"),
        ("executor: {dask: {cluster: {existing: {address: 'tcp://dask:8786'}}}}\n", "dagster_dask", "dask"),
        (
            "executor: {k8s: {job_image: shop:1, job_namespace: shop, step_k8s_config: {container_config: "
            "{resources: {requests: {memory: 4Gi}}}}, env_vars: [SHOP_DB], max_concurrent: 2}}\n",
            "dagster_k8s",
            "k8s",
        ),
    ],
)
def test_an_executor_is_that_of_dagster(instances: Instances, text: str, module: str, name: str) -> None:
    pytest.importorskip(module)
    assert executor_of(instances, text).name == name


@pytest.mark.parametrize(
    ("options", "module", "says"),
    [
        ("{celery: {brocker: redis://queue}}", "dagster_celery", "executor.celery: Received unexpected config entry"),
        ("{celery: {broker: 5}}", "dagster_celery", "executor.celery: "),
        ("{dask: {cluster: {locale: {}}}}", "dagster_dask", "executor.dask: "),
        ("{k8s: {job_imag: shop}}", "dagster_k8s", "executor.k8s: Received unexpected config entry"),
    ],
)
def test_an_option_that_the_executor_does_not_have_is_refused_when_loaded(
    instances: Instances, options: str, module: str, says: str
) -> None:
    pytest.importorskip(module)
    with pytest.raises(ConfigError) as error:
        executor_of(instances, f"executor: {options}\n")
    assert says in str(error.value)
    assert f"{Path('instances') / '__any__.yaml'}:6: " in str(error.value)


def test_an_executor_that_is_not_installed_says_what_to_type(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dagster_celery", None)  # as if it were not there
    with pytest.raises(ConfigError, match=r"pip install 'pipedag_dagster\[celery\]'"):
        executor_of(instances, "executor: celery\n")


def test_the_password_of_a_broker_is_in_nothing_that_dagster_shows(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dagster_celery")
    monkeypatch.setenv("BROKER_PASSWORD", "hush-broker")
    text = 'executor: {celery: {broker: "redis://:{$BROKER_PASSWORD}@queue/0"}}\n'
    definitions = build_definitions(nothing, instances(any=text), instance="full")
    assert "hush-broker" not in serialize_value(RepositorySnap.from_def(definitions.get_repository_def()))
    assert "hush-broker" not in repr(definitions)


def test_what_a_killed_run_has_pinned_is_given_up_when_dagster_knows_that_it_has_ended(
    instances: Instances, tmp_path: Path, query: Query
) -> None:
    context = instances(mini=MINI).get("full")
    store = context.store.table_store
    assert nothing(context).run(config=context).successful
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as dagster:

        @dg.job
        def anything() -> None: ...

        ended, alive = (dagster.create_run_for_job(anything).run_id for _ in range(2))
        for run_id in (ended, alive, "of another Dagster"):
            store.pin(run_id, ["raw"])
        dagster.report_run_failed(dagster.get_run_by_id(ended))
        release_ended(dagster, context)
    assert sorted(query("SELECT run_id FROM full_pipedag.pin")) == sorted([(alive,), ("of another Dagster",)])


# ---- another host ----------------------------------------------------------------------------------------------


def test_what_a_step_needs_is_made_anew_in_another_folder_from_a_pickle(project: Project, query: Query) -> None:
    """Nothing of the process that has made it counts: no open connection, no working directory, no file beside it."""
    resource = InstanceResource(config_path=str(project.folder / "instances"), instance="full")
    manager = TableIOManager(instance=resource)
    assert resource.context.store.table_store.current(["raw"])["raw"].number == 0  # it has connected
    (project.folder / "manager").write_bytes(pickle.dumps(manager))
    script = """
import pickle, sys
import dagster as dg, pandas as pd
with open(sys.argv[1], "rb") as file:
    manager = pickle.load(file)
@dg.asset(group_name="raw", io_manager_key="io")
def numbers(): return pd.DataFrame({"a": [1, 2]})
@dg.asset(group_name="raw", io_manager_key="io")
def doubled(numbers: pd.DataFrame): return numbers * 2
assert dg.materialize([numbers, doubled], resources={"io": manager}).success
"""
    elsewhere = project.folder / "elsewhere"
    elsewhere.mkdir()
    done(project.command("python", "-c", script, str(project.folder / "manager"), cwd=elsewhere), project, "python")
    assert sorted(query("SELECT a FROM full_raw.doubled")) == [(2,), (4,)]
