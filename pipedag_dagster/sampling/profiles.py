"""Where the profiles of source tables are kept: in the catalog of the source, for all instances that sample it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.sampling.source_tables import SourceTable
from pipedag_dagster.versions import ownership


class Profiles:
    """What is known of the physical tables of a source, which never change.

    An instance with a role of its own may not write to the catalog of the source: it keeps what it finds in its own.

    Args:
        tables: the tables of the source, by `stage.asset`.
        remember: keep what was found.
    """

    def __init__(
        self, instance: ConfigContext, source: ConfigContext, tables: Mapping[str, TableVersion], *, remember: bool
    ) -> None:
        self._tables = tables
        self._remember = remember
        self._places = [(source.store.table_store, ""), (instance.store.table_store, f"{source.config.name}: ")]

    def profile(self, table: SourceTable, key: str) -> Any:
        """What was found before; None when nothing was."""
        stage = self._tables[table.name].stage
        for store, prefix in self._places:
            if store.exists():
                with store.database.read() as connection:
                    found = store.catalog.profile(connection, prefix + stage, table.physical, key)
                if found is not None:
                    return found
        return None

    def add_profile(self, table: SourceTable, key: str, body: Any) -> None:
        """Keep what was found."""
        if not self._remember:
            return
        stage = self._tables[table.name].stage
        (source, _), (own, prefix) = self._places
        with source.database.begin() as connection:
            if ownership.belongs_to_us(connection, source.catalog.schema):
                source.catalog.add_profile(connection, stage, table.physical, key, body)
                return
        current = [one.physical for one in self._tables.values() if one.stage == stage]
        with own.database.begin() as connection:
            own.catalog.add_profile(connection, prefix + stage, table.physical, key, body)
            own.catalog.keep_profiles(connection, prefix + stage, current)
