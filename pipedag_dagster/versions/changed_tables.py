"""Which physical tables were changed after they were written.

They never change, so all rows are of the transaction that made the table. Where that is so, nothing was changed. Where
it is not (a dump was restored, or a script wrote in several steps), the content is hashed and compared with the hash
that the catalog keeps. A table that was never hashed cannot be compared; it is named, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import psycopg
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import OutputKind, TableVersion
from pipedag_dagster.data import frames
from pipedag_dagster.names import quote
from pipedag_dagster.versions import content_hash, same_content
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
        rows, others = same_content.rows_of(connection, source)
        if rows != table.rows:
            return f"has {rows:,} rows, and {table.rows:,} were written"
        if not others:
            return None
    changed = f"was changed after it was written ({others:,} rows are of another transaction)"
    if table.content_hash is None:
        return changed if others < rows else _UNKNOWN
    with store.database.transaction(read_only=True) as connection:
        hashes = [content_hash.content(connection, source, table.columns, ordered=ordered) for ordered in (False, True)]
    return None if table.content_hash in (*hashes, _of_frame(store, source)) else changed


_UNKNOWN = (
    "was restored from a dump, or all its rows were changed: they are of another transaction than the table, and there "
    "is no hash of what was written"
)


def _of_frame(store: TableStore, source: str) -> str | None:
    """The hash that a DataFrame with these rows has."""
    try:
        return frames.content(frames.read(store.database.uri, f"SELECT * FROM {source}"), "").version
    except (ValueError, TypeError, psycopg.Error, sa.exc.SQLAlchemyError):
        return None  # not made of a DataFrame
