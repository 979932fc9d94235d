"""A plain Dagster project on an instance: its checks, jobs, schedules, sensors and resources."""

# no postponed annotations: Dagster reads the annotations of assets as objects
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from pipedag_dagster import Flow, PipedagConfig, Stage, Table, build_definitions, materialize
from pipedag_dagster.errors import WiringError
from pipedag_dagster_tests.helpers.launching import launch

sent: list[str] = []


@dg.asset(group_name="raw", metadata={"pipedag/input": True})
def orders() -> Table:
    return Table(pd.DataFrame({"id": [1, 2, 3, 4], "amount": [10, 20, 30, 40]}), primary_key="id")


@dg.asset(group_name="report")
def revenue(orders: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"amount": [orders["amount"].sum()]})


@dg.asset(group_name="report")
def summary(revenue: pd.DataFrame) -> pd.DataFrame:
    return revenue


@dg.asset(group_name="mail", deps=[summary], metadata={"pipedag/only_on": ["full"]})
def mail() -> None:
    sent.append("mail")


@dg.asset_check(asset=revenue, blocking=True)
def positive(revenue: pd.DataFrame) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=bool((revenue["amount"] > 50).all()))


ASSETS = [orders, revenue, summary]


@materialize(version="1", outputs=["customers"])
def load_customers() -> pd.DataFrame:
    return pd.DataFrame({"id": [1]})


def flow(instance: object) -> Flow:
    with Flow("shop") as flow, Stage("crm"):
        load_customers()
    return flow


def job_keys(definitions: dg.Definitions, name: str) -> set[str]:
    return {key.to_user_string() for key in definitions.resolve_job_def(name).asset_layer.executable_asset_keys}


# ---- checks ----------------------------------------------------------------------------------------------------


def test_a_check_belongs_to_the_asset_of_the_instance_and_reads_its_table(
    config: PipedagConfig, dagster: dg.DagsterInstance
) -> None:
    definitions = build_definitions(config=config, instance="full", assets=ASSETS, asset_checks=[positive])
    result = launch(definitions, dagster)
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.asset_key.to_user_string(), evaluation.passed) == ("full/report/revenue", True)


def test_a_blocking_check_that_fails_stops_what_depends_on_its_asset(
    config: PipedagConfig, dagster: dg.DagsterInstance
) -> None:
    launch(build_definitions(config=config, instance="full", assets=ASSETS), dagster)
    definitions = build_definitions(config=config, instance="mini", assets=ASSETS, asset_checks=[positive])
    result = launch(definitions, dagster, "mini")
    assert not result.success
    materialized = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}
    assert materialized == {"mini/raw/orders", "mini/report/revenue"}


def test_a_check_of_an_asset_that_nobody_makes_is_refused(config: PipedagConfig) -> None:
    @dg.asset_check(asset=dg.AssetKey("revenu"))
    def lost() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    with pytest.raises(WiringError, match=r"'lost' is of the asset revenu, which nobody makes\. Did you mean 'rev"):
        build_definitions(config=config, instance="full", assets=ASSETS, asset_checks=[lost])


# ---- jobs, schedules, sensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ([revenue], {"full/report/revenue"}),
        ("group:report", {"full/report/revenue", "full/report/summary"}),
        (dg.AssetSelection.assets(revenue).upstream(), {"full/raw/orders", "full/report/revenue"}),
        (dg.AssetSelection.assets(["crm", "customers"]), {"full/crm/customers"}),
    ],
    ids=["assets", "text", "upstream", "table of a flow"],
)
def test_a_job_selects_the_assets_of_the_instance(config: PipedagConfig, selection: Any, chosen: set[str]) -> None:
    job = dg.define_asset_job("nightly", selection=selection, tags={"team": "sales"})
    definitions = build_definitions(flow, config, instance="full", assets=ASSETS, jobs=[job])
    dg.Definitions.validate_loadable(definitions)
    assert job_keys(definitions, "nightly") == chosen
    tags = definitions.resolve_job_def("nightly").run_tags
    assert (tags["team"], tags["pipedag/instance"]) == ("sales", "full")


def test_a_job_runs_the_copies_on_a_small_instance(config: PipedagConfig, dagster: dg.DagsterInstance) -> None:
    job = dg.define_asset_job("nightly", selection=[orders, revenue])
    for name in ("full", "mini"):
        definitions = build_definitions(config=config, instance=name, assets=ASSETS, jobs=[job])
        assert launch(definitions, dagster, "nightly").success
    table = config.get("mini").store.table_store.current(["raw"])["raw"].tables["orders"]
    assert table.rows == 1


@pytest.mark.parametrize("selection", ["group:reprot", [dg.AssetKey("revenu")]])
def test_a_job_on_assets_that_nobody_makes_is_refused(config: PipedagConfig, selection: Any) -> None:
    job = dg.define_asset_job("nightly", selection=selection)
    with pytest.raises(WiringError, match="Job 'nightly' selects"):
        build_definitions(config=config, instance="full", assets=ASSETS, jobs=[job])


