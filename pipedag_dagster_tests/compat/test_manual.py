"""Small programs in the manner of pydiverse.pipedag's manual, with nothing but the imports changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    AUTO_VERSION,
    Blob,
    ConfigContext,
    ExternalTableReference,
    FinalTaskState,
    Flow,
    GroupNode,
    PipedagConfig,
    Stage,
    StageLockContext,
    Table,
    Task,
    TaskGetItem,
    View,
    VisualizationStyle,
    create_basic_pipedag_config,
    input_stage_versions,
    materialize,
)
from pipedag_dagster.errors import WiringError
from pipedag_dagster_tests.helpers import Instances, Query


@pytest.fixture
def basic(database_url: sa.URL) -> Iterator[ConfigContext]:
    """The instance of a configuration without a file, as the current one."""
    with create_basic_pipedag_config(
        database_url.render_as_string(hide_password=False), disable_stage_locking=True, kroki_url="https://kroki.io"
    ).get("default") as instance:
        yield instance


# ---- queries, texts and DataFrames -----------------------------------------------------------------------------


@materialize(lazy=True)
def query() -> Any:
    return sa.select(sa.literal(1).label("x"), sa.literal(2).label("y"))


@materialize(nout=2, version="1.0")
def frames() -> Any:
    keys = pd.DataFrame({"a": [0, 1], "b": [9, 8]})
    return Table(keys, "keys"), Table(pd.DataFrame({"a": [2, 1], "x": [1, 2]}), "Pairs_%%")


@materialize(lazy=True, input_type=sa.Table)
def joined(one: sa.Alias, two: sa.Alias) -> Any:
    rows = one.outerjoin(two, two.c.x == one.c.x)
    return Table(sa.select((one.c.x * 5).label("x5"), two.c.a).select_from(rows), name="out", primary_key=["a"])


@materialize(lazy=True, input_type=sa.Table)
def as_text(table: sa.Alias) -> Any:
    return sa.text(f'SELECT * FROM "{table.original.schema}"."{table.original.name}"')


@materialize(version="1.0", input_type=pd.DataFrame)
def merged(one: pd.DataFrame, two: pd.DataFrame) -> Any:
    return one.merge(two, on="x")


@materialize(version=AUTO_VERSION, input_type=pl.LazyFrame)
def plan(one: pl.LazyFrame, two: pl.LazyFrame) -> Any:
    return one.join(two, on="x")


def test_queries_texts_and_frames_feed_each_other(basic: ConfigContext) -> None:
    with Flow() as flow:
        with Stage("stage_1"):
            one = query()
            keys, pairs = frames()
        with Stage("stage_2"):
            out = joined(one, pairs)
            results = as_text(out), merged(one, pairs), plan(one, pairs)
    assert isinstance(one, Task)
    assert isinstance(keys, TaskGetItem)
    assert flow.run().successful
    with StageLockContext():
        result = flow.run()
        assert result.successful
        assert result.get(one, as_type=pd.DataFrame)["x"][0] == 1
        assert [len(result.get(table, as_type=pd.DataFrame)) for table in results] == [1, 1, 1]
        assert set(result.task_states.values()) == {FinalTaskState.CACHE_VALID}


# ---- groups, and runs that fail ----------------------------------------------------------------------------------


@materialize
def number() -> int:
    return 1


@materialize
def plus_one(value: int) -> int:
    return value + 1


@materialize
def failing() -> None:
    raise AssertionError("as it should")


def test_groups_with_a_style_order_tasks(basic: ConfigContext) -> None:
    style = VisualizationStyle(hide_content=True, box_color_always="#ccccff")
    with Flow() as flow, Stage("stage_1"):
        number()
        with GroupNode("group", ordering_barrier=True, style=style):
            two = plus_one(number())
    assert flow.run().get(two) == 2


def test_a_run_that_fails_is_returned(basic: ConfigContext) -> None:
    with Flow() as flow:
        with Stage("stage_1"):
            one = number()
        with Stage("stage_2"):
            out = failing()
        with Stage("stage_3"):
            plus_one(out)
    result = flow.run(config=basic.evolve(fail_fast=False, swallow_exceptions=True))
    assert not result.successful
    assert "as it should" in str(result.exception)
    assert result.task_states[one] is FinalTaskState.COMPLETED
    assert result.task_states[out] is FinalTaskState.FAILED


@pytest.mark.parametrize("method", ["visualize", "visualize_url", "visualize_pydot"])
def test_what_draws_is_refused_and_says_what_does(basic: ConfigContext, method: str) -> None:
    with Flow() as flow, Stage("stage_1"):
        number()
    for drawn in (flow, flow.get_subflow(), flow.run()):
        with pytest.raises(WiringError, match="dagster dev"):
            getattr(drawn, method)()


# ---- fresh, stable and small instances -----------------------------------------------------------------------------


def rows_of(tables: list[Table]) -> Any:
    """The cache function of a task whose tables somebody else owns: it gets the references."""
    with ConfigContext.get().store.table_store.engine_connect() as connection:
        return {
            table.name: connection.scalar(sa.text(f'SELECT count(*) FROM "{table.obj.schema}"."{table.name}"'))
            for table in tables
        }


@materialize(lazy=True, input_type=sa.Table, cache=rows_of, name="get_input")
def link(tables: list[sa.Alias]) -> Any:
    return [Table(View(table), name=table.name) for table in tables]


@materialize(lazy=True, input_type=sa.Table, cache=rows_of, name="get_input")
def load(tables: list[sa.Alias]) -> Any:
    return [Table(table, name=table.name) for table in tables]


def source_hash(tables: Any, others: Any, source: ConfigContext, *, attrs: Any, stage: Stage) -> str:
    return source.store.table_store.get_stage_hash(stage)


@input_stage_versions(input_type=sa.Table, cache=source_hash, pass_args=["attrs", "stage"], lazy=True)
def copy(tables: Any, others: Any, source: ConfigContext, *, attrs: Any, stage: Stage) -> Any:
    small = {name: Table(sa.select(table).limit(attrs["copy_filter_cnt"]), name) for name, table in others.items()}
    return [small[name] for name in sorted(small)]


@materialize(lazy=True, input_type=sa.Table)
def clean(tables: list[sa.Alias]) -> Any:
    return {table.name: Table(sa.select(table), name=table.name, primary_key="pk") for table in tables}


@materialize(input_type=pd.DataFrame)
def model(a: pd.DataFrame, b: pd.DataFrame) -> Any:
    return Blob({"a": len(a), "b": len(b)}, "model")


def build(instance: ConfigContext, config: PipedagConfig) -> Flow:
    with Flow("flow") as flow:
        with Stage("1_raw") as stage:
            if instance.instance_name in ("midi", "mini"):
                attrs = instance.attrs
                source = config.get("full", per_user=False)
                inputs = copy(source, stage=stage, attrs={"copy_filter_cnt": attrs["copy_filter_cnt"]})
            else:
                references = [Table(ExternalTableReference(name, schema="crm")) for name in ("a", "b")]
                inputs = (load if instance.instance_name == "full" else link)(references)
        with Stage("2_clean"):
            tables = clean(inputs)
        with Stage("3_model"):
            model(tables["a"], tables["b"])
    return flow


def test_instances_read_copy_and_filter_tables_that_somebody_else_owns(instances: Instances, query: Query) -> None:
    query("CREATE SCHEMA crm; CREATE TABLE crm.a AS SELECT generate_series(1, 9) AS pk")
    query("CREATE TABLE crm.b AS TABLE crm.a")
    config = instances(fresh="", midi="attrs: {copy_filter_cnt: 5}", mini="attrs: {copy_filter_cnt: 2}")

    def run(name: str) -> Any:
        instance = config.get(name).evolve(fail_fast=True)
        flow = build(instance, config)
        result = flow.run(config=instance)
        states = {state is FinalTaskState.CACHE_VALID for state in result.task_states.values()}
        return result.get(flow["3_model"]["model"])["a"], states

    names = ("fresh", "full", "midi", "mini")
    assert [run(name) for name in names] == [(rows, {False}) for rows in (9, 9, 5, 2)]
    assert [run(name) for name in names] == [(rows, {True}) for rows in (9, 9, 5, 2)]
    query("INSERT INTO crm.a VALUES (10)")
    assert [run(name)[0] for name in ("fresh", "full", "mini")] == [10, 10, 2]


# ---- annotations -----------------------------------------------------------------------------------------------


def test_a_schema_of_another_library_in_an_annotation_is_warned_of() -> None:
    schema = type("Orders", (type("Schema", (), {"__module__": "dataframely.schema"}),), {"__module__": "shop"})

    def task(orders: Any, rows: int) -> Any: ...

    task.__annotations__ = {"orders": list[schema], "rows": int, "return": schema}  # type: ignore[valid-type]
    with pytest.warns(UserWarning, match="nothing is cast or validated") as given:
        materialize(task)
    assert [str(one.message).partition(", which")[0] for one in given] == [
        "Task 'task': the argument 'orders' is annotated with Orders",
        "Task 'task': its result is annotated with Orders",
    ]


def test_tables_of_other_libraries_are_refused_as_inputs() -> None:
    polars = type("Polars", (), {"__module__": "pydiverse.transform"})
    with pytest.raises(WiringError, match=r"input_type=pl\.LazyFrame, and make a table of pydiverse"):
        materialize(input_type=polars, name="task")(lambda table: table)


# ---- texts that are compared with other types --------------------------------------------------------------------


@materialize(version="1.0")
def events() -> Any:
    return Table(pd.DataFrame({"at": pd.to_datetime(["2020-01-01", "2021-01-01"]), "x": [1, 2]}), "events")


@pytest.mark.parametrize(
    "condition",
    [
        lambda c: c.at > "2020-06-01",
        lambda c: c.at.between("2020-06-01", "2022-01-01"),
        lambda c: c.at.in_(["2021-01-01"]),
        lambda c: c.x == "2",
    ],
    ids=["greater", "between", "in", "number"],
)
def test_a_query_compares_a_text_as_the_type_of_the_column(basic: ConfigContext, condition: Any) -> None:
    @materialize(lazy=True, input_type=sa.Table)
    def late(table: sa.Alias) -> Any:
        return sa.select(table.c.x).where(condition(table.c))

    with Flow() as flow, Stage("stage_1"):
        out = late(events())
    assert flow.run().get(out)["x"].to_list() == [2]
