"""What can be chosen for one run, and what a run says about itself: attrs, tags."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from pipedag_dagster import (
    CacheValidationMode,
    ConfigContext,
    Flow,
    PipedagConfig,
    Stage,
    Table,
    build_definitions,
    materialize,
)
from pipedag_dagster.errors import ConfigError
from pipedag_dagster_tests.helpers import Instances

MINI = """\
attrs:
  copy_filtered_input: true
  copy_source: full
  copy_filter_cnt: 1
  factor: 2
  names: {first: a, second: b}
  with_extra: false
  secret: hush-hush-hush
  login: "{$SHOP_LOGIN}"
keep_versions: 5
"""


@materialize(input=True, outputs=["orders"], version="1")
def load() -> Table:
    return Table(pd.DataFrame({"id": range(10)}), primary_key="id")


@materialize(input_type=pd.DataFrame, outputs=["scaled"], version="1")
def scaled(df: pd.DataFrame, factor: int, names: dict[str, str]) -> pd.DataFrame:
    return df.assign(id=df["id"] * factor, **names)


@materialize(input_type=pd.DataFrame, version="1")
def extra(df: pd.DataFrame) -> pd.DataFrame:
    return df


def build(instance: ConfigContext) -> Flow:
    with Flow("shop") as flow:
        with Stage("raw"):
            orders = load()
        with Stage("report"):
            scaled(orders, instance.attrs.get("factor", 1), instance.attrs.get("names", {}))
            if instance.attrs.get("with_extra"):
                extra(orders)
    return flow


@pytest.fixture
def config(instances: Instances, monkeypatch: pytest.MonkeyPatch) -> PipedagConfig:
    monkeypatch.setenv("SHOP_LOGIN", "whispered")
    config = instances(mini=MINI)
    full = config.get("full")
    assert build(full).run(config=full).successful
    return config


def launch(
    definitions: dg.Definitions, dagster: dg.DagsterInstance, attrs: dict[str, Any], job: str = "mini"
) -> dg.ExecuteInProcessResult:
    return definitions.resolve_job_def(job).execute_in_process(
        instance=dagster,
        run_config={"resources": {"instance": {"config": {"attrs": attrs}}}},
        raise_on_error=False,
    )


def reasons(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    found = (event.step_materialization_data.materialization for event in result.get_asset_materialization_events())
    return {each.asset_key.path[-1]: each.metadata["pipedag/reason"].value for each in found}


def table(config: PipedagConfig, stage: str, name: str, instance: str = "mini") -> pd.DataFrame:
    store = config.get(instance).store.table_store
    frame: pd.DataFrame = store.read(store.current([stage])[stage].tables[name])
    return frame


# ---- attrs -----------------------------------------------------------------------------------------------------


def test_a_run_can_have_other_attrs_and_what_depends_on_them_runs(
    config: PipedagConfig, dagster: dg.DagsterInstance
) -> None:
    definitions = build_definitions(build, config, instance="mini")
    assert launch(definitions, dagster, {}).success
    more = launch(definitions, dagster, {"copy_filter_cnt": 5})
    assert more.success
    assert reasons(more) == {"orders": "argument changed (sample of orders)", "scaled": "input changed: raw.orders"}
    assert len(table(config, "report", "scaled")) == 5
    scale = launch(definitions, dagster, {"copy_filter_cnt": 5, "factor": 3, "names": {"second": "c"}})
    assert reasons(scale) == {"orders": "cached", "scaled": "argument changed (factor, names)"}
    last = table(config, "raw", "orders")["id"].iloc[-1]
    assert table(config, "report", "scaled").iloc[-1].to_dict() == {"id": 3 * last, "first": "a", "second": "c"}
    back = launch(definitions, dagster, {})
    assert len(table(config, "report", "scaled")) == 1
    assert set(reasons(back).values()) == {"cached"}, "the older result is found again"


def test_attrs_that_change_the_wiring_are_refused_before_anything_runs(
    config: PipedagConfig, dagster: dg.DagsterInstance
) -> None:
    definitions = build_definitions(build, config, instance="mini")
    for attrs in ({"with_extra": True}, {"copy_filtered_input": False}, {"copy_source": "midi"}):
        result = launch(definitions, dagster, attrs)
        assert not result.success
        (failed,) = (event for event in result.all_events if event.is_step_failure)
        error = failed.step_failure_data.error
        assert error is not None
        assert f"Change attrs.{next(iter(attrs))} in {config.path / 'mini.yaml'}" in error.to_string()
        assert config.get("mini").store.table_store.current(["raw"])["raw"].number == 0


def test_the_launchpad_knows_the_attrs_by_name_type_and_value_but_no_secret(config: PipedagConfig) -> None:
    definitions = build_definitions(build, config, instance="mini")
    job = definitions.resolve_job_def("mini")
    for attrs, says in (
        ({"copy_filter_count": 5}, "copy_filter_count"),
        ({"copy_filter_cnt": "five"}, "copy_filter_cnt"),
        ({"with_extra": 3}, "with_extra"),
    ):
        with pytest.raises(dg.DagsterInvalidConfigError, match=says):
            dg.validate_run_config(job, {"resources": {"instance": {"config": {"attrs": attrs}}}})
    offered = job.run_config_schema.config_type.fields["resources"].default_value  # type: ignore[attr-defined]
    attrs = offered["instance"]["config"]["attrs"]
    assert (attrs["factor"], attrs["names"], attrs["with_extra"]) == (2, {"first": "a", "second": "b"}, False)
    assert "hush-hush-hush" not in str(offered)
    assert "whispered" not in str(offered)
    assert dg.validate_run_config(job, {"resources": offered})


def test_the_values_that_the_launchpad_offers_change_nothing(
    config: PipedagConfig, dagster: dg.DagsterInstance
) -> None:
    definitions = build_definitions(build, config, instance="mini")
    assert launch(definitions, dagster, {}).success
    same = launch(definitions, dagster, {"factor": 2, "names": {"first": "a", "second": "b"}, "with_extra": False})
    assert set(reasons(same).values()) == {"cached"}


def test_the_launchpad_offers_the_cache_modes(config: PipedagConfig) -> None:
    job = build_definitions(build, config, instance="mini").resolve_job_def("mini")
    for mode in CacheValidationMode:
        run_config = {"resources": {"instance": {"config": {"cache_validation_mode": mode.value}}}}
        assert dg.validate_run_config(job, run_config)
    mistyped = {"resources": {"instance": {"config": {"cache_validation_mode": "force_chache"}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="not in enum type CacheMode"):
        dg.validate_run_config(job, mistyped)


def test_in_python_a_flow_is_built_with_other_attrs(config: PipedagConfig) -> None:
    more = config.get("mini").with_attrs({"copy_filter_cnt": 4})
    assert build(more).run(config=more).successful
    assert len(table(config, "raw", "orders")) == 4
    with pytest.raises(ConfigError, match=r"attrs.copy_filter_cnt: must be a whole number of at least 1, not 0."):
        config.get("mini").with_attrs({"copy_filter_cnt": 0})
    with pytest.raises(ConfigError, match=r"copy_filtr_cnt: is not known\. Did you mean 'copy_filter_cnt'\?"):
        config.get("mini").with_attrs({"copy_filtr_cnt": 1})


def test_a_number_of_rows_that_would_have_no_effect_is_refused(instances: Instances) -> None:
    sampled = "attrs: {copy_filtered_input: true, copy_source: full}\nsample: {rows: 5}\n"
    with pytest.raises(ConfigError, match=r"copy_filter_cnt: has no effect, because sample.rows is set"):
        instances(mini=sampled).get("mini").with_attrs({"copy_filter_cnt": 4})


def test_the_command_line_takes_attrs(config: PipedagConfig, tmp_path: Path) -> None:
    (tmp_path / "shop_launch.py").write_text(
        "from pipedag_dagster import build_definitions\n"
        "from pipedag_dagster_tests.orchestration.test_launchpad import build\n"
        "mini = build_definitions(build, 'instances', instance='mini')\n"
    )

    def run(*attrs: str) -> str:
        options = [part for attr in attrs for part in ("--attr", attr)]
        command = [sys.executable, "-m", "pipedag_dagster.cli.main", "run", "mini", "-m", "shop_launch", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.stdout + done.stderr

    assert "2 of 2 tables ran" in run("copy_filter_cnt=5", "names={first: x}")
    assert len(table(config, "raw", "orders")) == 5
    assert "has no attr 'copy_filter_count'. Did you mean 'copy_filter_cnt'?" in run("copy_filter_count=5")
    assert "write a value, as in --attr factor=5" in run("factor")
    assert "copy_filter_cnt" in run("copy_filter_cnt=five")


# ---- tags ------------------------------------------------------------------------------------------------------


def tags(dagster: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> dict[str, str]:
    run = dagster.get_run_by_id(result.run_id)
    assert run is not None
    return {key: value for key, value in run.tags.items() if key.startswith("pipedag/")}


def test_a_run_is_tagged_with_its_instance_and_the_stage_versions_it_read_and_wrote(
    config: PipedagConfig, dagster: dg.DagsterInstance
) -> None:
    definitions = build_definitions(build, config, instance="mini")
    assert tags(dagster, launch(definitions, dagster, {})) == {
        "pipedag/instance": "mini",
        "pipedag/reads/full/raw": "1",
        "pipedag/reads/raw": "1",
        "pipedag/writes/raw": "1",
        "pipedag/writes/report": "1",
    }
    assert tags(dagster, launch(definitions, dagster, {"factor": 3}, "mini_report")) == {
        "pipedag/instance": "mini",
        "pipedag/reads/raw": "1",
        "pipedag/writes/report": "2",
    }
    found = dagster.get_run_records(dg.RunsFilter(tags={"pipedag/writes/report": "2"}))
    assert len(found) == 1, "which run has made a version can be asked"


def test_an_instance_without_attrs_has_none_to_choose(instances: Instances) -> None:
    job = build_definitions(build, instances(), instance="full").resolve_job_def("full")
    with pytest.raises(dg.DagsterInvalidConfigError):
        dg.validate_run_config(job, {"resources": {"instance": {"config": {"attrs": {"factor": 1}}}}})
