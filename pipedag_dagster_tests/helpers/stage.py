"""One stage of a store, without flow and Dagster: commit tables, and look at what is visible."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import pandas as pd

from pipedag_dagster.catalog.catalog import StageVersion, TableVersion
from pipedag_dagster.names import quote
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.write_table import Constraints, PhysicalTable


class Stage:
    """What a run does with one stage, without flow and Dagster."""

    def __init__(self, store: TableStore, name: str = "raw") -> None:
        self.store = store
        self.name = name
        self.schema = store.schemas(name).current

    def stage(self, name: str, content: pd.DataFrame | str, **constraints: Any) -> TableVersion:
        """Write one table (a frame, or a query) and record it."""
        with self.store.lock(self.name, "run") as held:
            return self.write(held, name, content, **constraints)

    def write(self, held: LockedStage, name: str, content: pd.DataFrame | str, **constraints: Any) -> TableVersion:
        """The same, under a lock that is held already."""
        limits = Constraints(**constraints)
        write = held.write_query if isinstance(content, str) else held.write_frame
        made = write(name, content, limits)  # type: ignore[arg-type]
        return held.add([table_version(self.name, name, made, limits)])[0]

    def put(self, tables: Iterable[TableVersion], run_id: str = "run") -> StageVersion:
        """Commit these tables as the next version."""
        self.store.prepare([self.name])
        with self.store.lock(self.name, run_id) as held:
            held.commit(self.version.number + 1, {table.asset: table for table in tables})
        self.store.unpin(run_id)
        return self.version

    def commit(self, **frames: pd.DataFrame | str) -> StageVersion:
        """Stage and commit these tables, and no others."""
        self.store.prepare([self.name])
        return self.put([self.stage(name, content) for name, content in frames.items()])

    @property
    def version(self) -> StageVersion:
        return self.store.current([self.name])[self.name]

    def seen(self) -> dict[str, list[tuple[Any, ...]]]:
        """What people see: the rows of each view."""
        with self.store.database.transaction() as connection:
            names = connection.execute("SELECT viewname FROM pg_views WHERE schemaname = %s", (self.schema,))
            return {
                name: connection.execute(f"SELECT * FROM {quote(self.schema, name)}".encode()).fetchall()
                for (name,) in names.fetchall()
            }

    def catalog_rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """What the catalog says that people see."""
        found = {}
        for table in self.version.tables.values():
            rows = self.store.read(table).itertuples(index=False, name=None)
            found[table.name] = list(rows)
        return found

    def physical(self) -> set[str]:
        return names(self.store, "SELECT tablename FROM pg_tables WHERE schemaname = %s", f"{self.schema}__versions")

    def schemas(self) -> set[str]:
        """The schemas of the stage, without its name."""
        found = names(self.store, "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, %s)", self.schema)
        return {name.removeprefix(self.schema) for name in found}


def table_version(stage: str, name: str, made: PhysicalTable, limits: Constraints) -> TableVersion:
    key = secrets.token_hex(8)
    return TableVersion(
        stage=stage,
        asset=name,
        name=name,
        physical=made.physical,
        flow="flow",
        task=name,
        execution=key,
        slot="None",
        task_key=key,
        cache_key=key,
        parts={},
        code_version="1",
        data_version=made.content or key,
        columns=made.columns,
        primary_key=limits.primary_key,
        indexes=limits.indexes,
        rows=made.rows,
        bytes=made.bytes,
        query=None,
        run_id="run",
        seconds=0.0,
    )


def names(store: TableStore, query: str, *parameters: str) -> set[str]:
    with store.database.transaction() as connection:
        return {row[0] for row in connection.execute(query.encode(), parameters).fetchall()}
