"""Plain Dagster assets next to the stages: `TableIOManager` writes, commits and reads their tables."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Optional

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    Flow,
    InstanceResource,
    PipedagConfig,
    PipedagError,
    Stage,
    Table,
    TableIOManager,
    build_definitions,
    materialize,
)
from pipedag_dagster.errors import NotMaterialized, UnstorableResult, WiringError
from pipedag_dagster_tests.helpers import Connection, visible

ORDERS = pd.DataFrame({"id": [1, 2, 3], "customer": ["ann", None, "bob"]})


@pytest.fixture
def run(config: PipedagConfig) -> Callable[..., dg.ExecuteInProcessResult]:
    """Materialize plain assets on the instance `full`."""

    def materialize(*assets: Any, selection: Any = None) -> dg.ExecuteInProcessResult:
        instance = InstanceResource(config_path=str(config.path), instance="full")
        resources = {"instance": instance, "io_manager": TableIOManager(instance=instance)}
        with dg.DagsterInstance.ephemeral() as dagster:
            return dg.materialize(assets, resources=resources, selection=selection, instance=dagster)

    return materialize


@dg.asset(io_manager_key="io_manager", group_name="raw")
def orders() -> pd.DataFrame:
    return ORDERS


def test_an_asset_becomes_the_table_of_its_name_in_the_stage_of_its_group(
    run: Callable[..., Any], connection: Connection
) -> None:
    result = run(orders)
    assert connection.execute("SELECT * FROM full_raw.orders ORDER BY id").fetchall() == [
        (1, "ann"),
        (2, None),
        (3, "bob"),
    ]
    [event] = result.get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    assert metadata["dagster/row_count"].value == 3
    assert metadata["dagster/table_name"].value.endswith(".full_raw.orders")
    assert metadata["pipedag/stage_version"].value == 1


def test_each_asset_is_one_commit_that_keeps_the_other_tables(run: Callable[..., Any], config: PipedagConfig) -> None:
    @dg.asset(io_manager_key="io_manager", key_prefix="raw")
    def customers() -> pd.DataFrame:
        return pd.DataFrame({"name": ["ann"]})

    run(orders)
    before = config.get("full").store.table_store.current(["raw"])["raw"]
    run(customers)
    after = config.get("full").store.table_store.current(["raw"])["raw"]
    assert after.number == before.number + 1
    assert set(after.tables) == {"orders", "customers"}
    assert after.tables["orders"] == before.tables["orders"]


def test_a_table_object_brings_its_key_and_its_indexes(
    run: Callable[..., Any], config: PipedagConfig, connection: Connection
) -> None:
    @dg.asset(io_manager_key="io_manager", group_name="raw")
    def keyed() -> Table:
        return Table(ORDERS, primary_key="id", indexes=[["customer"]], non_nullable=["id"])

    run(keyed)
    table = config.get("full").store.table_store.current(["raw"])["raw"].tables["keyed"]
    assert table.primary_key == ("id",)
    indexes = connection.execute("SELECT count(*) FROM pg_indexes WHERE tablename = %s", [table.physical]).fetchone()
    assert indexes == (2,)


@pytest.mark.parametrize("kind", ["pandas", "pyarrow", "polars", "sqlalchemy", "no annotation"])
def test_an_input_arrives_as_its_annotation_says(run: Callable[..., Any], kind: str) -> None:
    if kind == "polars" and importlib.util.find_spec("polars") is None:
        pytest.skip("polars is not installed")
    got: list[Any] = []

    def reader() -> dg.AssetsDefinition:
        polars: Any = pytest.importorskip("polars").DataFrame if kind == "polars" else None
        annotation = {
            "pandas": pd.DataFrame,
            "pyarrow": pa.Table,
            "polars": polars,
            "sqlalchemy": sa.Alias,
            "no annotation": None,
        }[kind]

        def customers(orders):  # type: ignore[no-untyped-def]
            got.append(orders)

        if annotation is not None:
            customers.__annotations__ = {"orders": annotation}
        return dg.asset(io_manager_key="io_manager", group_name="raw")(customers)

    run(orders, reader())
    [value] = got
    if kind == "sqlalchemy":
        assert isinstance(value, sa.Alias)
        assert [column.name for column in value.c] == ["id", "customer"]
    elif kind == "pyarrow":
        assert isinstance(value, pa.Table)
        assert value.to_pydict() == {"id": [1, 2, 3], "customer": ["ann", None, "bob"]}
    elif kind == "polars":
        assert value.to_dict(as_series=False) == {"id": [1, 2, 3], "customer": ["ann", None, "bob"]}
    else:
        pd.testing.assert_frame_equal(value.astype({"id": "int64", "customer": object}), ORDERS, check_dtype=False)


def reader_of(annotation: Any, got: list[Any]) -> dg.AssetsDefinition:
    def customers(orders):  # type: ignore[no-untyped-def]
        got.append(orders)

    customers.__annotations__ = {"orders": annotation}
    return dg.asset(io_manager_key="io_manager", group_name="raw")(customers)


@pytest.mark.parametrize("optional", [lambda cls: cls | None, lambda cls: Optional[cls]], ids=["| None", "Optional"])  # noqa: UP045
@pytest.mark.parametrize("frame", ["pandas.DataFrame", "polars.DataFrame", "polars.LazyFrame", "pyarrow.Table"])
def test_an_optional_input_arrives_as_the_class_in_it(run: Callable[..., Any], optional: Any, frame: str) -> None:
    module, _, name = frame.partition(".")
    cls, got = getattr(pytest.importorskip(module), name), list[Any]()
    run(orders, reader_of(optional(cls), got))
    assert [type(value) for value in got] == [cls]


@pytest.mark.parametrize("annotation", [int, dict[str, int], pd.Series, int | None], ids=str)
def test_an_annotation_that_tables_cannot_be_read_as_is_refused(run: Callable[..., Any], annotation: Any) -> None:
    got: list[Any] = []
    error = refused(run, orders, reader_of(annotation, got))
    assert isinstance(error, WiringError)
    assert "Asset 'raw__customers'" in str(error) or "Asset 'customers'" in str(error)
    assert "parameter 'orders' is annotated" in str(error)
    assert "Annotate it with one of pd.DataFrame, sa.Table" in str(error)
    assert got == []


def test_a_query_on_an_input_runs_inside_the_database(run: Callable[..., Any], connection: Connection) -> None:
    @dg.asset(io_manager_key="io_manager", group_name="report")
    def named(orders: sa.Alias) -> sa.Select[Any]:
        return sa.select(orders.c.id).where(orders.c.customer.is_not(None))

    run(orders, named)
    assert connection.execute("SELECT id FROM full_report.named ORDER BY id").fetchall() == [(1,), (3,)]


def test_an_asset_that_returns_none_has_stored_its_data_itself(run: Callable[..., Any], connection: Connection) -> None:
    @dg.asset(io_manager_key="io_manager", group_name="raw")
    def elsewhere() -> None:
        return None

    assert run(elsewhere).success
    assert visible(connection, "full_raw") == []


def test_an_empty_frame_is_a_table_without_rows(run: Callable[..., Any], connection: Connection) -> None:
    @dg.asset(io_manager_key="io_manager", group_name="raw")
    def empty() -> pd.DataFrame:
        return ORDERS.head(0)

    got: list[pd.DataFrame] = []

    @dg.asset(io_manager_key="io_manager", group_name="raw")
    def reader(empty: pd.DataFrame) -> None:
        got.append(empty)

    run(empty, reader)
    assert visible(connection, "full_raw") == ["empty"]
    assert [list(frame.columns) for frame in got] == [["id", "customer"]]
    assert [len(frame) for frame in got] == [0]


# ---- stages and plain assets, together -------------------------------------------------------------------------


@materialize(outputs=["dfa"], version="1")
def load() -> Table:
    return Table(pd.DataFrame({"a": [1, 2]}), primary_key="a")


def build(instance: object) -> Flow:
    with Flow("shop") as flow, Stage("stage_1"):
        load()
    return flow


def together(config: PipedagConfig, *assets: Any, selection: Any = None, mode: str = "normal") -> None:
    """Run a pipeline and plain assets as one Definitions."""
    definitions = build_definitions(build, config, instance="full")
    both = dg.Definitions(
        assets=[*(definitions.assets or []), *assets], resources=definitions.resources, executor=dg.in_process_executor
    )
    job = both.get_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as dagster:
        run_config = {"resources": {"instance": {"config": {"cache_validation_mode": mode}}}}
        job.execute_in_process(run_config=run_config, instance=dagster, asset_selection=selection)


@dg.asset(io_manager_key="io_manager", group_name="stage_1", ins={"dfa": dg.AssetIn(key=["full", "stage_1", "dfa"])})
def total(dfa: pd.DataFrame) -> pd.DataFrame:
    return dfa.sum().to_frame("total")


def test_a_plain_asset_reads_a_table_of_a_stage(config: PipedagConfig, connection: Connection) -> None:
    together(config, total)
    assert connection.execute("SELECT * FROM full_stage_1.total").fetchall() == [(3,)]


def test_the_table_of_a_plain_asset_survives_the_commit_of_the_stage(
    config: PipedagConfig, connection: Connection
) -> None:
    together(config, total)
    together(config, selection=[dg.AssetKey(["full", "stage_1", "dfa"])], mode="force_cache_invalid")
    assert config.get("full").store.table_store.current(["stage_1"])["stage_1"].number == 3
    assert visible(connection, "full_stage_1") == ["dfa", "total"]
    assert connection.execute("SELECT * FROM full_stage_1.total").fetchall() == [(3,)]


# ---- mistakes --------------------------------------------------------------------------------------------------


def refused(run: Callable[..., Any], *assets: Any, selection: Any = None) -> PipedagError:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Dagster may put its own error around ours
        run(*assets, selection=selection)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, PipedagError):
        error = error.__cause__
    assert isinstance(error, PipedagError)
    return error


def test_what_a_table_cannot_hold_is_refused_and_nothing_is_committed(
    run: Callable[..., Any], connection: Connection
) -> None:
    @dg.asset(io_manager_key="io_manager", group_name="raw")
    def number():  # type: ignore[no-untyped-def]
        return 42

    error = refused(run, number)
    assert isinstance(error, UnstorableResult)
    assert "raw.number" in str(error)
    assert "int" in str(error)
    assert visible(connection, "full_raw") == []


def test_an_asset_without_a_stage_is_told_how_to_have_one(run: Callable[..., Any]) -> None:
    @dg.asset(io_manager_key="io_manager")
    def lost() -> pd.DataFrame:
        return ORDERS

    error = refused(run, lost)
    assert isinstance(error, WiringError)
    assert "lost" in str(error)
    assert 'group_name="raw"' in str(error)


def test_a_table_that_was_never_committed_is_named(run: Callable[..., Any]) -> None:
    @dg.asset(io_manager_key="io_manager", group_name="raw")
    def reader(orders: pd.DataFrame) -> pd.DataFrame:
        return orders

    error = refused(run, orders, reader, selection=[reader])
    assert isinstance(error, NotMaterialized)
    assert "raw.orders" in str(error)
    assert "'full'" in str(error)


def test_a_name_that_a_task_of_the_stage_has_taken_is_refused(config: PipedagConfig) -> None:
    @materialize(version="1")
    def task() -> Table:
        return Table(ORDERS, "orders")

    with Flow("shop") as flow, Stage("raw"):
        task()
    flow.run(config=config.get("full"))

    def again(*assets: Any, selection: Any = None) -> None:
        instance = InstanceResource(config_path=str(config.path), instance="full")
        with dg.DagsterInstance.ephemeral() as dagster:
            dg.materialize(assets, resources={"io_manager": TableIOManager(instance=instance)}, instance=dagster)

    error = refused(again, orders)
    assert isinstance(error, UnstorableResult)
    assert "'orders'" in str(error)
