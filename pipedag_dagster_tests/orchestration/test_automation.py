"""When instances run by themselves: schedules, `refresh: on_source`, `poll:`; several pipelines in one workspace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    ConfigContext,
    Flow,
    PipedagConfig,
    Stage,
    Table,
    build_definitions,
    input_stage_versions,
    materialize,
)
from pipedag_dagster.errors import ConfigError, TaskFailed
from pipedag_dagster_tests.helpers import SECRET, Instances

MIDI = "attrs: {copy_filtered_input: true, copy_source: full}\n"
WORLD: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def world() -> None:
    """What the sources have."""
    WORLD.clear()
    WORLD.update(orders=[1, 2, 3], customers=[1, 2], fee=1, failing=False)


def orders_version() -> list[int]:
    if WORLD["failing"]:
        raise OSError("the source is away")
    return list(WORLD["orders"])


def customers_version() -> list[int]:
    return list(WORLD["customers"])


@materialize(input=True, outputs=["orders"], cache=orders_version, version="1")
def load_orders() -> Table:
    return Table(pd.DataFrame({"id": WORLD["orders"]}), primary_key="id")


@materialize(input=True, outputs=["customers"], cache=customers_version, version="1")
def load_customers() -> Table:
    return Table(pd.DataFrame({"id": WORLD["customers"]}), primary_key="id")


@materialize(input_type=pd.DataFrame, outputs=["clean"], version="1", cache=lambda df: len(df) + WORLD["fee"])
def clean(df: pd.DataFrame) -> pd.DataFrame:
    return df.assign(fee=WORLD["fee"])


@materialize(input_type=pd.DataFrame, outputs=["report"], version="1", cache=lambda: WORLD["fee"])
def report(df: pd.DataFrame) -> pd.DataFrame:
    return df.assign(fee=WORLD["fee"])


def build(instance: ConfigContext) -> Flow:
    with Flow("shop") as flow:
        with Stage("raw"):
            orders, _ = load_orders(), load_customers()
            cleaned = clean(orders)
        with Stage("report"):
            report(cleaned)
    return flow


class Watch:
    """A sensor of an instance, asked again and again as the daemon does it."""

    def __init__(self, definitions: dg.Definitions, sensor: str, dagster: dg.DagsterInstance) -> None:
        self.definitions, self.name, self.dagster = definitions, sensor, dagster
        self.cursor: str | None = None
        self.keys: list[str] = []

    def tick(self) -> str | None:
        """Launch what the sensor asks for, as Dagster does: once for each run key. What it said instead, else None."""
        context = dg.build_sensor_context(instance=self.dagster, cursor=self.cursor, definitions=self.definitions)
        sensor = self.definitions.get_repository_def().get_sensor_def(self.name)
        answer = sensor.evaluate_tick(context)
        self.cursor = answer.cursor
        for request in answer.run_requests or ():
            assert request.run_key
            assert request.run_key not in self.keys, "a run key is used once only"
            self.keys.append(request.run_key)
            job = self.definitions.resolve_job_def(sensor.job_name)
            done = job.execute_in_process(instance=self.dagster, tags=dict(request.tags), raise_on_error=False)
            return None if done.success else "failed"
        return answer.skip_message


@pytest.fixture
def shop(instances: Instances, dagster: dg.DagsterInstance) -> Callable[..., Watch]:
    def make(instance: str = "midi", sensor: str = "refresh", **files: str) -> Watch:
        config = instances(**({"midi": MIDI + "refresh: on_source"} | files))
        return Watch(build_definitions(build, config, instance=instance), f"{instance}_{sensor}", dagster)

    return make


def run(config: PipedagConfig, instance: str = "full", **options: Any) -> None:
    context = config.get(instance)
    assert build(context).run(config=context, fail_fast=True, **options).successful


def ids(config: PipedagConfig, instance: str = "midi", table: str = "orders") -> list[int]:
    store = config.get(instance).store.table_store
    return list(store.read(store.current(["raw"])["raw"].tables[table])["id"])


# ---- refresh: on_source ----------------------------------------------------------------------------------------


def test_an_instance_follows_each_change_of_its_source_also_back_and_forth(
    shop: Callable[..., Watch], instances: Instances
) -> None:
    watch, config = shop(), instances(midi=MIDI + "refresh: on_source")
    run(config)
    assert watch.tick() is None, "the first tick: midi has nothing yet"
    assert ids(config) == [1, 2, 3]
    for orders in ([1, 2], [1, 2, 3], [1, 2]):
        WORLD["orders"] = orders
        assert "Nothing has changed" in (watch.tick() or ""), "full has not committed it yet"
        run(config)
        assert watch.tick() is None
        assert ids(config) == orders
        assert "Nothing has changed" in (watch.tick() or "")


def test_the_first_tick_compares_with_what_the_instance_has(shop: Callable[..., Watch], instances: Instances) -> None:
    watch, config = shop(), instances(midi=MIDI + "refresh: on_source")
    run(config)
    run(config, "midi")
    assert watch.tick() == "Nothing has changed (full/raw: 1)."


def test_what_does_not_change_the_inputs_starts_nothing(shop: Callable[..., Watch], instances: Instances) -> None:
    watch, config = shop(), instances(midi=MIDI + "refresh: on_source")
    run(config)
    watch.tick()
    run(config, cache_validation_mode="force_cache_invalid")  # another version of the stage, with equal content
    assert config.get("full").store.table_store.current(["raw"])["raw"].number == 2
    WORLD["fee"] = 2  # changes tables that midi makes itself, one of them in the stage of the inputs
    run(config)
    assert watch.tick() == "Nothing has changed (full/raw: 3)."


def test_a_source_that_never_ran_is_no_failure_and_says_what_to_do(shop: Callable[..., Watch]) -> None:
    said = shop().tick() or ""
    assert "'full'" in said
    assert "Run it first: pipedag-dagster run full" in said


def test_a_database_that_is_away_is_no_failure_and_no_secret(
    instances: Instances, dagster: dg.DagsterInstance, database_url: sa.URL
) -> None:
    config = instances(midi=MIDI + "refresh: on_source")
    file = config.path / "__any__.yaml"
    file.write_text(file.read_text().replace(str(database_url.database), "no_such_database"))
    definitions = build_definitions(build, PipedagConfig(config.path), instance="midi")
    said = Watch(definitions, "midi_refresh", dagster).tick() or ""
    assert "'no_such_database' does not exist" in said
    assert SECRET not in said


def test_a_run_that_failed_is_not_repeated_before_the_source_commits_again(
    shop: Callable[..., Watch], instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, config = shop(), instances(midi=MIDI + "refresh: on_source")
    run(config)

    def broken(df: pd.DataFrame) -> pd.DataFrame:
        raise ValueError("broken")

    monkeypatch.setattr(clean, "fn", broken)
    assert watch.tick() == "failed"
    for _ in range(2):
        assert "launch the job by hand" in (watch.tick() or "")
    monkeypatch.undo()
    WORLD["orders"] = [7]
    run(config)
    assert watch.tick() is None
    assert ids(config) == [7]


def test_half_a_stage_is_never_seen(shop: Callable[..., Watch], instances: Instances) -> None:
    """The sensor is asked while full is in the middle of its stage: one input is staged, the other one is not yet."""
    watch, config = shop(), instances(midi=MIDI + "refresh: on_source")
    run(config)
    watch.tick()
    WORLD["orders"], WORLD["customers"] = [8], [9]
    said: list[str | None] = []

    @materialize(input=True, outputs=["customers"], version="2")
    def load_customers(orders: pd.DataFrame) -> Table:
        said.append(watch.tick())
        return Table(pd.DataFrame({"id": WORLD["customers"]}), primary_key="id")

    context = config.get("full")
    with Flow("shop") as flow, Stage("raw"):
        orders = load_orders()
        load_customers(orders)
        clean(orders)
    assert flow.run(config=context, fail_fast=True).successful
    assert said == ["Nothing has changed (full/raw: 1)."]
    assert watch.tick() is None
    assert (ids(config), ids(config, table="customers")) == ([8], [9])


def test_a_copy_by_hand_is_followed_too(instances: Instances, dagster: dg.DagsterInstance) -> None:
    @input_stage_versions(input_type=sa.Table, pass_args=["stage"], lazy=True)
    def copy(
        tbls: dict[str, sa.Alias], source_tbls: dict[str, sa.Alias], source: ConfigContext, *, stage: Stage
    ) -> dict[str, Table]:
        return {name: Table(sa.select(source_tbls[name]), name) for name in ("orders", "customers")}

    def by_hand(instance: ConfigContext) -> Flow:
        if instance.source is None:
            return build(instance)
        with Flow("shop") as flow, Stage("raw") as stage:
            copied = copy(instance.source, stage=stage)
            copied["customers"]
            clean(copied["orders"])
        return flow

    config = instances(midi=MIDI + "refresh: on_source")
    watch = Watch(build_definitions(by_hand, config, instance="midi"), "midi_refresh", dagster)
    assert "has not committed stage 'raw' yet" in (watch.tick() or "")
    run(config)
    assert watch.tick() is None
    assert "Nothing has changed" in (watch.tick() or "")
    WORLD["customers"] = [5]
    run(config)
    assert watch.tick() is None
    assert ids(config, table="customers") == [5]
    WORLD["fee"] = 3
    run(config)
    assert "Nothing has changed" in (watch.tick() or "")


# ---- poll ------------------------------------------------------------------------------------------------------


def test_an_instance_runs_when_a_cache_function_returns_another_value_also_back_and_forth(
    shop: Callable[..., Watch], instances: Instances
) -> None:
    watch, config = shop("full", "poll", full="poll: 60"), instances(full="poll: 60")
    assert watch.tick() is None, "the first tick: full has nothing yet"
    for orders in ([1, 2], [1, 2, 3], [1, 2]):
        assert "Nothing has changed" in (watch.tick() or "")
        WORLD["orders"] = orders
        assert watch.tick() is None
        assert ids(config, "full") == orders


def test_a_cache_function_that_takes_a_table_is_not_asked_and_the_sensor_says_so(shop: Callable[..., Watch]) -> None:
    definitions = shop("full", "poll", full="poll: 60").definitions
    description = definitions.get_repository_def().get_sensor_def("full_poll").description or ""
    assert "raw.load_orders, raw.load_customers, report.report returns another value" in description
    assert "Not called: raw.clean (its cache function takes the table 'df')" in description


def test_a_cache_function_that_fails_fails_the_tick_but_does_not_hide_a_change(shop: Callable[..., Watch]) -> None:
    watch = shop("full", "poll", full="poll: 60")
    watch.tick()
    WORLD["failing"] = True
    with pytest.raises(TaskFailed, match=r"orders_version\(\) failed: OSError: the source is away"):
        watch.tick()
    WORLD["customers"] = [4]
    assert watch.tick() == "failed", "the run was launched, and shows what is wrong"


def test_to_poll_where_there_is_nothing_to_ask_is_refused(instances: Instances) -> None:
    config = instances(midi=MIDI + "poll: 60", any="")

    def only_inputs(instance: ConfigContext) -> Flow:
        with Flow("shop") as flow, Stage("raw"):
            load_orders()
        return flow

    with pytest.raises(ConfigError, match=r"midi.yaml:2: poll: no task of 'midi' .*refresh: on_source"):
        build_definitions(only_inputs, config, instance="midi")


# ---- schedules and jobs ----------------------------------------------------------------------------------------


def test_a_schedule_has_its_cron_and_time_zone_and_is_off_until_it_is_asked_for(instances: Instances) -> None:
    config = instances(
        full='schedule: "0 6 * * 1-5"',
        midi=MIDI + 'schedule: {cron: "@daily", timezone: Europe/Berlin, default_status: running}',
    )
    full, midi = (
        build_definitions(build, config, instance=name).get_repository_def().get_schedule_def(f"{name}_schedule")
        for name in ("full", "midi")
    )
    assert (full.cron_schedule, full.execution_timezone) == ("0 6 * * 1-5", "UTC")
    assert full.default_status is dg.DefaultScheduleStatus.STOPPED
    assert (midi.cron_schedule, midi.execution_timezone) == ("@daily", "Europe/Berlin")
    assert midi.default_status is dg.DefaultScheduleStatus.RUNNING
    assert midi.job_name == "midi"


def test_without_a_word_in_the_yaml_there_is_no_schedule_and_no_sensor(instances: Instances) -> None:
    repository = build_definitions(build, instances(), instance="full").get_repository_def()
    assert (repository.schedule_defs, repository.sensor_defs) == ([], [])


def test_sensors_are_off_until_they_are_asked_for_and_look_as_often_as_they_say(instances: Instances) -> None:
    config = instances(
        full="poll: {interval: 600, default_status: running}",
        midi=MIDI + "refresh: on_source",
        mini=MIDI + "refresh: {interval: 5, default_status: running}",
    )
    found = [
        sensor
        for name in ("full", "midi", "mini")
        for sensor in build_definitions(build, config, instance=name).get_repository_def().sensor_defs
    ]
    running, stopped = dg.DefaultSensorStatus.RUNNING, dg.DefaultSensorStatus.STOPPED
    assert [(one.name, one.minimum_interval_seconds, one.default_status) for one in found] == [
        ("full_poll", 600, running),
        ("midi_refresh", 30, stopped),
        ("mini_refresh", 5, running),
    ]


def test_there_is_a_job_for_the_instance_and_one_for_each_stage(
    instances: Instances, dagster: dg.DagsterInstance
) -> None:
    definitions = build_definitions(build, instances(), instance="full")
    assert [job.name for job in definitions.jobs or ()] == ["full", "full_raw", "full_report"]
    done = definitions.resolve_job_def("full_raw").execute_in_process(instance=dagster)
    made = {event.asset_key.path[1] for event in done.get_asset_materialization_events() if event.asset_key}
    assert made == {"raw"}
    run_ = dagster.get_run_by_id(done.run_id)
    assert run_ is not None
    assert run_.tags["pipedag/instance"] == "full"
