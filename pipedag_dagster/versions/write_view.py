"""Views as outputs: views on physical tables. A table stays as long as a view reads it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias

import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import OutputKind
from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.names import Label, quote
from pipedag_dagster.postgres import user_sql
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.versions import ownership, write_table
from pipedag_dagster.versions.instance_schemas import SchemaRole
from pipedag_dagster.versions.ownership import Owner
from pipedag_dagster.versions.write_table import Connection, PhysicalTable

RoleOf: TypeAlias = Callable[[str, Owner | None], SchemaRole]
"""What a schema is to the instance, given the owner that its mark names (`InstanceSchemas.role`)."""


def make(
    connection: Connection, database: Database, schema: str, name: str, query: str, what: Label, role_of: RoleOf
) -> PhysicalTable:
    """A view in `schema`, with its rows counted.

    Args:
        connection: in a transaction of this database.

    Raises:
        UnstorableResult: the database refuses the query, or it reads tables that will be replaced, or that
            belong to another instance.
    """
    with write_table.explained(what, name, query):
        with user_sql.contained(connection, database, str(what), schema, name):
            user_sql.run(connection, f"CREATE VIEW {quote(schema, name)} AS\n{query}")
        return measure(connection, schema, name, what, role_of)


def measure(connection: Connection, schema: str, name: str, what: Label, role_of: RoleOf) -> PhysicalTable:
    """The columns and rows of a view.

    Raises:
        UnstorableResult: it reads tables that will be replaced or that belong to another instance.
    """
    view = quote(schema, name)
    for other, relation, comment in connection.execute(_READS, (view,)).fetchall():
        role = role_of(other, ownership.named_by(comment))
        if role is SchemaRole.visible:
            raise UnstorableResult(
                f"{what}: the view reads {quote(other, relation)} by name, which is another table after each commit. "
                "Take it as an input of the task instead."
            )
        if role is SchemaRole.foreign:
            raise UnstorableResult(
                f"{what}: the view reads {quote(other, relation)}, which belongs to another instance and may be "
                "dropped by it. Return a Table(…) of the query: a copy."
            )
    count = connection.execute(f"SELECT count(*) FROM {view}".encode()).fetchone()
    assert count is not None
    return PhysicalTable(name, write_table.columns_of(connection, view), count[0], 0, None, OutputKind.view)


_READS = """
    SELECT DISTINCT n.nspname, c.relname, obj_description(n.oid, 'pg_namespace')
    FROM pg_rewrite w
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
    JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid AND c.oid <> w.ev_class
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE w.ev_class = %s::regclass
"""


def droppable(connection: sa.Connection, schema: str, names: Collection[str]) -> list[str]:
    """The physical tables and views among `names` that no other view of ours reads, in this stage or another."""
    needed: dict[str, set[tuple[str, str]]] = {}
    for row in connection.execute(sa.text(_NEEDED_BY), {"schema": schema, "names": list(names)}):
        if row.schema.endswith("__versions") and ownership.named_by(row.comment) is not None:
            needed.setdefault(row.name, set()).add((row.schema, row.view))
    free = set(names)
    while True:
        going = {(schema, name) for name in free}
        stays = {name for name in free if needed.get(name, set()) - going}
        if not stays:
            return [name for name in names if name in free]
        free -= stays


_NEEDED_BY = """
    SELECT DISTINCT c.relname AS name, n.nspname AS schema, v.relname AS view,
        obj_description(n.oid, 'pg_namespace') AS comment
    FROM pg_class c
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
    JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    JOIN pg_class v ON v.oid = w.ev_class AND v.oid <> c.oid
    JOIN pg_namespace n ON n.oid = v.relnamespace
    WHERE c.relnamespace = to_regnamespace(quote_ident(:schema)) AND c.relname = ANY(:names)
"""
