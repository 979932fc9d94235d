"""Plain Dagster assets on an instance: partitions, data versions, and inputs that are copied on small instances."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import Flow, PipedagConfig, PipedagError, Stage, Table, build_definitions, materialize
from pipedag_dagster.errors import NotMaterialized, UnstorableResult, WiringError


@pytest.fixture
def dagster() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def rows(database_url: sa.URL) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    """What a table shows to whoever queries it."""
    with psycopg.connect(database_url.render_as_string(hide_password=False), autocommit=True) as connection:
        yield lambda table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()  # type: ignore[arg-type]


@pytest.fixture
def run(config: PipedagConfig, dagster: dg.DagsterInstance) -> Callable[..., dg.ExecuteInProcessResult]:
    """Materialize plain assets on an instance: all, or one partition, or a range of them (`"a...c"`)."""

    def materialize(
        *assets: Any, instance: str = "full", partition: str | None = None, only: str | None = None
    ) -> dg.ExecuteInProcessResult:
        definitions = build_definitions(None, config, instance=instance, assets=assets)
        first, _, last = (partition or "").partition("...")
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        selection = None if only is None else [dg.AssetKey([instance, *only.split(".")])]
        job = definitions.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=dagster,
            partition_key=None if last or not partition else partition,
            tags=tags if last else None,
            asset_selection=selection,
        )

    return materialize


def refused(run: Callable[..., Any], *assets: Any, **how: Any) -> PipedagError:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Dagster may put its own error around ours
        run(*assets, **how)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, PipedagError):
        error = error.__cause__
    assert isinstance(error, PipedagError)
    return error


def metadata(result: dg.ExecuteInProcessResult, key: str) -> dict[str, Any]:
    for event in result.get_asset_materialization_events():
        found = event.step_materialization_data.materialization
        if found.asset_key.to_user_string() == key:
            return {name: value.value for name, value in found.metadata.items()} | {"tags": found.tags}
    raise AssertionError(f"{key} was not materialized")


# ---- partitions ------------------------------------------------------------------------------------------------

COLORS = dg.StaticPartitionsDefinition(["red", "green", "it's"])


def by_color(values: dict[str, list[int]]) -> dg.AssetsDefinition:
    """An asset that has these values of each color."""

    @dg.asset(
        group_name="raw",
        partitions_def=COLORS,
        metadata={"partition_expr": "Color"},
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def paint(context: dg.AssetExecutionContext) -> pd.DataFrame:
        found = [(color, value) for color in context.partition_keys for value in values.get(color, [])]
        return pd.DataFrame(found, columns=["Color", "value"])

    return paint


def test_a_partition_replaces_its_own_rows_only(run: Callable[..., Any], rows: Any, config: PipedagConfig) -> None:
    run(by_color({"red": [1, 2]}), partition="red")
    result = run(by_color({"it's": [3]}), partition="it's")
    shown = metadata(result, "full/raw/paint")
    assert (shown["dagster/partition_row_count"], shown["dagster/row_count"]) == (1, 3)
    before = config.get("full").store.table_store.current(["raw"])["raw"]
    run(by_color({"red": [7]}), partition="red")
    assert rows("full_raw.paint") == [("it's", 3), ("red", 7)]
    store = config.get("full").store.table_store
    assert sorted(store.read(before.tables["paint"])["value"]) == [1, 2, 3], "versions are immutable"


def test_a_range_of_partitions_is_one_write(run: Callable[..., Any], rows: Any, config: PipedagConfig) -> None:
    run(by_color({"red": [1], "green": [2], "it's": [3]}), partition="red...it's")
    run(by_color({"red": [4], "green": [5]}), partition="red...green")
    assert rows("full_raw.paint") == [("green", 5), ("it's", 3), ("red", 4)]
    assert config.get("full").store.table_store.current(["raw"])["raw"].number == 2


def test_a_partition_without_rows_is_empty_and_the_others_stay(run: Callable[..., Any], rows: Any) -> None:
    run(by_color({}), partition="green")  # its types are guesses, which later ones put right
    run(by_color({"red": [1]}), partition="red")
    run(by_color({}), partition="green")
    assert rows("full_raw.paint") == [("red", 1)]
    run(by_color({}), partition="red")
    assert rows("full_raw.paint") == []


DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-05")


@pytest.mark.parametrize(
    ("of_day", "expression"),
    [
        (pd.Timestamp, "day"),
        (lambda day: pd.Timestamp(day, tz="UTC"), "day"),
        (lambda day: pd.Timestamp(day).date(), "day"),
        (str, "day"),
        (lambda day: f"{day}T08:00", "day::date"),
    ],
    ids=["timestamp", "timestamp with zone", "date", "text", "expression"],
)
def test_days_are_windows_of_time(run: Callable[..., Any], rows: Any, of_day: Any, expression: str) -> None:
    def asset(value: int) -> dg.AssetsDefinition:
        @dg.asset(group_name="raw", partitions_def=DAYS, metadata={"partition_expr": expression})
        def events(context: dg.AssetExecutionContext) -> pd.DataFrame:
            return pd.DataFrame({"value": [value], "day": [of_day(context.partition_key)]})

        return events

    for day, value in (("2026-01-01", 1), ("2026-01-02", 2), ("2026-01-01", 3)):
        run(asset(value), partition=day)
    assert [value for value, _ in rows("full_raw.events")] == [2, 3]


def test_several_dimensions_are_several_columns(run: Callable[..., Any], rows: Any) -> None:
    both = dg.MultiPartitionsDefinition({"day": DAYS, "color": COLORS})

    def asset(value: int) -> dg.AssetsDefinition:
        @dg.asset(
            group_name="raw", partitions_def=both, metadata={"partition_expr": {"day": "day::date", "color": "color"}}
        )
        def events(context: dg.AssetExecutionContext) -> pd.DataFrame:
            key = both.get_partition_key_from_str(context.partition_key).keys_by_dimension
            return pd.DataFrame({"value": [value], "day": [key["day"]], "color": [key["color"]]})

        return events

    keys = [{"day": "2026-01-01", "color": "red"}, {"day": "2026-01-02", "color": "red"}]
    keys += [{"day": "2026-01-01", "color": "green"}, keys[0]]
    for value, key in enumerate(keys):
        run(asset(value), partition=dg.MultiPartitionKey(key))
    assert [row[0] for row in rows("full_raw.events")] == [1, 2, 3]


@pytest.mark.parametrize("kind", [pd.DataFrame, sa.FromClause])
def test_who_depends_on_a_partition_reads_its_rows_only(run: Callable[..., Any], rows: Any, kind: type) -> None:
    def double(paint):  # type: ignore[no-untyped-def]
        if kind is pd.DataFrame:
            return paint.assign(value=paint["value"] * 2)
        return sa.select(paint.c.Color, (paint.c.value * 2).label("value"))

    def total(paint):  # type: ignore[no-untyped-def]
        return pd.DataFrame({"rows": [len(paint)], "total": [paint["value"].sum()]})

    double.__annotations__, total.__annotations__ = {"paint": kind}, {"paint": pd.DataFrame}
    doubled = dg.asset(group_name="report", partitions_def=COLORS, metadata={"partition_expr": "Color"})(double)
    paint = by_color({"red": [1], "green": [5]})
    run(paint, doubled, partition="red")
    run(paint, doubled, partition="green")
    assert rows("full_report.double") == [("green", 10), ("red", 2)]
    run(paint, dg.asset(group_name="report")(total), only="report.total")
    assert rows("full_report.total") == [(2, 6)]


def test_rows_outside_of_the_partition_are_refused(run: Callable[..., Any], rows: Any) -> None:
    @dg.asset(name="paint", group_name="raw", partitions_def=COLORS, metadata={"partition_expr": "Color"})
    def wrong() -> pd.DataFrame:
        return pd.DataFrame({"Color": ["red", "green", None], "value": [1, 2, 3]})

    run(by_color({"red": [1]}), partition="red")
    error = refused(run, wrong, partition="red")
    assert isinstance(error, UnstorableResult)
    assert "raw.paint: 2 of 3 rows are outside of partition red" in str(error)
    assert rows("full_raw.paint") == [("red", 1)]


def test_other_columns_than_the_other_partitions_have_are_refused(run: Callable[..., Any], rows: Any) -> None:
    @dg.asset(name="paint", group_name="raw", partitions_def=COLORS, metadata={"partition_expr": "Color"})
    def wider() -> pd.DataFrame:
        return pd.DataFrame({"Color": ["green"], "value": [1], "more": [2]})

    run(by_color({"red": [1]}), partition="red")
    error = refused(run, wider, partition="green")
    assert isinstance(error, UnstorableResult)
    assert "(more)" in str(error)
    assert rows("full_raw.paint") == [("red", 1)]


@pytest.mark.parametrize(("expression", "said"), [({}, "partition_expr"), ({"partition_expr": "colour"}, "colour")])
def test_a_partitioned_asset_must_say_by_which_column(run: Callable[..., Any], expression: Any, said: str) -> None:
    @dg.asset(group_name="raw", partitions_def=COLORS, metadata=expression)
    def paint() -> pd.DataFrame:
        return pd.DataFrame({"Color": ["red"]})

    error = refused(run, paint, partition="red")
    assert isinstance(error, WiringError | UnstorableResult)
    assert "raw" in str(error)
    assert said in str(error)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"partition_exr": "Color"}, r"nobody reads the metadata 'partition_exr'\. Did you mean 'partition_expr'"),
        ({"pipedag/inptu": True}, r"nobody reads the metadata 'pipedag/inptu'\. Did you mean 'pipedag/input'"),
        ({"pipedag/sample": 5}, r"nobody reads the metadata 'pipedag/sample'\."),
        ({"pipedag/input": "yes"}, r"the metadata 'pipedag/input' must be True or False, not 'yes'"),
        (
            {"partition_expr": "Color"},
            r"nobody reads .* 'partition_expr', because the asset has no partitions",
        ),
    ],
)
def test_metadata_that_nobody_reads_is_refused(config: PipedagConfig, extra: dict[str, Any], message: str) -> None:
    asset = dg.asset(group_name="raw", name="paint", metadata=extra)(lambda: None)
    with pytest.raises(WiringError, match=rf"Asset paint: {message}"):
        build_definitions(config=config, instance="full", assets=[asset])


def test_metadata_of_other_packages_is_left_alone(config: PipedagConfig) -> None:
    asset = dg.asset(group_name="raw", name="paint", metadata={"owner": "sales", "dagster/uri": "x"})(lambda: None)
    definitions = build_definitions(config=config, instance="full", assets=[asset])
    (spec,) = (one for one in definitions.resolve_all_asset_specs() if one.key.path[-1] == "paint")
    assert spec.metadata["owner"] == "sales"


def test_a_dimension_that_the_asset_does_not_have_is_refused(run: Callable[..., Any]) -> None:
    both = dg.MultiPartitionsDefinition({"day": DAYS, "color": COLORS})
    expressions = {"day": "day::date", "color": "color", "colr": "color"}

    @dg.asset(group_name="raw", partitions_def=both, metadata={"partition_expr": expressions})
    def paint() -> pd.DataFrame:
        return pd.DataFrame({"day": ["2026-01-01"], "color": ["red"]})

    error = refused(run, paint, partition=dg.MultiPartitionKey({"day": "2026-01-01", "color": "red"}))
    assert "partition_expr names 'colr', which is not a dimension. Did you mean 'color'?" in str(error)


# ---- data versions ---------------------------------------------------------------------------------------------


def numbers(*values: int) -> dg.AssetsDefinition:
    @dg.asset(group_name="raw", name="numbers")
    def asset() -> pd.DataFrame:
        return pd.DataFrame({"a": list(values), "b": list(values)})

    return asset


def test_the_data_version_is_that_of_the_content(run: Callable[..., Any], config: PipedagConfig) -> None:
    shown = [metadata(run(numbers(*values)), "full/raw/numbers") for values in ([1, 2], [1, 2], [3])]
    versions = [each["tags"]["dagster/data_version"] for each in shown]
    assert versions[0] == versions[1] != versions[2]
    # Equal content is no new stage version: small instances need not look at it again.
    assert [each["pipedag/stage_version"] for each in shown] == [1, 1, 2]


# ---- inputs of small instances ---------------------------------------------------------------------------------


@dg.asset(group_name="raw", metadata={"pipedag/input": True}, description="From outside.")
def orders() -> Table:
    assert not os.environ.get("OUT_OF_REACH"), "the source is out of reach"
    return Table(pd.DataFrame({"id": [1, 2, 3, 4], "amount": [10, 20, 30, 40]}), primary_key="id")


@dg.asset(group_name="report")
def revenue(orders: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"rows": [len(orders)], "amount": [orders["amount"].sum()]})


def test_an_input_is_copied_on_small_instances_and_its_function_does_not_run(
    run: Callable[..., Any], rows: Any, config: PipedagConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(orders, revenue)
    monkeypatch.setenv("OUT_OF_REACH", "yes")
    run(orders, revenue, instance="midi")
    copied = rows("midi_raw.orders")
    assert len(copied) == 2
    assert set(copied) < {(1, 10), (2, 20), (3, 30), (4, 40)}
    assert rows("midi_report.revenue") == [(2, sum(amount for _, amount in copied))]
    table = config.get("midi").store.table_store.current(["raw"])["raw"].tables["orders"]
    assert table.primary_key == ("id",)
    for name in ("full", "midi"):
        store = config.get(name).store.table_store
        with store.database.read() as connection:
            assert store.catalog.pinned(connection) == [], "what the run has read may be dropped"
    again = metadata(run(orders, revenue, instance="midi"), "midi/raw/orders")
    assert again["pipedag/cached"] is True
    assert again["tags"]["dagster/data_version"] == table.data_version


def test_assets_have_keys_of_their_instance_and_copies_descend_from_the_source(config: PipedagConfig) -> None:
    midi = build_definitions(None, config, instance="midi", assets=[orders, revenue]).resolve_asset_graph()
    assert midi.get(dg.AssetKey(["midi", "raw", "orders"])).parent_keys == {dg.AssetKey(["full", "raw", "orders"])}
    assert midi.get(dg.AssetKey(["midi", "report", "revenue"])).parent_keys == {dg.AssetKey(["midi", "raw", "orders"])}
    assert not midi.get(dg.AssetKey(["full", "raw", "orders"])).is_materializable
    assert (midi.get(dg.AssetKey(["midi", "raw", "orders"])).description or "").endswith("From outside.")


def test_partitions_of_an_input_are_copied_each_by_itself(run: Callable[..., Any], rows: Any) -> None:
    paint = by_color({"red": [1, 2], "green": [3, 4], "it's": [5, 6]})
    marked = paint.map_asset_specs(lambda spec: spec.merge_attributes(metadata={"pipedag/input": True}))
    run(marked, partition="red...it's")
    for color in ("red", "green", "it's"):
        run(marked, instance="midi", partition=color)
    sample = rows("midi_raw.paint")
    assert len(sample) == 2  # the sample of midi, whichever partitions it is in
    assert set(sample) < set(rows("full_raw.paint"))


def test_a_source_that_was_never_run_is_named(run: Callable[..., Any]) -> None:
    error = refused(run, orders, instance="mini", only="raw.orders")
    assert isinstance(error, NotMaterialized)
    assert "'full'" in str(error)
    assert "raw.orders" in str(error)


def test_a_function_whose_assets_are_inputs_in_part_is_refused(config: PipedagConfig) -> None:
    @dg.multi_asset(
        outs={
            "one": dg.AssetOut(group_name="raw", metadata={"pipedag/input": True}),
            "two": dg.AssetOut(group_name="raw"),
        }
    )
    def mixed() -> tuple[int, int]:
        return 1, 2

    with pytest.raises(WiringError, match="two"):
        build_definitions(None, config, instance="midi", assets=[mixed])


def test_a_multi_asset_writes_and_reads_tables(run: Callable[..., Any], rows: Any) -> None:
    @dg.multi_asset(outs={"one": dg.AssetOut(group_name="raw"), "two": dg.AssetOut(group_name="raw")})
    def several() -> tuple[pd.DataFrame, pd.DataFrame]:
        return pd.DataFrame({"a": [1], "b": [2]}), pd.DataFrame({"a": [3], "b": [4]})

    run(several)
    assert rows("full_raw.one") + rows("full_raw.two") == [(1, 2), (3, 4)]


# ---- next to the stages of a flow ------------------------------------------------------------------------------


@materialize(version="1", outputs=["customers"])
def load() -> Table:
    return Table(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), primary_key="a")


def build(instance: object) -> Flow:
    with Flow("shop") as flow, Stage("raw"):
        load()
    return flow


@dg.asset(group_name="report", ins={"customers": dg.AssetIn(key=["raw", "customers"])})
def count(customers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"rows": [len(customers)], "b": [0]})


def test_a_plain_asset_reads_a_table_of_a_stage_on_every_instance(
    config: PipedagConfig, dagster: dg.DagsterInstance, rows: Any
) -> None:
    for name, expected in (("full", 2), ("mini", 2)):  # the task is no input: it runs on mini, too
        definitions = build_definitions(build, config, instance=name, assets=[count])
        assert definitions.resolve_job_def(name).execute_in_process(instance=dagster).success
        assert rows(f"{name}_report.count") == [(expected, 0)]


def test_a_task_reads_the_table_of_a_plain_asset(config: PipedagConfig, dagster: dg.DagsterInstance, rows: Any) -> None:
    @materialize(version="1", outputs=["total"])
    def total(orders: pd.DataFrame) -> Table:
        return Table(pd.DataFrame({"rows": [len(orders)], "amount": [orders["amount"].sum()]}))

    def reading(instance: object) -> Flow:
        with Flow("reads") as flow, Stage("totals"):
            total(flow.external("raw.orders"))
        return flow

    for name, count in (("full", 4), ("midi", 2)):
        definitions = build_definitions(reading, config, instance=name, assets=[orders])
        key = dg.AssetKey([name, "totals", "total"])
        assert definitions.resolve_asset_graph().get(key).parent_keys == {dg.AssetKey([name, "raw", "orders"])}
        job = definitions.resolve_job_def(name)
        assert job.execute_in_process(instance=dagster).success
        assert rows(f"{name}_totals.total") == [(count, sum(amount for _, amount in rows(f"{name}_raw.orders")))]
        again = job.execute_in_process(instance=dagster)
        assert metadata(again, f"{name}/totals/total")["pipedag/cached"] is True


def test_a_table_of_nobody_is_named(config: PipedagConfig) -> None:
    @materialize(version="1", outputs=["total"])
    def total(orders: pd.DataFrame) -> pd.DataFrame:
        return orders

    with Flow("reads") as flow, Stage("totals"):
        total(flow.external("raw.orders"))
    with pytest.raises(NotMaterialized, match=r"raw\.orders"):
        flow.run(config=config.get("full"), fail_fast=True)
    with pytest.raises(WiringError, match="external"), Flow("reads") as flow:
        flow.external("orders")


def test_an_asset_between_two_tasks_of_one_stage_is_refused(config: PipedagConfig) -> None:
    @materialize(version="1", outputs=["customers"])
    def customers() -> pd.DataFrame:
        return pd.DataFrame({"b": [1, 2]})

    @materialize(version="1", outputs=["total"])
    def total(count: pd.DataFrame) -> pd.DataFrame:
        return count

    def circle(instance: object) -> Flow:
        with Flow("reads") as flow, Stage("raw"):
            customers()
            total(flow.external("report.count"))
        return flow

    with pytest.raises(WiringError, match=r"'raw' needs asset full/report/count, which needs stage 'raw'"):
        build_definitions(circle, config, instance="full", assets=[count])


def test_an_asset_and_a_task_of_the_same_table_are_refused(config: PipedagConfig) -> None:
    @dg.asset(group_name="raw")
    def customers() -> pd.DataFrame:
        return pd.DataFrame({"a": [1]})

    with pytest.raises(WiringError, match="full/raw/customers"):
        build_definitions(build, config, instance="full", assets=[customers])


# ---- other processes -------------------------------------------------------------------------------------------

ELSEWHERE = """
import os
from pathlib import Path

import dagster as dg
import pandas as pd

from pipedag_dagster import build_definitions


def asset(name):
    @dg.asset(name=name, group_name="raw")
    def made() -> pd.DataFrame:
        return pd.DataFrame({"pid": [os.getpid()], "b": [1]})

    return made


@dg.asset(group_name="raw")
def processes(one: pd.DataFrame, two: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([one, two])


full = build_definitions(
    None, Path(__file__).parent / "instances", instance="full", assets=[asset("one"), asset("two"), processes]
)
job = dg.define_asset_job("apart", dg.AssetSelection.all(), executor_def=dg.multiprocess_executor)
full = dg.Definitions.merge(full, dg.Definitions(jobs=[job]))
"""


def test_steps_in_processes_of_their_own_and_in_another_folder(
    config: PipedagConfig, tmp_path: Path, rows: Any
) -> None:
    """What it takes to run on other hosts: nothing is handed on but definitions that can be imported."""
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(), work.mkdir()
    environment = {**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "elsewhere", "-a", "full", "-j", "apart"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len({pid for pid, _ in rows("full_raw.processes")}) == 2
    assert config.get("full").store.table_store.current(["raw"])["raw"].number == 3, (
        "two writers of one stage take turns"
    )
