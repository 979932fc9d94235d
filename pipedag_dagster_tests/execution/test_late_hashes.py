"""The content of a query's result is hashed only where that can stop a change: a task ran again, and an earlier version
of its table has as many rows."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, RawSql, Stage, materialize
from pipedag_dagster_tests.helpers.server_log import Log
from pipedag_dagster_tests.torture.servers import Server, serve

ONE, SAME, OTHER, LONGER = (
    "SELECT 1 AS id",
    "SELECT 2 - 1 AS id",
    "SELECT 7 AS id",
    "SELECT generate_series(1, 2) AS id",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


@dataclass
class World:
    """A table that SQL makes, and a task that reads it."""

    full: ConfigContext
    log: Log
    is_script: bool
    query: str = ONE
    fails: bool = False
    ran: list[str] = field(default_factory=list)

    def run(self, query: str | None = None, **options: Any) -> int:
        """Run the flow. Returns how many tables were hashed in the database."""
        self.query = query or self.query
        self.ran.clear()

        @materialize(version=self.query, outputs=["numbers"])
        def table() -> Any:
            return RawSql(f"CREATE TABLE numbers AS {self.query}") if self.is_script else sa.text(self.query)

        @materialize(version="1", input_type=pd.DataFrame)
        def after(numbers: pd.DataFrame) -> pd.DataFrame:
            self.ran.append("after")
            return numbers

        @materialize(version=str(self.fails))
        def other() -> int:
            if self.fails:
                raise ValueError("as told")
            return 1

        with Flow("hashes") as flow, Stage("raw"):
            after(table())
            other()
        self.log.statements()
        flow.run(self.full, **options)
        return sum("hash_record_extended" in statement for statement in self.log.statements())

    def tables(self) -> list[tuple[str, str | None]]:
        """Data version and content hash of each version of the table, the newest first."""
        query = (
            "SELECT data_version, content_hash FROM full_pipedag.table_version WHERE asset = 'numbers' ORDER BY id DESC"
        )
        with self.full.store.table_store.database.read() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query))]


@pytest.fixture(params=[False, True], ids=["query", "script"])
def world(server: Server, request: pytest.FixtureRequest) -> World:
    name = f"hashes_{secrets.token_hex(4)}"
    server.execute(f"CREATE DATABASE {name}", f"ALTER DATABASE {name} SET log_statement = 'all'")
    return World(server.files(name).get("full"), Log(server.data / "log"), request.param)


def test_nothing_is_hashed_in_a_first_run(world: World) -> None:
    assert world.run() == 0


def test_nothing_is_hashed_when_the_number_of_rows_tells(world: World) -> None:
    world.run()
    assert world.run(LONGER) == 0
    assert world.ran == ["after"]


def test_equal_content_stops_a_change_and_the_earlier_version_is_hashed_once(world: World) -> None:
    world.run()
    assert world.run(SAME) == 2
    assert world.ran == []
    assert world.run(ONE + " ") == 1
    assert world.ran == []
    assert len(set(world.tables())) == 1


def test_other_content_reaches_the_next_task_and_its_way_back_does_too(world: World) -> None:
    world.run()
    ((first, _),) = world.tables()
    assert world.run(OTHER) == 2
    assert world.ran == ["after"]
    assert world.run(SAME) == 1
    assert world.ran == []  # its result from the first run is still there
    assert world.tables()[0][0] == first


def test_what_a_failed_run_has_staged_is_compared_too(world: World) -> None:
    world.fails = True
    world.run()
    assert world.run(SAME) == 2
    world.fails = False
    assert world.run(ONE + " ") == 1
    assert world.ran == []


def test_nothing_is_hashed_when_everything_is_forced_and_the_result_counts_as_changed(world: World) -> None:
    world.run()
    assert world.run(cache_validation_mode="force_cache_invalid") == 0
    assert len(set(world.tables())) == 2
    assert world.run(SAME) == 2


def test_two_results_of_one_query_are_not_taken_for_the_same(world: World) -> None:
    world.run("SELECT random() AS id")
    world.run(cache_validation_mode="force_cache_invalid")
    assert len(set(world.tables())) == 2


def test_an_earlier_version_that_somebody_has_changed_is_not_compared(world: World) -> None:
    world.run()
    with world.full.store.table_store.database.begin() as connection:
        (physical,) = connection.scalars(sa.text("SELECT tablename FROM pg_tables WHERE tablename LIKE 'numbers%'"))
        connection.execute(sa.text(f'UPDATE full_raw__versions."{physical}" SET id = 7'))
    assert world.run(OTHER) == 1
    assert world.ran == ["after"]  # it has seen 1, not 7
