"""Queries as people can run them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.names import quote
from pipedag_dagster.versions.table_store import TableStore


def with_view_names(query: str, store: TableStore, tables: Iterable[TableVersion]) -> str:
    """The query with the names of views in place of the names of physical tables."""
    for table in tables:
        schemas = store.schemas(table.stage)
        pattern = rf'"?{re.escape(schemas.versions)}"?\."?{re.escape(table.physical)}"?'
        query = re.sub(pattern, quote(schemas.current, table.name).replace("\\", "\\\\"), query)
    return query
