"""What somebody has damaged by hand is found by `check --database --content`, repaired, and made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import Blob, ConfigContext, Flow, RawSql, Stage, Table, materialize
from pipedag_dagster.errors import NotMaterialized
from pipedag_dagster.versions.repair import repair
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Instances


@dataclass
class World:
    """full, whose stage `raw` has a frame, a query, a script and a blob."""

    instance: ConfigContext
    sql: psycopg.Connection[Any]
    folder: Path
    ran: list[str] = field(default_factory=list)

    def run(self) -> None:
        ran = self.ran

        @materialize(version="1")
        def orders() -> Table:
            ran.append("orders")
            return Table(pd.DataFrame({"id": [1, 2, 3], "n": [1.5, None, 3]}), primary_key="id", indexes=[["n"]])

        @materialize(lazy=True, input_type=sa.Table)
        def doubled(orders: sa.Alias) -> Any:
            return sa.select(orders.c.id, (orders.c.n * 2).label("n"))

        @materialize(version="1", input_type=sa.Table)
        def script(orders: sa.Alias) -> RawSql:
            ran.append("script")
            return RawSql("CREATE TABLE scripted AS SELECT id FROM {orders}; INSERT INTO scripted VALUES (4)")

        @materialize(version="1")
        def model() -> Blob:
            ran.append("model")
            return Blob({"weights": [1, 2]}, "model")

        ran.clear()
        with Flow("shop") as flow, Stage("raw"):
            loaded = orders()
            doubled(loaded)
            script(loaded)
            model()
        flow.run(config=self.instance, fail_fast=True)

    def physical(self, name: str) -> str:
        query = "SELECT physical FROM full_pipedag.table_version WHERE name = %s ORDER BY id DESC LIMIT 1"
        (found,) = self.sql.execute(query, (name,)).fetchone() or ("",)
        return f'full_raw__versions."{found}"'

    def execute(self, sql: str) -> None:
        self.sql.execute(sql.encode())

    def found(self, *, content: bool = True) -> list[str]:
        store = self.instance.store.table_store
        return [each.message for each in differences(store, content=content) if not each.harmless]

    def repair(self) -> str:
        return "\n".join(repair(self.instance.store.table_store, "repair"))

    def is_right(self) -> bool:
        frame = self.sql.execute("SELECT id, n FROM full_raw.orders ORDER BY 1").fetchall()
        query = self.sql.execute("SELECT id, n FROM full_raw.doubled ORDER BY 1").fetchall()
        script = self.sql.execute("SELECT id FROM full_raw.scripted ORDER BY 1").fetchall()
        return (frame, query, script) == (
            [(1, 1.5), (2, None), (3, 3)],
            [(1, 3), (2, None), (3, 6)],
            [(1,), (2,), (3,), (4,)],
        )


@pytest.fixture
def world(instances: Instances, database_url: sa.URL, tmp_path: Path) -> Iterator[World]:
    base = tmp_path / "blobs"
    config = instances(any=f"blob_store: {{args: {{base_path: '{base}'}}}}\n")
    with psycopg.connect(database_url.render_as_string(hide_password=False), autocommit=True) as sql:
        made = World(config.get("full"), sql, base)
        made.run()
        yield made


def blob(world: World) -> Path:
    return next(world.folder.rglob("*.pickle"))


Damage = Callable[[World], object]
TABLES: dict[str, tuple[Damage, str, list[str]]] = {
    "a table dropped": (
        lambda w: w.execute(f"DROP TABLE {w.physical('orders')} CASCADE"),
        "is in the catalog, but not in the database",
        ["orders"],
    ),
    "a row updated": (
        lambda w: w.execute(f"UPDATE {w.physical('orders')} SET n = 7 WHERE id = 1"),
        "was changed after it was written",
        ["orders"],
    ),
    "all rows updated": (
        lambda w: w.execute(f"UPDATE {w.physical('orders')} SET n = n + 1"),
        "was changed after it was written",
        ["orders"],
    ),
    "a row deleted": (
        lambda w: w.execute(f"DELETE FROM {w.physical('orders')} WHERE id = 1"),
        "has 2 rows, and 3 were written",
        ["orders"],
    ),
    "a row replaced": (
        lambda w: w.execute(
            f"DELETE FROM {w.physical('scripted')} WHERE id = 1; INSERT INTO {w.physical('scripted')} VALUES (9)"
        ),
        "was changed after it was written",
        ["script"],
    ),
    "a table truncated": (lambda w: w.execute(f"TRUNCATE {w.physical('scripted')}"), "has 0 rows", ["script"]),
    "a query's table updated": (
        lambda w: w.execute(f"UPDATE {w.physical('doubled')} SET n = 0"),
        "was restored from a dump, or all its rows were changed",
        [],
    ),
    "a column dropped": (
        lambda w: w.execute(f"ALTER TABLE {w.physical('orders')} DROP COLUMN n CASCADE"),
        "has other columns",
        ["orders"],
    ),
    "a blob truncated": (lambda w: blob(w).write_bytes(blob(w).read_bytes()[:-1]), "was changed", ["model"]),
    "a blob removed": (lambda w: blob(w).unlink(), "is not there", ["model"]),
}
VIEWS: dict[str, tuple[str, str]] = {
    "a view dropped": ("DROP VIEW full_raw.orders", "but shows nothing"),
    "a view replaced": (
        "CREATE OR REPLACE VIEW full_raw.orders AS SELECT id, n * 2 AS n FROM {orders}",
        "is not the view that we made",
    ),
    "a view with a condition": (
        "CREATE OR REPLACE VIEW full_raw.orders AS SELECT id, n FROM {orders} WHERE id > 1",
        "is not the view that we made",
    ),
    "a view on another table": (
        "CREATE OR REPLACE VIEW full_raw.orders AS SELECT 1::bigint AS id, 2::double precision AS n",
        "but shows ?",
    ),
    "a view in between": ("CREATE VIEW full_raw.more AS SELECT 1 AS a", "should show nothing"),
}


def test_without_damage_nothing_is_found(world: World) -> None:
    assert world.found() == []
    assert world.repair() == "raw: nothing to repair."
    world.run()
    assert world.ran == []


@pytest.mark.parametrize("damage", TABLES)
def test_a_damaged_table_is_found_forgotten_and_made_again(world: World, damage: str) -> None:
    do, message, again = TABLES[damage]
    do(world)
    assert any(message in each for each in world.found()), world.found()
    assert "The next run makes what is missing" in world.repair()
    assert world.found() == []
    world.run()
    assert set(world.ran) >= set(again)
    assert world.found() == []
    assert world.is_right()


@pytest.mark.parametrize("damage", VIEWS)
def test_a_damaged_view_is_found_and_made_again_at_once(world: World, damage: str) -> None:
    do, message = VIEWS[damage]
    world.execute(do.format(orders=world.physical("orders")))
    assert any(message in each for each in world.found(content=False)), world.found()
    assert "made all views again" in world.repair()
    assert world.found() == []
    assert world.is_right()
    world.run()
    assert world.ran == []


@pytest.mark.parametrize("schema", ["full_raw", "full_raw__versions"])
def test_a_schema_that_was_renamed_gets_its_name_back(world: World, schema: str) -> None:
    world.execute(f"ALTER SCHEMA {schema} RENAME TO elsewhere")
    assert world.found(content=False)
    assert f"renamed schema elsewhere back to {schema}" in world.repair()
    assert world.found() == []
    assert world.is_right()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("ALTER TABLE full_raw__versions.{name} DROP CONSTRAINT {name}_pkey", "has lost its primary key (id)"),
        ("DROP INDEX full_raw__versions.{name}_n_idx", "has lost its index (n)"),
    ],
)
def test_an_index_that_was_dropped_is_made_again_at_once(world: World, sql: str, message: str) -> None:
    world.execute(sql.format(name=world.physical("orders").split(".")[1].strip('"')))
    assert [message in each for each in world.found(content=False)] == [True]
    world.repair()
    assert world.found() == []
    world.run()
    assert world.ran == []


def test_an_older_version_that_is_damaged_is_forgotten(world: World) -> None:
    world.execute("UPDATE full_pipedag.table_version SET task_key = '', cache_key = ''")
    old = world.physical("orders")
    world.run()
    world.execute(f"DELETE FROM {old}")
    assert any("has 0 rows" in each for each in world.found())
    world.repair()
    assert world.found() == []
    assert world.is_right()


def test_a_stage_that_was_never_committed_is_named(world: World) -> None:
    with pytest.raises(NotMaterialized, match="'report' of instance 'full' was never committed"):
        list(repair(world.instance.store.table_store, "repair", "report"))
