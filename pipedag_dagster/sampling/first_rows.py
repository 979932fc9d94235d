"""Which rows of a source table a small instance gets: the same ones every time, on every machine.

The first N rows in the order of the primary key; without a primary key, in the order of a hash of the row, which
spreads them over the table. Both orders are total up to equal rows, so smaller samples are part of larger ones.
"""

from __future__ import annotations

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.names import quote
from pipedag_dagster.versions.content_hash import row_hash
from pipedag_dagster.versions.write_table import Constraints


def sample_query(schema: str, table: TableVersion, rows: int | None) -> str:
    """The SQL text that selects the sample of a physical table in `schema`; all of it without `rows`."""
    columns = ", ".join(quote("t", column.name) for column in table.columns)
    query = f"SELECT {columns} FROM {quote(schema, table.physical)} AS t"
    if rows is None:
        return query
    # Texts in the order of their bytes: that of a locale is another one on another server.
    texts = {column.name for column in table.columns if column.type.startswith(("text", "character"))}
    key = [quote("t", name) + (' COLLATE "C"' if name in texts else "") for name in table.primary_key]
    order = key or [row_hash(table.columns)]
    return f"{query} ORDER BY {', '.join(order)} LIMIT {rows}"


def constraints(table: TableVersion) -> Constraints:
    """The constraints of a table, for its copy."""
    non_nullable = tuple(column.name for column in table.columns if not column.nullable)
    return Constraints(table.primary_key, table.indexes, non_nullable)
