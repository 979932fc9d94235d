"""What Dagster sees of a pipeline: assets, jobs, resources, events; and that the package keeps its layers."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, Table, build_definitions, materialize
from pipedag_dagster.errors import ConfigError, InvalidName, NotMaterialized, WiringError
from pipedag_dagster_tests.helpers import SECRET, Connection, Instances, visible
from pipedag_dagster_tests.helpers.launching import failure, launch, materializations, metadata

NUMBERS = pd.DataFrame({"a": [1, 2, 3], "word": ["x", None, "z"]})


@materialize(input=True, outputs=["dfa", "dfb"], version="1")
def load() -> tuple[Table, Table]:
    """Read the source.

    It has two tables.
    """
    return Table(NUMBERS, primary_key="a"), Table(NUMBERS)


@materialize(input_type=pd.DataFrame, version="1")
def doubled(df: pd.DataFrame) -> pd.DataFrame:
    return df.assign(a=df["a"] * 2)


@materialize(lazy=True, input_type=sa.Table)
def words(df: sa.Alias) -> sa.Select[Any]:
    return sa.select(df.c.word).where(df.c.word.is_not(None))


def build(instance: ConfigContext) -> Flow:
    with Flow("shop") as flow:
        with Stage("stage_1"):
            dfa, dfb = load()
            double = doubled(dfa)
        with Stage("stage_2"):
            doubled(double)
            words(dfb)
    return flow


def specs(definitions: dg.Definitions) -> dict[tuple[str, ...], dg.AssetSpec]:
    own = (assets for assets in definitions.assets or () if isinstance(assets, dg.AssetsDefinition))
    return {tuple(spec.key.path): spec for assets in own for spec in assets.specs}


# ---- the definitions -------------------------------------------------------------------------------------------


def test_a_stage_is_a_group_and_a_step_and_a_table_is_an_asset(instances: Instances) -> None:
    definitions = build_definitions(build, instances(), instance="full")
    assert {key: spec.group_name for key, spec in specs(definitions).items()} == {
        ("full", "stage_1", "dfa"): "stage_1",
        ("full", "stage_1", "dfb"): "stage_1",
        ("full", "stage_1", "doubled"): "stage_1",
        ("full", "stage_2", "doubled"): "stage_2",
        ("full", "stage_2", "words"): "stage_2",
    }
    job = definitions.resolve_job_def("full")
    assert {node.name for node in job.nodes} == {"full__stage_1", "full__stage_2"}
    assert [each.name for each in definitions.jobs or ()] == ["full", "full_stage_1", "full_stage_2"]
    assert job.executor_def is dg.in_process_executor


def test_dependencies_are_those_of_the_wiring_within_and_across_stages(instances: Instances) -> None:
    found = specs(build_definitions(build, instances(), instance="full"))
    assert {key[1:]: [dep.asset_key.path[1:] for dep in spec.deps] for key, spec in found.items()} == {
        ("stage_1", "dfa"): [],
        ("stage_1", "dfb"): [],
        ("stage_1", "doubled"): [["stage_1", "dfa"]],
        ("stage_2", "doubled"): [["stage_1", "doubled"]],
        ("stage_2", "words"): [["stage_1", "dfb"]],
    }


def test_a_copied_table_depends_on_that_of_its_source_in_another_code_location(instances: Instances) -> None:
    definitions = build_definitions(build, instances(), instance="midi")
    found = specs(definitions)
    assert [dep.asset_key for dep in found["midi", "stage_1", "dfa"].deps] == [dg.AssetKey(["full", "stage_1", "dfa"])]
    assert [dep.asset_key for dep in found["midi", "stage_1", "doubled"].deps] == [
        dg.AssetKey(["midi", "stage_1", "dfa"])
    ]
    graph = definitions.resolve_asset_graph()
    assert not graph.get(dg.AssetKey(["full", "stage_1", "dfa"])).is_materializable


def test_code_version_description_and_kinds_tell_what_makes_a_table(instances: Instances) -> None:
    config = instances()
    full, midi = (specs(build_definitions(build, config, instance=name)) for name in ("full", "midi"))
    assert all(spec.code_version for spec in (full | midi).values())
    assert full["full", "stage_1", "dfa"].code_version == "1"
    assert full["full", "stage_1", "dfa"].description == "Read the source.\n\nIt has two tables."
    assert full["full", "stage_1", "dfa"].kinds == {"full", "postgres", "pandas"}
    assert full["full", "stage_2", "words"].kinds == {"full", "postgres", "sql"}
    copied = midi["midi", "stage_1", "dfa"]
    assert copied.kinds == {"midi", "postgres", "table"}
    assert (copied.description or "").startswith("A sample of full/stage_1/dfa")
    assert (copied.description or "").endswith("Read the source.\n\nIt has two tables.")


def test_two_flows_share_one_code_location(
    instances: Instances, dagster: dg.DagsterInstance, connection: Connection
) -> None:
    def both(instance: ConfigContext) -> list[Flow]:
        with Flow("other") as other, Stage("raw"):
            load()
        return [build(instance), other]

    definitions = build_definitions(both, instances(), instance="full")
    assert {key[1] for key in specs(definitions)} == {"stage_1", "stage_2", "raw"}
    assert launch(definitions, dagster).success
    assert visible(connection, "full_raw") == ["dfa", "dfb"]


def test_two_flows_with_a_stage_of_one_name_are_refused(instances: Instances) -> None:
    with pytest.raises(WiringError, match="'stage_1'"):
        build_definitions(lambda instance: [build(instance), build(instance)], instances(), instance="full")


def test_names_that_the_database_would_cut_are_refused_before_anything_runs(instances: Instances) -> None:
    def long(instance: ConfigContext) -> Flow:
        with Flow("shop") as flow, Stage("s" * 50):
            load()
        return flow

    with pytest.raises(InvalidName, match="63"):
        build_definitions(long, instances(), instance="full")


def test_an_instance_id_may_have_characters_that_dagster_does_not_allow_in_names(
    instances: Instances, dagster: dg.DagsterInstance, connection: Connection
) -> None:
    definitions = build_definitions(build, instances(full="instance_id: full-1"), instance="full")
    assert launch(definitions, dagster, "full_1").success
    assert visible(connection, "full-1_stage_1") == ["dfa", "dfb", "doubled"]
    assert ("full-1", "stage_1", "dfa") in specs(definitions)


def test_a_user_can_have_an_instance_of_ones_own(
    instances: Instances, dagster: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "ann.b")
    monkeypatch.setenv("LOGNAME", "ann.b")
    config = instances()
    context = config.get("full", per_user=True)
    assert "ann" in context.instance_id
    definitions = build_definitions(build, config, instance="full", per_user=True)
    assert {key[0] for key in specs(definitions)} == {context.instance_id}
    job = next(iter(definitions.jobs or ())).name
    assert launch(definitions, dagster, job).success
    assert config.get("full").store.table_store.current(["stage_1"])["stage_1"].number == 0


# ---- what is reported, and when --------------------------------------------------------------------------------


def test_row_count_table_name_and_columns_are_those_of_the_table(
    instances: Instances, dagster: dg.DagsterInstance, connection: Connection
) -> None:
    result = launch(build_definitions(build, instances(), instance="full"), dagster)
    assert metadata(result, "dagster/row_count") == {
        "full/stage_1/dfa": 3,
        "full/stage_1/dfb": 3,
        "full/stage_1/doubled": 3,
        "full/stage_2/doubled": 3,
        "full/stage_2/words": 2,
    }
    for table, name in metadata(result, "dagster/table_name").items():
        assert name == f"{connection.info.dbname}.full_{'.'.join(table.split('/')[1:])}"
    columns = metadata(result, "dagster/column_schema")["full/stage_1/dfa"].columns
    assert [(column.name, column.type, column.constraints.nullable) for column in columns] == [
        ("a", "bigint", False),
        ("word", "text", True),
    ]
    assert columns[0].constraints.unique
    assert "primary key" in columns[0].constraints.other
    assert "SELECT" in metadata(launch_words(instances, dagster), "pipedag/query")["full/stage_2/words"]


def launch_words(instances: Instances, dagster: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return launch(build_definitions(build, instances(), instance="full"), dagster, "full", "full/stage_2/words")


def test_a_second_run_reports_every_table_again_as_cached_with_its_data_version(
    instances: Instances, dagster: dg.DagsterInstance
) -> None:
    definitions = build_definitions(build, instances(), instance="full")
    first, second = (launch(definitions, dagster) for _ in range(2))
    assert set(metadata(first, "pipedag/cached").values()) == {False}
    assert metadata(second, "pipedag/cached") == dict.fromkeys(materializations(first), True)
    versions = [
        {table: (each.tags or {})["dagster/data_version"] for table, each in materializations(result).items()}
        for result in (first, second)
    ]
    assert versions[0] == versions[1]
    assert len(versions[0]) == 5


def test_a_step_runs_when_all_that_it_reads_was_cached(instances: Instances, dagster: dg.DagsterInstance) -> None:
    def changed(instance: ConfigContext) -> Flow:
        @materialize(input_type=sa.Table, lazy=True)
        def words(df: sa.Alias) -> sa.Select[Any]:
            return sa.select(df.c.word)

        with Flow("shop") as flow:
            with Stage("stage_1"):
                dfa, dfb = load()
                double = doubled(dfa)
            with Stage("stage_2"):
                doubled(double)
                words(dfb)
        return flow

    launch(build_definitions(build, instances(), instance="full"), dagster)
    result = launch(build_definitions(changed, instances(), instance="full"), dagster)
    assert metadata(result, "pipedag/reason") == {
        "full/stage_1/dfa": "cached",
        "full/stage_1/dfb": "cached",
        "full/stage_1/doubled": "cached",
        "full/stage_2/doubled": "cached",
        "full/stage_2/words": "query changed",
    }


def test_a_task_that_fails_late_leaves_no_materialization_and_no_visible_table(
    instances: Instances, dagster: dg.DagsterInstance, connection: Connection
) -> None:
    @materialize
    def late(df: pd.DataFrame) -> pd.DataFrame:
        raise ValueError("out of luck")

    def failing(instance: ConfigContext) -> Flow:
        with Flow("shop") as flow, Stage("stage_1"):
            dfa, _ = load()
            late(dfa)
        return flow

    result = launch(build_definitions(failing, instances(), instance="full"), dagster)
    assert not result.success
    assert "stage_1.late failed: ValueError: out of luck" in failure(result)
    assert materializations(result) == {}
    assert visible(connection, "full_stage_1") == []


def test_the_log_names_a_task_when_it_starts_and_why(instances: Instances, dagster: dg.DagsterInstance) -> None:
    result = launch(build_definitions(build, instances(), instance="full"), dagster)
    messages = [entry.user_message for entry in dagster.all_logs(result.run_id) if entry.dagster_event is None]
    assert "stage_1.doubled: started: new" in messages
    assert messages.index("stage_1.doubled: started: new") < next(
        number for number, text in enumerate(messages) if text.startswith("stage_1.doubled: staged 3 rows")
    )


def test_a_commit_that_fails_leaves_no_materialization_and_no_visible_table(
    instances: Instances, dagster: dg.DagsterInstance, connection: Connection
) -> None:
    connection.execute(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no commit today'; END $$"
    )
    connection.execute(
        "CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('ALTER SCHEMA') EXECUTE FUNCTION refuse()"
    )
    result = launch(build_definitions(build, instances(), instance="full"), dagster)
    assert not result.success
    assert "no commit today" in failure(result)
    assert materializations(result) == {}
    assert visible(connection, "full_stage_1") == []


def test_nothing_stays_pinned_after_a_run_whether_it_succeeds_or_fails(
    instances: Instances, dagster: dg.DagsterInstance, connection: Connection
) -> None:
    config = instances()

    @materialize
    def broken(df: pd.DataFrame) -> pd.DataFrame:
        raise ValueError

    def failing(instance: ConfigContext) -> Flow:
        with Flow("shop") as flow, Stage("stage_1"):
            dfa, _ = load()
            broken(dfa)
        return flow

    for wiring, name, succeeds in ((build, "full", True), (build, "mini", True), (failing, "mini", False)):
        definitions = build_definitions(wiring, config, instance=name)
        assert launch(definitions, dagster, name).success is succeeds
        for instance in {"full", name}:
            assert connection.execute(f"SELECT * FROM {instance}_pipedag.pin").fetchall() == []


# ---- launching -------------------------------------------------------------------------------------------------


def test_a_launch_of_one_table_runs_only_that_and_reads_the_rest_as_committed(
    instances: Instances, dagster: dg.DagsterInstance, connection: Connection
) -> None:
    config = instances()
    launch(build_definitions(build, config, instance="full"), dagster)

    @materialize(input_type=pd.DataFrame, version="2")
    def doubled(df: pd.DataFrame) -> pd.DataFrame:
        return df.assign(a=df["a"] * 20)

    def changed(instance: ConfigContext) -> Flow:
        with Flow("shop") as flow:
            with Stage("stage_1"):
                dfa, _ = load()
                double = doubled(dfa)
            with Stage("stage_2"):
                doubled(double)
        return flow

    result = launch(build_definitions(changed, config, instance="full"), dagster, "full", "full/stage_2/doubled")
    assert list(materializations(result)) == ["full/stage_2/doubled"]
    query = "SELECT (SELECT max(a) FROM full_stage_1.doubled), (SELECT max(a) FROM full_stage_2.doubled)"
    assert connection.execute(query).fetchone() == (6, 120)


def test_a_launch_of_one_table_whose_input_was_never_committed_says_so(
    instances: Instances, dagster: dg.DagsterInstance, connection: Connection
) -> None:
    result = launch(build_definitions(build, instances(), instance="full"), dagster, "full", "full/stage_1/doubled")
    assert not result.success
    assert NotMaterialized.__name__ in failure(result)
    assert "stage_1.dfa" in failure(result)
    assert visible(connection, "full_stage_1") == []


def test_a_cache_mode_can_be_chosen_for_one_run(instances: Instances, dagster: dg.DagsterInstance) -> None:
    definitions = build_definitions(build, instances(), instance="full")
    launch(definitions, dagster)
    forced = launch(definitions, dagster, resource={"cache_validation_mode": "force_cache_invalid"})
    assert set(metadata(forced, "pipedag/reason").values()) == {"forced"}
    assert set(metadata(launch(definitions, dagster), "pipedag/reason").values()) == {"cached"}


def test_a_cache_mode_that_does_not_exist_is_refused_with_the_one_that_was_meant(instances: Instances) -> None:
    config = instances()
    with pytest.raises(ConfigError, match="Did you mean 'force_cache_invalid'"):
        build(config.get("full")).run(config=config.get("full"), cache_validation_mode="force_chache")


def test_the_run_config_that_the_launchpad_offers_can_be_launched_as_it_is(
    instances: Instances, dagster: dg.DagsterInstance
) -> None:
    definitions = build_definitions(build, instances(), instance="full")
    job = definitions.resolve_job_def("full")
    resources = job.run_config_schema.config_type.fields["resources"]  # type: ignore[attr-defined]
    assert not resources.is_required
    offered = resources.default_value
    assert offered["instance"]["config"]["instance"] == "full"
    assert job.execute_in_process(instance=dagster, run_config={"resources": offered}).success


def test_a_run_cannot_be_told_to_be_one_of_another_instance(
    instances: Instances, dagster: dg.DagsterInstance, connection: Connection
) -> None:
    definitions = build_definitions(build, instances(), instance="full")
    result = launch(definitions, dagster, resource={"instance": "mini"})
    assert not result.success
    assert "cannot be changed for one run" in failure(result)
    assert visible(connection, "mini_stage_1") + visible(connection, "full_stage_1") == []


PROJECT = '''
"""A project whose last task fails for as long as the environment says so."""

import os

import pandas as pd

from pipedag_dagster import Flow, Stage, build_definitions, materialize


@materialize(input=True, outputs=["dfa"], version="1")
def load():
    return pd.DataFrame({"a": [1, 2, 3]})


@materialize(input_type=pd.DataFrame, version="1")
def report(df):
    if "SHOP_BROKEN" in os.environ:
        raise ValueError("broken")
    return df


def build(instance):
    with Flow("shop") as flow:
        with Stage("stage_1"):
            dfa = load()
        with Stage("stage_2"):
            report(dfa)
    return flow


full, mini = (build_definitions(build, "instances", instance=name) for name in ("full", "mini"))


def full_job():
    return full.resolve_job_def("full")
'''


@pytest.fixture
def project(instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A project in a folder of its own, which is the working directory."""
    instances()
    (tmp_path / "dagster_project.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("dagster_project")
    del sys.modules["dagster_project"]


def test_reexecution_from_failure_runs_the_stage_that_failed(
    project: ModuleType, dagster: dg.DagsterInstance, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = dg.reconstructable(project.full_job)
    monkeypatch.setenv("SHOP_BROKEN", "yes")
    with dg.execute_job(job, instance=dagster) as failed:
        assert not failed.success
    assert visible(connection, "full_stage_1") == ["dfa"]
    assert visible(connection, "full_stage_2") == []
    monkeypatch.delenv("SHOP_BROKEN")
    options = dg.ReexecutionOptions.from_failure(failed.run_id, dagster)
    with dg.execute_job(job, instance=dagster, reexecution_options=options) as again:
        assert again.success
        assert {event.step_key for event in again.all_events if event.is_step_success} == {"full__stage_2"}
    assert visible(connection, "full_stage_2") == ["report"]


def test_the_command_line_of_dagster_materializes_an_instance_and_one_of_its_stages(
    project: ModuleType, tmp_path: Path, connection: Connection
) -> None:
    def dagster_materialize(instance: str, selection: str) -> None:
        command = ["asset", "materialize", "-m", "dagster_project", "-a", instance, "--select", selection]
        done = subprocess.run(
            [sys.executable, "-m", "dagster", *command],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DAGSTER_DISABLE_TELEMETRY": "yes"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    config = PipedagConfig(tmp_path / "instances").get("full")
    assert project.build(config).run(config=config).successful
    dagster_materialize("mini", "*")
    assert connection.execute("SELECT count(*) FROM mini_stage_2.report").fetchall() == [(1,)]
    connection.execute("UPDATE mini_pipedag.table_version SET task_key = '', cache_key = '' WHERE stage = 'stage_2'")
    dagster_materialize("mini", "group:stage_2")
    numbers = "SELECT stage, max(number) FROM mini_pipedag.stage_version GROUP BY stage ORDER BY stage"
    assert connection.execute(numbers).fetchall() == [("stage_1", 1), ("stage_2", 2)]


# ---- secrets ---------------------------------------------------------------------------------------------------


def test_no_password_is_in_what_dagster_stores_or_shows(
    instances: Instances, dagster: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    config = instances()
    assert SECRET in (config.path / "__any__.yaml").read_text()
    definitions = build_definitions(build, config, instance="full")
    assert definitions.resources is not None
    resource = definitions.resources["instance"]
    result = launch(definitions, dagster)
    assert result.success
    shown = {
        "repr": repr(resource) + repr(definitions),
        "config": repr(dict(resource)),
        "everything that the UI asks for": serialize_value(RepositorySnap.from_def(definitions.get_repository_def())),
        "run": serialize_value(dagster.get_run_by_id(result.run_id)),
        "events": serialize_value(list(dagster.all_logs(result.run_id))),
        "console": "".join(capfd.readouterr()),
    }
    assert "config_path" in shown["everything that the UI asks for"]
    assert "ASSET_MATERIALIZATION" in shown["events"]
    for where, text in shown.items():
        assert SECRET not in text, where