def test_schedules_and_sensors_launch_the_job_of_the_instance(config: PipedagConfig) -> None:
    job = dg.define_asset_job("nightly", selection=[revenue])

    @dg.sensor(job=job)
    def by_file() -> dg.RunRequest:
        return dg.RunRequest()

    definitions = build_definitions(
        config=config,
        instance="full",
        assets=ASSETS,
        jobs=[job],
        schedules=[
            dg.ScheduleDefinition(job=job, cron_schedule="0 1 * * *"),
            dg.ScheduleDefinition("by_name", cron_schedule="0 2 * * *", job_name="nightly"),
            dg.ScheduleDefinition("by_target", cron_schedule="0 3 * * *", target=[summary]),
        ],
        sensors=[by_file, dg.AutomationConditionSensorDefinition("automatic", target=[revenue])],
    )
    dg.Definitions.validate_loadable(definitions)
    repository = definitions.get_repository_def()
    assert {each.name for each in repository.schedule_defs} == {"nightly_schedule", "by_name", "by_target"}
    assert {each.name for each in repository.sensor_defs} == {"by_file", "automatic"}
    assert job_keys(definitions, "nightly") == {"full/report/revenue"}
    automatic = repository.get_sensor_def("automatic")
    assert automatic.asset_selection is not None
    chosen = automatic.asset_selection.resolve(repository.asset_graph)
    assert chosen == {dg.AssetKey(["full", "report", "revenue"])}


def test_a_sensor_on_an_asset_is_told_the_key_of_the_instance(config: PipedagConfig) -> None:
    job = dg.define_asset_job("nightly", selection=[revenue])

    @dg.asset_sensor(asset_key=dg.AssetKey("orders"), job=job)
    def on_orders() -> dg.RunRequest:
        return dg.RunRequest()

    with pytest.raises(WiringError, match=r"asset_key=dg\.AssetKey\(\['full', 'raw', 'orders'\]\)"):
        build_definitions(config=config, instance="full", assets=ASSETS, jobs=[job], sensors=[on_orders])


# ---- resources -------------------------------------------------------------------------------------------------


def test_assets_use_the_resources_of_the_project(config: PipedagConfig, dagster: dg.DagsterInstance) -> None:
    class Source(dg.ConfigurableResource[Any]):
        rows: int

    @dg.asset(group_name="raw")
    def numbers(source: Source) -> pd.DataFrame:
        return pd.DataFrame({"a": range(source.rows)})

    definitions = build_definitions(
        config=config, instance="full", assets=[numbers], resources={"source": Source(rows=3)}
    )
    assert launch(definitions, dagster).success
    assert config.get("full").store.table_store.current(["raw"])["raw"].tables["numbers"].rows == 3


@pytest.mark.parametrize("name", ["instance", "io_manager"])
def test_a_resource_with_the_name_of_ours_is_refused(config: PipedagConfig, name: str) -> None:
    with pytest.raises(WiringError, match=f"'{name}' is the one of the instance"):
        build_definitions(config=config, instance="full", assets=ASSETS, resources={name: 7})


# ---- assets of some instances ----------------------------------------------------------------------------------


def test_an_asset_with_side_effects_is_kept_off_small_instances(
    config: PipedagConfig, dagster: dg.DagsterInstance
) -> None:
    job = dg.define_asset_job("post", selection=[mail])

    @dg.asset_check(asset=mail)
    def posted() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    def of(name: str) -> dg.Definitions:
        return build_definitions(
            config=config,
            instance=name,
            assets=[*ASSETS, mail],
            asset_checks=[posted],
            jobs=[job],
            schedules=[dg.ScheduleDefinition("by_name", cron_schedule="0 2 * * *", job_name="post")],
        )

    sent.clear()
    assert launch(of("full"), dagster).success
    assert sent == ["mail"]
    mini = of("mini")
    dg.Definitions.validate_loadable(mini)
    assert launch(mini, dagster, "mini").success
    assert sent == ["mail"]
    assert not any(key.path[1] == "mail" for key in mini.resolve_asset_graph().get_all_asset_keys())
    assert not mini.get_repository_def().schedule_defs


def test_an_asset_that_needs_one_of_another_instance_is_refused(config: PipedagConfig) -> None:
    @dg.asset(group_name="mail", deps=[mail])
    def archive() -> None: ...

    with pytest.raises(WiringError, match="Asset archive needs mail, which instance 'mini' does not have"):
        build_definitions(config=config, instance="mini", assets=[*ASSETS, mail, archive])


@pytest.mark.parametrize(
    ("only_on", "message"),
    [("full", "must be a list"), (["ful"], "'ful', which is not an instance. Did you mean 'full'")],
)
def test_only_on_names_instances(config: PipedagConfig, only_on: Any, message: str) -> None:
    asset = dg.asset(group_name="mail", name="letter", metadata={"pipedag/only_on": only_on})(lambda: None)
    with pytest.raises(WiringError, match=message):
        build_definitions(config=config, instance="full", assets=[asset])
