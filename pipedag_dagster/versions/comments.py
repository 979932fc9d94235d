"""Comments on the views that people query: they survive a commit, as grants do.

A comment on a physical table or its columns, which a script has written, is shown on the view. Where there is none, the
view keeps the comment that it had.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.names import StageSchemas, literal, quote
from pipedag_dagster.postgres.database import execute

_COMMENTS = """
    SELECT c.relname, a.attname, d.description
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_catalog.pg_class'::regclass
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid AND d.objsubid > 0
    WHERE n.nspname = :schema AND c.relname = ANY(:names)
"""


def copy_to_views(connection: sa.Connection, schemas: StageSchemas, tables: Sequence[TableVersion]) -> None:
    """Give the views in the next schema their comments."""
    kept = _comments(connection, schemas.current, [table.name for table in tables])
    written = _comments(connection, schemas.versions, [table.physical for table in tables])
    statements = []
    for table in tables:
        view, columns = quote(schemas.next, table.name), {column.name for column in table.columns}
        for column, text in (kept.get(table.name, {}) | written.get(table.physical, {})).items():
            if column is None:
                statements.append(f"COMMENT ON VIEW {view} IS {literal(text)}")
            elif column in columns:
                statements.append(f"COMMENT ON COLUMN {view}.{quote(column)} IS {literal(text)}")
    if statements:
        execute(connection, ";\n".join(statements))


def _comments(connection: sa.Connection, schema: str, names: Sequence[str]) -> dict[str, dict[str | None, str]]:
    """The comments in a schema by relation, and by column; None for the relation itself."""
    found: dict[str, dict[str | None, str]] = {}
    for row in connection.execute(sa.text(_COMMENTS), {"schema": schema, "names": list(names)}):
        found.setdefault(row.relname, {})[row.attname] = row.description
    return found
