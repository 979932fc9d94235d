"""`ExternalTableReference`: tables of the database that no task made, used without copying them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    ConfigContext,
    ExternalTableReference,
    Flow,
    PipedagConfig,
    RawSql,
    SortCol,
    SortOrder,
    Stage,
    Table,
    View,
    materialize,
)
from pipedag_dagster.errors import NotMaterialized, TaskFailed, UnstorableResult, WiringError
from pipedag_dagster_tests.helpers import Query

CUSTOMERS = ExternalTableReference("Customers", schema="crm", shared_lock_allowed=True)


@pytest.fixture
def full(config: PipedagConfig) -> Iterator[ConfigContext]:
    """The instance full, as the current one. Its database has a table of somebody else."""
    with config.get("full").evolve(fail_fast=True) as instance:
        store = instance.store.table_store
        store.execute("CREATE SCHEMA crm")
        store.execute('CREATE TABLE crm."Customers" (id int, city text)')
        store.execute("INSERT INTO crm.\"Customers\" VALUES (1, 'Oslo'), (2, 'Rome')")
        yield instance


def run(returned: Any, **options: Any) -> tuple[pd.DataFrame, int]:
    """A task that returns a reference, and one that counts its rows: what both have made."""

    @materialize(input_type=pd.DataFrame)
    def count(frame: pd.DataFrame) -> int:
        return len(frame)

    with Flow() as flow, Stage("raw"):
        table = materialize(lambda: returned, name="customers", **options)()
        rows = count(table)
    result = flow.run()
    return result.get(table), result.get(rows)


@pytest.mark.parametrize("returned", [CUSTOMERS, Table(CUSTOMERS), View(CUSTOMERS)], ids=["alone", "Table", "View"])
def test_an_external_table_becomes_a_view_of_the_stage(full: ConfigContext, query: Query, returned: Any) -> None:
    frame, rows = run(returned, version="1.0")
    assert (frame["city"].to_list(), rows) == (["Oslo", "Rome"], 2)
    assert query("SELECT table_type FROM information_schema.tables WHERE table_schema = 'full_raw__versions' "
                 "AND table_name LIKE 'customers%'") == [("VIEW",)]  # fmt: skip


@pytest.mark.parametrize(
    ("view", "rows"),
    [
        (View(CUSTOMERS, columns={"town": "city"}, limit=1), [("Oslo",)]),
        (View(CUSTOMERS, columns=["id"], sort_by=SortCol("id", SortOrder.DESC)), [(2,), (1,)]),
        (View([CUSTOMERS, sa.text("SELECT 3, 'Bonn'").columns(sa.column("a"), sa.column("b"))], sort_by="id"),
         [(1, "Oslo"), (2, "Rome"), (3, "Bonn")]),
    ],
    ids=["columns", "sorted", "union"],
)  # fmt: skip
def test_a_view_may_choose_columns_and_rows_of_it(full: ConfigContext, view: View, rows: Any) -> None:
    frame, _ = run(view, version="1.0")
    assert list(frame.itertuples(index=False, name=None)) == rows


def test_the_cache_function_tells_that_its_content_has_changed(full: ConfigContext) -> None:
    store = full.store.table_store

    def changed() -> int:
        return int(store.execute('SELECT count(*) FROM crm."Customers"').scalar_one())

    assert run(CUSTOMERS, cache=changed)[1] == 2
    store.execute("INSERT INTO crm.\"Customers\" VALUES (3, 'Bonn')")
    assert run(CUSTOMERS, cache=changed)[1] == 3


def test_another_version_tells_that_its_content_has_changed(full: ConfigContext) -> None:
    assert run(CUSTOMERS, version="1")[1] == 2
    full.store.table_store.execute("INSERT INTO crm.\"Customers\" VALUES (3, 'Bonn')")
    assert run(CUSTOMERS, version="1")[1] == 2
    assert run(CUSTOMERS, version="2")[1] == 3


def test_a_missing_table_is_named(full: ConfigContext) -> None:
    with pytest.raises(UnstorableResult, match=r'raw\.customers.*"crm\.orders" does not exist'):
        run(ExternalTableReference("orders", "crm"), version="1.0")


def test_constraints_of_an_external_table_are_refused(full: ConfigContext) -> None:
    with pytest.raises(TaskFailed, match="which a view cannot have"):
        run(Table(CUSTOMERS, primary_key="id"), version="1.0")


@pytest.mark.parametrize(("name", "schema"), [("", "crm"), ("orders", None)])
def test_a_reference_needs_a_name_and_a_schema(name: Any, schema: Any) -> None:
    with pytest.raises(WiringError, match="is not a name"):
        ExternalTableReference(name, schema)


def test_a_task_takes_external_tables_as_arguments(full: ConfigContext) -> None:
    def joined(left: Any, right: list[Any]) -> Any:
        return sa.select(left.c.city).join_from(left, right[0], left.c.id == right[0].c.id + 1)

    with Flow() as flow, Stage("raw"):
        result = materialize(joined, input_type=sa.Table, version="1")(CUSTOMERS, [Table(CUSTOMERS)])
    assert flow.run().get(result)["city"].to_list() == ["Rome"]


def test_a_script_names_external_tables_among_its_arguments(full: ConfigContext) -> None:
    with Flow() as flow, Stage("raw"):
        copy = RawSql("CREATE TABLE copy AS SELECT * FROM {table}")
        script = materialize(lambda table: copy, name="script", version="1")(CUSTOMERS)
    assert len(flow.run().get(script["copy"])) == 2


def test_the_cache_function_of_a_task_tells_that_an_argument_has_changed(full: ConfigContext) -> None:
    store = full.store.table_store

    def rows(table: pd.DataFrame) -> int:
        return len(table)

    def count(table: pd.DataFrame) -> int:
        return len(table)

    counts = []
    for _ in range(2):
        with Flow() as flow, Stage("raw"):
            result = materialize(count, cache=rows, input_type=pd.DataFrame)(CUSTOMERS)
        counts.append(flow.run().get(result))
        store.execute("INSERT INTO crm.\"Customers\" VALUES (3, 'Bonn')")
    assert counts == [2, 3]


def test_a_cache_function_gets_the_reference_in_a_table_and_not_its_rows(full: ConfigContext) -> None:
    def reference(tables: list[Table]) -> Any:
        return [(table.name, table.obj.schema) for table in tables]

    def lengths(tables: list[pd.DataFrame]) -> Any:
        return [len(table) for table in tables]

    with Flow() as flow, Stage("raw"):
        result = materialize(lengths, cache=reference, input_type=pd.DataFrame)([Table(CUSTOMERS)])
    assert flow.run().get(result) == [2]
    assert reference([Table(CUSTOMERS, "Customers")]) == [("Customers", "crm")]


def test_a_run_says_when_nothing_tells_of_changes(full: ConfigContext, caplog: pytest.LogCaptureFixture) -> None:
    with Flow() as flow, Stage("raw"):
        materialize(len, name="count", input_type=pd.DataFrame)(CUSTOMERS)
    flow.run()
    assert "raw.count takes crm.Customers, which no task makes, so its change will not be noticed." in caplog.text


# ---- reading by name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [CUSTOMERS, Table(CUSTOMERS)], ids=["alone", "Table"])
def test_the_store_reads_external_tables(full: ConfigContext, table: Any) -> None:
    store = full.store.table_store
    assert store.retrieve_table_obj(table, as_type=pd.DataFrame)["city"].to_list() == ["Oslo", "Rome"]
    assert [*store.retrieve_table_obj(table, as_type=sa.Table).c.keys()] == ["id", "city"]


def test_the_store_reads_committed_tables_by_name(full: ConfigContext) -> None:
    run(CUSTOMERS, version="1")
    table = Table(name="customers")
    table.stage = "raw"
    assert len(full.store.table_store.retrieve_table_obj(table, as_type=pd.DataFrame)) == 2


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (ExternalTableReference("orders", "crm"), 'Table "crm"."orders" does not exist in the database'),
        (Table(name="orders"), "found by its name and its stage"),
    ],
)
def test_the_store_names_what_it_cannot_find(full: ConfigContext, table: Any, says: str) -> None:
    with pytest.raises((NotMaterialized, WiringError), match=says):
        full.store.table_store.retrieve_table_obj(table)


def test_the_store_names_a_table_that_is_not_committed(full: ConfigContext) -> None:
    table = Table(name="orders")
    table.stage = Stage("raw")
    with pytest.raises(NotMaterialized, match=r"has not committed raw\.orders"):
        full.store.table_store.retrieve_table_obj(table)
