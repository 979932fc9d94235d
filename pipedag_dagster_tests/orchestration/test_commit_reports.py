"""`report_commits:` of the YAML: Dagster shows what was committed without it."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pandas as pd
import pytest

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, build_definitions, materialize
from pipedag_dagster.config.automation import ReportCommits
from pipedag_dagster.errors import ConfigError
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.helpers.launching import launch

ORDERS = [1, 2, 3]
RAW, REPORT = dg.AssetKey(["full", "raw", "orders"]), dg.AssetKey(["full", "report", "report"])


@materialize(input=True, outputs=["orders"], cache=lambda: ORDERS, columns={"id": "The number of the order."})
def load() -> pd.DataFrame:
    return pd.DataFrame({"id": ORDERS})


@materialize(input_type=pd.DataFrame)
def report(orders: pd.DataFrame) -> pd.DataFrame:
    return orders.tail(1)


def build(instance: ConfigContext) -> Flow:
    with Flow("shop") as flow:
        with Stage("raw"):
            orders = load()
        with Stage("report"):
            report(orders)
    return flow


@pytest.fixture(autouse=True)
def orders() -> None:
    ORDERS[:] = [1, 2, 3]


@pytest.fixture
def config(instances: Instances) -> PipedagConfig:
    return instances(any="report_commits: 60\n")


def run(config: PipedagConfig) -> None:
    """Without Dagster: there is no DAGSTER_HOME."""
    full = config.get("full")
    assert build(full).run(config=full).successful


Tick = Callable[[], list[dg.AssetKey]]


@pytest.fixture
def tick(config: PipedagConfig, dagster: dg.DagsterInstance) -> Tick:
    """Ask the sensor and report what it finds, as the daemon does: the keys of the tables."""
    definitions = build_definitions(build, config, instance="full")
    sensor = definitions.get_repository_def().get_sensor_def("full_report_commits")

    def ask() -> list[dg.AssetKey]:
        answer = sensor.evaluate_tick(dg.build_sensor_context(instance=dagster, definitions=definitions))
        assert not answer.run_requests
        for event in answer.asset_events:
            assert isinstance(event, dg.AssetMaterialization)
            dagster.report_runless_asset_event(event)
        return [event.asset_key for event in answer.asset_events]

    return ask


def test_dagster_is_told_once_of_what_was_committed_without_it(config: PipedagConfig, tick: Tick) -> None:
    run(config)
    assert tick() == [RAW, REPORT]
    assert tick() == []


def test_only_tables_with_another_data_version_are_reported(config: PipedagConfig, tick: Tick) -> None:
    run(config)
    tick()
    ORDERS[:] = [1, 3]  # the last order is the same
    run(config)
    assert tick() == [RAW]


def test_a_table_that_was_forgotten_in_the_ui_is_reported_again(
    config: PipedagConfig, tick: Tick, dagster: dg.DagsterInstance
) -> None:
    run(config)
    tick()
    dagster.wipe_assets([REPORT])
    assert tick() == [REPORT]


def test_a_run_of_dagster_needs_no_report(config: PipedagConfig, tick: Tick, dagster: dg.DagsterInstance) -> None:
    assert launch(build_definitions(build, config, instance="full"), dagster).success
    assert tick() == []


def test_nothing_committed_is_nothing_to_report(tick: Tick) -> None:
    assert tick() == []


def test_a_reported_table_shows_what_a_run_would_show(
    config: PipedagConfig, tick: Tick, dagster: dg.DagsterInstance
) -> None:
    run(config)
    tick()
    event = dagster.get_latest_materialization_event(RAW)
    assert event is not None
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata
    assert shown["dagster/row_count"].value == 3
    assert shown["pipedag/stage_version"].value == 1
    schema = shown["dagster/column_schema"].value
    assert isinstance(schema, dg.TableSchema)
    assert schema.columns[0].description == "The number of the order."


def test_a_run_after_the_report_is_cached_and_fresh(
    config: PipedagConfig, tick: Tick, dagster: dg.DagsterInstance
) -> None:
    run(config)
    tick()
    assert launch(build_definitions(build, config, instance="full"), dagster).success
    assert tick() == []


@pytest.mark.parametrize("off", ["", "report_commits: false\n"])
def test_without_it_there_is_no_sensor(instances: Instances, off: str) -> None:
    assert not build_definitions(build, instances(full=off), instance="full").sensors


@pytest.mark.parametrize(
    ("text", "interval", "is_on"), [("5", 5, "stopped"), ("{default_status: running}", 60, "running")]
)
def test_it_is_written_as_the_other_sensors(instances: Instances, text: str, interval: int, is_on: str) -> None:
    section = instances(full=f"report_commits: {text}\n").get("full").config.report_commits
    assert section == ReportCommits(interval=interval, default_status=is_on)


def test_a_wrong_value_is_an_error_with_its_line(instances: Instances) -> None:
    with pytest.raises(ConfigError, match=r"full.yaml:1: report_commits"):
        instances(full="report_commits: sometimes\n").get("full")
