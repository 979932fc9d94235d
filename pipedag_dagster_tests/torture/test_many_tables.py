"""Many tables: a stage of thousands of tables does not fill PostgreSQL's table of locks.

The server of these tests has a table of locks that is much smaller than usual, so that some hundred tables are many.
3,000 tables on a server as it comes: see docs/store.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Column, TableVersion
from pipedag_dagster.names import quote
from pipedag_dagster.versions import removal
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.torture import count, readers, servers, tries
from pipedag_dagster_tests.torture.readers import STAGE
from pipedag_dagster_tests.torture.servers import Server

TABLES = 600


@pytest.fixture
def server() -> Iterator[Server]:
    with servers.serve() as server:
        if tries(1, 3) == 1:
            server.restart("max_connections = 20\nmax_locks_per_transaction = 10\nfsync = off\n")
        yield server


def staged(store: TableStore, held: LockedStage, generation: int, tables: int) -> dict[str, TableVersion]:
    """Many small tables, made in batches: how they are staged is not what is tested here."""
    schema, made = store.schemas(STAGE).versions, []
    for start in range(0, tables, 20):
        names = [f"t{number}" for number in range(start, min(start + 20, tables))]
        with store.database.transaction() as connection:
            for name in names:
                table = quote(schema, f"{name}_{generation}")
                connection.execute(f"CREATE TABLE {table} AS SELECT {generation} AS generation".encode())
        made += [
            readers.table_version(
                name,
                f"{name}_{generation}",
                {
                    "physical": f"{name}_{generation}",
                    "content": str(generation),
                    "columns": (Column("generation", "integer"),),
                    "rows": 1,
                    "bytes": 0,
                },
            )
            for name in names
        ]
    return {table.asset: table for table in held.add(made)}


def test_a_stage_with_very_many_tables(server: Server) -> None:
    tables = tries(TABLES, 3_000)
    store = server.files("postgres").get("full").store.table_store
    store.prepare([STAGE])
    for generation in (1, 2, 3, 4):
        with store.lock(STAGE, f"run{generation}") as held:
            held.commit(generation, staged(store, held, generation, tables))
        store.unpin(f"run{generation}")
        with store.database.read() as connection:
            shown = f"SELECT generation FROM {quote(store.schemas(STAGE).current, f't{tables - 1}')}"
            assert connection.scalar(sa.text(shown)) == generation
    assert differences(store) == []
    freed = removal.gc(store, "gc")
    assert (freed.versions, freed.stays) == (0, ())
    assert removal.drop(store).tables == 2 * tables
    assert removal.holdings(store).schemas == ()
    counted = count("many tables: committed, cleaned up, dropped")
    counted.tries, counted.note = tables, "tables"
