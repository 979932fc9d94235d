"""Whether an earlier version of a table holds the same rows. Then it has the same data version: no task after it runs.

A hash reads the whole table. So it is taken late: only when an earlier version of the table has the same columns and as
many rows. The earlier one is hashed too, once, and the catalog keeps its hash. A table that was never hashed has a data
version that no other table has.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Catalog, TableVersion
from pipedag_dagster.names import quote
from pipedag_dagster.postgres.database import driver_of
from pipedag_dagster.versions import content_hash
from pipedag_dagster.versions.write_table import Connection, PhysicalTable


@dataclass(frozen=True)
class Identity:
    """What a new table holds: its data version, and the hash of its rows if one was taken."""

    data_version: str
    content_hash: str | None = None


def unique_identity() -> Identity:
    """The identity of a table whose rows nobody has compared with others."""
    return Identity(secrets.token_hex(16))


def identity(
    connection: sa.Connection, catalog: Catalog, schema: str, stage: str, asset: str, table: PhysicalTable
) -> Identity:
    """The identity of a new table: that of the newest earlier version with the same rows, if there is one.

    Args:
        schema: where the physical tables are. The caller holds the lock of their stage.
    """
    shape = [(column.name, column.type) for column in table.columns]
    earlier = [
        version
        for version in catalog.with_as_many_rows(connection, stage, asset, table.rows)
        if [(column.name, column.type) for column in version.columns] == shape and version.physical != table.physical
    ]
    if not earlier:
        return unique_identity()
    new = rows_hash(driver_of(connection), schema, table)
    for version, known in _hashes(connection, catalog, schema, earlier, ordered=table.ordered):
        if known == new:
            return Identity(version.data_version, new)
    return Identity(new, new)


def rows_hash(connection: Connection, schema: str, table: PhysicalTable) -> str:
    """A hash of the rows of a new table."""
    return content_hash.content(connection, quote(schema, table.physical), table.columns, ordered=table.ordered)


def _hashes(
    connection: sa.Connection, catalog: Catalog, schema: str, tables: list[TableVersion], *, ordered: bool
) -> Iterator[tuple[TableVersion, str]]:
    """The hashes of earlier versions. Those that were never hashed are hashed now."""
    for table in tables:
        if table.content_hash is not None:
            yield table, table.content_hash
        elif is_ordered(table) == ordered:
            relation, driver = quote(schema, table.physical), driver_of(connection)
            if not is_as_written(driver, relation):
                continue
            found = content_hash.content(driver, relation, table.columns, ordered=ordered)
            catalog.keep_content_hash(connection, table, found)
            yield table, found


def is_ordered(table: TableVersion) -> bool:
    """Whether the order of the rows counts, in a table that the database made."""
    return bool((table.parts.get("sample") or table.parts).get("ordered"))


def is_as_written(connection: Connection, relation: str) -> bool:
    """Whether a physical table is there, and all its rows are of the transaction that made it: nobody changed it."""
    if connection.execute("SELECT to_regclass(%s)", (relation,)).fetchone() == (None,):
        return False
    _, others = rows_of(connection, relation)
    return not others


def rows_of(connection: Connection, relation: str) -> tuple[int, int]:
    """How many rows a table has, and how many of them are of another transaction than the one that made the table."""
    row = connection.execute(_ROWS.format(table=relation).encode(), (relation,)).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


# The entry of the column tableoid is written with the table and never again.
_ROWS = """
    SELECT count(*), count(*) FILTER (WHERE t.xmin <> (
        SELECT a.xmin FROM pg_attribute a WHERE a.attrelid = %s::regclass AND a.attname = 'tableoid'))
    FROM {table} AS t
"""
