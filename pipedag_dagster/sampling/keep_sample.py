"""Keeping a sample in the catalog of the small instance: the handles of its rows, and the rows of views themselves."""

from __future__ import annotations

from collections.abc import Mapping

from pipedag_dagster.catalog.catalog import Catalog, SampledRows
from pipedag_dagster.names import literal, quote
from pipedag_dagster.postgres.piping import pipe
from pipedag_dagster.sampling.selection import Selection
from pipedag_dagster.sampling.source_tables import Connection
from pipedag_dagster.versions import write_table


def keep(
    reader: Connection,
    writer: Connection,
    catalog: Catalog,
    key: str,
    selection: Selection,
    rows: Mapping[str, SampledRows],
) -> None:
    """Keep a sample.

    Args:
        reader: leads to the source.
        writer: leads to the catalog. It is the same connection where both are one database: then nothing is sent.
    """
    is_here = reader is writer
    target = quote(catalog.schema, catalog.sample_rows.name)
    for name, table in rows.items():
        if table.rows_of_view is not None:
            kept, query = quote(catalog.schema, table.rows_of_view), _rows(name, selection)
            if is_here:
                writer.execute(f"CREATE TABLE {kept} AS {query}".encode())
            else:
                write_table.stream(reader, query, writer, kept)
        elif not table.is_whole:
            query = _handles(key, name, selection)
            if is_here:
                writer.execute(f"INSERT INTO {target} {query}".encode())
            else:
                pipe(reader, query, writer, target, binary=False)


def _handles(key: str, name: str, selection: Selection) -> str:
    """A query for the rows of the catalog that keep the handles of a table."""
    return (
        f"SELECT {literal(key)}, {literal(name)}, why, array_agg(handle ORDER BY handle) "
        f"FROM {selection.handles(name)} GROUP BY why"
    )


def _rows(name: str, selection: Selection) -> str:
    """A query for the sampled rows of a view."""
    handles = f"SELECT handle FROM {selection.handles(name)}"
    return f"SELECT * FROM {selection.source(name)} AS t WHERE t.ctid IN ({handles}) ORDER BY t.ctid"
