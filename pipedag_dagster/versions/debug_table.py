"""Tables that somebody writes by hand into a schema of their own, to look at them. No catalog knows them."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from pipedag_dagster.errors import NotOwned, UnstorableResult, WiringError
from pipedag_dagster.frame_types import types_of
from pipedag_dagster.graph.external_table import ExternalTableReference
from pipedag_dagster.graph.tables import Table
from pipedag_dagster.graph.view import View
from pipedag_dagster.names import TableRef, physical_name, quote, table_name
from pipedag_dagster.postgres import sql_text
from pipedag_dagster.postgres.database import Database, execute
from pipedag_dagster.versions import ownership, write_table, write_view
from pipedag_dagster.versions.write_table import Constraints
from pipedag_dagster.versions.write_view import RoleOf


@dataclass(frozen=True)
class Place:
    """Where a table is written.

    Attributes:
        suffix: is added to its name.
        replace: whether a table of the same name is replaced.
    """

    schema: str
    suffix: str
    replace: bool


def write(database: Database, place: Place, table: Table, role_of: RoleOf) -> str:
    """Write a table, or a view, into a schema that no instance owns.

    Returns:
        The name: that of the `Table`. A table without a name, or with `%%` in it, gets a random one.

    Raises:
        WiringError: there is no such schema, or it has such a table, which may not be replaced.
        NotOwned: it belongs to a stage or a catalog.
        UnstorableResult: the table cannot be stored.
    """
    schema, name = place.schema, table.name or "table%%"
    name = (physical_name(name.replace("%%", "")) if "%%" in name else table_name(name)) + place.suffix
    what = TableRef(schema, name)
    obj = View(table.obj) if isinstance(table.obj, ExternalTableReference) else table.obj
    if not isinstance(obj, View) and not types_of(obj):
        raise UnstorableResult(
            f"{what}: a {type(obj).__name__} is not a table. Write Table(…) of a DataFrame or a query."
        )
    constraints = Constraints(
        table.primary_key, table.indexes, table.non_nullable, False, table.nullable, table.column_types
    )
    _make_room(database, place, name)
    if isinstance(obj, View):
        query = sql_text.render(obj.query, str(what))
        with database.transaction() as connection:
            write_view.make(connection, database, schema, name, query, what, role_of)
    elif isinstance(obj, sa.ClauseElement):
        query = sql_text.render(obj, str(what))
        with database.transaction() as connection:
            write_table.from_query(connection, database, schema, name, query, constraints, what)
    else:
        write_table.from_frame(database, schema, name, obj, constraints, what)
    return name


def _make_room(database: Database, place: Place, name: str) -> None:
    schema = place.schema
    with database.begin() as connection:
        owner = ownership.owner_of(connection, schema)
        if owner is not None:
            raise NotOwned(
                f"Schema {schema!r} belongs to {owner}, so {name!r} was not written there. Choose a schema of your own."
            )
        kind = connection.scalar(sa.text(_KIND), {"schema": quote(schema), "table": quote(schema, name)})
        if kind is None:
            raise WiringError(f"There is no schema {schema!r}. Create it first: CREATE SCHEMA {quote(schema)}.")
        if kind and not place.replace:
            raise WiringError(f"Schema {schema!r} has a table {name!r} already. Give yours another name.")
        if kind:
            execute(connection, f"DROP {'VIEW' if kind == 'v' else 'TABLE'} {quote(schema, name)}")


_KIND = """
    SELECT coalesce((SELECT relkind FROM pg_class WHERE oid = to_regclass(:table))::text, '')
    WHERE to_regnamespace(:schema) IS NOT NULL
"""
