"""What the catalog of an instance remembers: results by key, what runs did, and what checks found."""

from __future__ import annotations

from collections.abc import Collection

from pipedag_dagster.catalog.catalog import Catalog, CheckFinding, RunRecord, SampledRows, TableVersion
from pipedag_dagster.fingerprint.code_text import CodeText
from pipedag_dagster.postgres.database import Database


class Records:
    """Reads the catalog of one instance. The catalog is there (see `TableStore.exists`)."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    def find(self, stage: str, key: str, *, with_cache_value: bool = True) -> list[TableVersion]:
        """The tables of the newest execution with this key (see `Catalog.find`)."""
        with self._database.read() as connection:
            return self._catalog.find(connection, stage, key, with_cache_value=with_cache_value)

    def keys(self, stage: str) -> set[str]:
        """The keys of all results of a stage (see `Catalog.keys`)."""
        with self._database.read() as connection:
            return self._catalog.keys(connection, stage)

    def text(self, key: str | None) -> CodeText:
        """The code and the query of a table version, as far as they are kept; empty when nothing is."""
        if key is None:
            return CodeText()
        with self._database.read() as connection:
            return self._catalog.texts(connection, [key]).get(key, CodeText())

    def of_run(self, run_id: str) -> list[tuple[RunRecord, TableVersion]]:
        """What a run did, table by table."""
        with self._database.read() as connection:
            return self._catalog.of_run(connection, run_id)

    def runs(self, stage: str, asset: str, limit: int) -> list[RunRecord]:
        """What the last runs did about a table, the newest first."""
        with self._database.read() as connection:
            return self._catalog.runs(connection, stage, asset, limit)

    def stages(self) -> list[str]:
        """All stages that have a version."""
        with self._database.read() as connection:
            return self._catalog.stages(connection)

    def assets(self) -> list[tuple[str, str]]:
        """Stage and asset of every table for which a run is remembered."""
        with self._database.read() as connection:
            return self._catalog.assets(connection)

    def findings(self, keys: Collection[str]) -> dict[str, CheckFinding]:
        """What checks found before, by key."""
        with self._database.read() as connection:
            return self._catalog.findings(connection, keys)

    def sample(self, key: str) -> dict[str, SampledRows] | None:
        """A sample that was chosen before (see `Catalog.sample`)."""
        with self._database.read() as connection:
            return self._catalog.sample(connection, key)

    def add_finding(self, key: str, table: TableVersion, finding: CheckFinding) -> None:
        """Remember what a check found in a table version."""
        with self._database.begin() as connection:
            self._catalog.add_finding(connection, key, table.id or 0, finding)
