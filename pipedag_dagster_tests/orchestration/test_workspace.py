"""Several code locations in one workspace: the daemon that runs their sensors, and several pipelines side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster.errors import ConfigError
from pipedag_dagster.orchestration.run import execute
from pipedag_dagster.orchestration.workspace import locations, refuse_shared_keys
from pipedag_dagster_tests.helpers import Instances, Query
from pipedag_dagster_tests.helpers.gated_project import Project, running, wait_for

MINI = "attrs: {copy_filtered_input: true, copy_source: full}\n"
LOCATION = "  - python_module: {{module_name: {module}, attribute: {name}, location_name: {module}_{name}}}\n"


def write_workspace(folder: Path, *modules: str) -> Path:
    entries = (LOCATION.format(module=module, name=name) for module in modules for name in ("full", "mini"))
    file = folder / "workspace.yaml"
    file.write_text("load_from:\n" + "".join(entries))
    return file


def test_the_daemon_runs_mini_when_the_command_line_has_committed_full(
    instances: Instances, tmp_path: Path, query: Query
) -> None:
    instances(mini=MINI + "refresh: {interval: 1, default_status: running}\n")
    project = Project(tmp_path)
    write_workspace(tmp_path, "shop_flow")

    def full(*orders: int) -> None:
        project.set_orders(*orders)
        assert project.command("pipedag-dagster", "run", "full").wait(120) == 0, project.log("pipedag-dagster")

    def mini() -> list[Any]:
        there = query("SELECT to_regclass('mini_report.report') IS NOT NULL") == [(True,)]
        return sorted(query("SELECT id FROM mini_report.report")) if there else []

    daemon = project.command("dagster-daemon", "run", "-w", "workspace.yaml")
    with running(daemon):
        for orders in ((1, 2, 3), (4,)):
            full(*orders)
            wait_for(lambda wanted=orders: mini() == [(id_,) for id_ in wanted], f"{orders} in mini")
            assert daemon.poll() is None
    with dg.DagsterInstance.from_config(str(project.home)) as dagster:
        runs = dagster.get_runs(dg.RunsFilter(job_name="mini"))
    assert [run.tags["dagster/sensor_name"] for run in runs] == ["mini_refresh"] * 2
    assert runs[0].tags["pipedag/reads/full/raw"] == "2"


PIPELINE = """
import pandas as pd
from pipedag_dagster import Flow, Stage, build_definitions, materialize

@materialize(input=True, outputs=["orders"], version="1", cache=lambda: 1)
def load():
    return pd.DataFrame({{"id": [1, 2], "pipeline": "{name}"}})

def build(instance):
    with Flow("flow") as flow, Stage("raw"):
        load()
    return flow

full, mini = (build_definitions(build, "{name}.yaml", instance=name) for name in ("full", "mini"))
"""
CONFIG = """
name: {name}
instances:
  __any__:
    table_store: {{args: {{url: "{url}", schema_prefix: "{prefix}"}}}}
    schedule: "0 6 * * *"
  full: {{instance_id: "{id}full", poll: 60}}
  mini:
    instance_id: "{id}mini"
    attrs: {{copy_filtered_input: true, copy_source: full, copy_filter_cnt: 1}}
    refresh: on_source
"""


@pytest.fixture
def pipelines(tmp_path: Path, database_url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Two pipelines, `shop` and `bank`, each with two instances: a workspace of four locations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(suffix: str, urls: dict[str, sa.URL] | None = None, *, own_ids: bool = True) -> Path:
        modules = []
        for name in ("shop", "bank"):
            url = (urls or {}).get(name, database_url).render_as_string(hide_password=False)
            text = CONFIG.format(name=name, url=url, id=f"{name}_" * own_ids, prefix="{instance_id}_")
            (tmp_path / f"{name}.yaml").write_text(text)
            module = f"{name}_{suffix}"  # modules are loaded once in a process
            (tmp_path / f"{module}.py").write_text(PIPELINE.format(name=name))
            modules.append(module)
        return write_workspace(tmp_path, *modules)

    return make


def names_of(definitions: dg.Definitions) -> list[str]:
    repository = definitions.get_repository_def()
    found = [*repository.get_all_jobs(), *repository.schedule_defs, *repository.sensor_defs]
    return [one.name for one in found if not one.name.startswith("__")]


@pytest.mark.parametrize("databases", ["one", "several"])
def test_two_pipelines_with_two_instances_each_in_one_workspace(
    pipelines: Callable[..., Path],
    query: Query,
    databases: str,
    database_url: sa.URL,
    server_url: sa.URL,
) -> None:
    admin, bank = server_url.render_as_string(hide_password=False), f"{database_url.database}_bank"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{bank}"'.encode())
    try:
        urls = {"bank": database_url.set(database=bank)} if databases == "several" else None
        found = locations(workspace=pipelines(databases, urls))
        refuse_shared_keys(found)
        assert [location.instance.instance_id for location in found] == [
            "shop_full",
            "shop_mini",
            "bank_full",
            "bank_mini",
        ]
        names = [set(names_of(location.definitions)) for location in found]
        assert len(set[str]().union(*names)) == sum(map(len, names)), "no name is there twice"
        assert names[1] == {"shop_mini", "shop_mini_raw", "shop_mini_schedule", "shop_mini_refresh"}
        for location in found:
            assert execute(location.definitions, location.instance).successful
        rows = {}
        for location in found:
            store = location.instance.store.table_store
            frame = store.read(store.current(["raw"])["raw"].tables["orders"])
            rows[location.instance.instance_id] = (len(frame), *frame["pipeline"].unique())
            store.close()
        assert rows == {
            "shop_full": (2, "shop"),
            "shop_mini": (1, "shop"),
            "bank_full": (2, "bank"),
            "bank_mini": (1, "bank"),
        }
        assert query("SELECT to_regclass('bank_full_raw.orders') IS NULL") == [(databases == "several",)]
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{bank}" WITH (FORCE)'.encode())


def test_two_pipelines_whose_instances_have_one_id_are_refused(pipelines: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"shop_same:full and bank_same:full.*full/raw/orders.*instance_id"):
        refuse_shared_keys(locations(workspace=pipelines("same", own_ids=False)))
