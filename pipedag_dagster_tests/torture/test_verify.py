"""`check --database` names every difference between catalog and database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import PipedagConfig, input_stage_versions
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.torture import shop
from pipedag_dagster_tests.torture.shop import World


@pytest.fixture
def files(instances: Instances) -> PipedagConfig:
    files = instances()
    assert shop.run(str(files.path), "full", World()).successful
    return files


@pytest.fixture
def store(files: PipedagConfig) -> TableStore:
    return files.get("full").store.table_store


@pytest.fixture
def sql(database_url: sa.URL) -> Iterator[Callable[[str], object]]:
    with psycopg.connect(database_url.render_as_string(hide_password=False), autocommit=True) as connection:
        yield lambda statement: connection.execute(statement.encode())


def found(store: TableStore, *, harmless: bool = False) -> str:
    """The only difference there is."""
    names = differences(store)
    assert names
    assert {difference.harmless for difference in names} == {harmless}
    return "\n".join(one.message for one in names)


def test_a_table_whose_columns_were_changed(store: TableStore, sql: Callable[[str], object]) -> None:
    orders = store.current(["raw"])["raw"].tables["orders"].physical
    sql(f'ALTER TABLE full_raw__versions."{orders}" ADD COLUMN more int')
    assert "has other columns than the catalog says" in found(store)


def test_a_pin_on_a_version_that_is_not_there(store: TableStore, sql: Callable[[str], object]) -> None:
    sql("INSERT INTO full_pipedag.pin VALUES ('', 'lost', 'raw', 7, now() + interval '1 hour')")
    assert found(store) == "run lost pins version 7 of stage raw, which is not there"
    sql("UPDATE full_pipedag.pin SET until = now() - interval '1 hour'")
    assert differences(store) == []  # it has ended, and is remembered


def test_schemas_whose_catalog_is_gone(store: TableStore, sql: Callable[[str], object]) -> None:
    sql("DROP SCHEMA full_pipedag CASCADE")
    assert "schema full_raw belongs to stage 'raw' of instance 'full' of pipeline 'shop', but the catalog" in found(
        store
    )


def test_a_run_leaves_no_pin_in_any_instance_that_it_has_read(files: PipedagConfig) -> None:
    """Also in one that is named in the wiring only."""
    full = files.get("full")

    @input_stage_versions(lazy=True, input_type=sa.Table, outputs=["orders", "ids"])
    def copy(tables: dict[str, Any], source_tables: dict[str, Any], source: Any) -> dict[str, Any]:
        return {name: sa.select(table) for name, table in source_tables.items()}

    (files.path / "other.yaml").write_text("")
    other = PipedagConfig(files.path).get("other")
    with shop.Flow("shop") as flow, shop.Stage("raw") as stage:
        copy(full, stage=stage)
    assert flow.run(other, fail_fast=True).successful
    for store in (full.store.table_store, other.store.table_store):
        with store.database.read() as connection:
            assert store.catalog.pinned(connection) == []
