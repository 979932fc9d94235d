"""Which physical tables were changed after they were written.

They never change, so all rows are of the transaction that made the table. Where that is so, nothing was changed. Where
it is not (a dump was restored, or a script wrote in several steps), the content is hashed and compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import psycopg
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import OutputKind, TableVersion
from pipedag_dagster.data import frames
from pipedag_dagster.names import quote
from pipedag_dagster.versions import content_hash
from pipedag_dagster.versions.table_store import TableStore


def changed_tables(store: TableStore, stage: str, missing: Collection[str | None]) -> Iterator[tuple[str, str]]:
    """The physical tables of a stage whose rows are not those that were written, with the reason.

    Args:
        missing: those that are known to be broken already; they are not looked at.
    """
    with store.database.read() as connection:
        tables = store.catalog.table_versions(connection, stage)
    for table in tables:
        if table.kind is OutputKind.table and table.physical not in missing:
            reason = _changed(store, table)
            if reason is not None:
                yield table.physical, reason


def _changed(store: TableStore, table: TableVersion) -> str | None:
    source = quote(store.schemas(table.stage).versions, table.physical)
    with store.database.transaction(read_only=True) as connection:
        row = connection.execute(_ROWS.format(table=source).encode(), (source,)).fetchone()
        assert row is not None
        rows, others = row
        if rows != table.rows:
            return f"has {rows:,} rows, and {table.rows:,} were written"
        if not others:
            return None
    with store.database.transaction(read_only=True) as connection:
        hashes = [content_hash.content(connection, source, table.columns, ordered=ordered) for ordered in (False, True)]
    if table.data_version in (*hashes, _of_frame(store, source)):
        return None
    return f"was changed after it was written ({others:,} rows are of another transaction)"


def _of_frame(store: TableStore, source: str) -> str | None:
    """The hash that a DataFrame with these rows has."""
    try:
        return frames.content_version(frames.to_arrow(frames.read(store.database.uri, f"SELECT * FROM {source}"), ""))
    except (ValueError, TypeError, psycopg.Error, sa.exc.SQLAlchemyError):
        return None  # not made of a DataFrame


# The entry of the column tableoid is written with the table and never again.
_ROWS = """
    SELECT count(*), count(*) FILTER (WHERE t.xmin <> (
        SELECT a.xmin FROM pg_attribute a WHERE a.attrelid = %s::regclass AND a.attname = 'tableoid'))
    FROM {table} AS t
"""
