"""Making a new stage version visible.

What people query is one view per table. The new views are prepared in a schema beside the old one; then one
short transaction records the version in the catalog and renames both schemas. Renaming a schema waits for
nobody.
"""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Sequence

import psycopg
import sqlalchemy as sa

from pipedag_dagster.names import StageSchemas, quote
from pipedag_dagster.store import ownership
from pipedag_dagster.store.catalog import Catalog, RunTable, TableVersion
from pipedag_dagster.store.database import Database, execute
from pipedag_dagster.store.ownership import Owner

PATIENCE = 0.3
"""Seconds for which a commit waits for readers that are in the middle of a transaction."""

_TRY = 0.02  # a lock request makes later readers wait, so each try is short
_BATCH = 100  # every object locked takes an entry of PostgreSQL's lock table, until the transaction ends
_DROP_TIMEOUT = "200ms"

log = logging.getLogger(__name__)


def commit(
    database: Database,
    catalog: Catalog,
    schemas: StageSchemas,
    owner: Owner,
    number: int,
    tables: Sequence[TableVersion],
    run_id: str,
    records: Sequence[RunTable],
) -> None:
    """Make `tables` the version `number` of the stage. The caller holds the stage's lock.

    Until it returns, everybody sees the old version; killed at any point, the old version stays.
    """
    _drop_views(database, schemas.next)  # of a commit that was killed
    _drop_old_views(database, schemas)
    with database.begin() as connection:
        ownership.claim(connection, schemas.next, owner)
        ownership.claim(connection, schemas.current, owner)
        old_views = _relations(connection, schemas.current)
        foreign = _foreign_views(connection, schemas.current)
        for table in tables:
            execute(connection, _view(schemas, table))
        for grant in _grants(connection, schemas.current, schemas.next, {table.name for table in tables}):
            execute(connection, grant)
    with database.begin() as connection:
        _wait_for_readers(connection, schemas.current, old_views)
        catalog.commit(connection, owner.stage, number, [table.id for table in tables if table.id], run_id)
        catalog.record(connection, records)
        catalog.move_pin(connection, run_id, owner.stage, number)
        execute(connection, f"ALTER SCHEMA {quote(schemas.current)} RENAME TO {quote(_free(connection, schemas))}")
        execute(connection, f"ALTER SCHEMA {quote(schemas.next)} RENAME TO {quote(schemas.current)}")
    for view, definition in foreign.items():
        _recreate(database, view, definition)


def clean_up(database: Database, catalog: Catalog, schemas: StageSchemas, stage: str, keep: int) -> None:
    """Forget old stage versions and drop what nobody needs any more. The caller holds the stage's lock.

    Never CASCADE: what somebody else's object depends on stays, and the log says so. What is being read is left
    for the next clean-up.
    """
    _drop_old_views(database, schemas)
    with database.begin() as connection:
        catalog.forget(connection, stage, keep)
        known = catalog.physical_names(connection, stage)
        unknown = [name for name in _relations(connection, schemas.versions) if name not in known]
    _drop(database, schemas.versions, "TABLE", unknown)


def _view(schemas: StageSchemas, table: TableVersion) -> str:
    columns = ", ".join(quote(column.name) for column in table.columns)
    source = quote(schemas.versions, table.physical)
    return f"CREATE VIEW {quote(schemas.next, table.name)} AS SELECT {columns} FROM {source}"


def _old_schemas(connection: sa.Connection, schemas: StageSchemas) -> list[str]:
    """The schemas of earlier versions that are still there: `…__old`, `…__old2`, …"""
    query = "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, :old) ORDER BY length(nspname), nspname"
    names = connection.scalars(sa.text(query), {"old": schemas.old})
    return [name for name in names if re.fullmatch(r"\d*", name.removeprefix(schemas.old))]


def _free(connection: sa.Connection, schemas: StageSchemas) -> str:
    """A name for the old schema: `…__old`, unless one is left that could not be dropped."""
    taken = _old_schemas(connection, schemas)
    return next(name for n in itertools.count(1) if (name := f"{schemas.old}{n if n > 1 else ''}") not in taken)


def _drop_old_views(database: Database, schemas: StageSchemas) -> None:
    with database.begin() as connection:
        names = _old_schemas(connection, schemas)
    for name in names:
        _drop_views(database, name)


def _wait_for_readers(connection: sa.Connection, schema: str, views: list[str]) -> None:
    """Wait until no statement is between resolving the name of one view and the next, or patience ends.

    ALTER VIEW takes the exclusive lock on the view alone; LOCK TABLE would lock the physical tables under it too,
    and so wait for readers who read a pinned version.
    """
    if not views:
        return
    until = time.monotonic() + PATIENCE
    execute(connection, f"SET LOCAL lock_timeout = '{int(_TRY * 1000)}ms'")
    while time.monotonic() < until:
        try:
            with connection.begin_nested():
                for view in views:
                    execute(connection, f"ALTER VIEW {quote(schema, view)} RESET (security_barrier)")
            break
        except sa.exc.OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
                raise
        time.sleep(_TRY)
    execute(connection, "SET LOCAL lock_timeout = 0")


def _relations(connection: sa.Connection, schema: str) -> list[str]:
    query = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(:schema) AND relkind IN ('r', 'v') ORDER BY 1"
    return list(connection.scalars(sa.text(query), {"schema": quote(schema)}))


def _drop_views(database: Database, schema: str) -> None:
    """Drop a schema that holds nothing but our views. What somebody else's object depends on stays."""
    with database.begin() as connection:
        views = _relations(connection, schema)
        if not connection.scalar(sa.text("SELECT to_regnamespace(:schema) IS NOT NULL"), {"schema": quote(schema)}):
            return
    if not _drop(database, schema, "VIEW", views):
        with database.begin() as connection:
            execute(connection, f"DROP SCHEMA IF EXISTS {quote(schema)} RESTRICT")


def _drop(database: Database, schema: str, kind: str, names: list[str]) -> list[str]:
    """Drop in batches; one by one where a batch fails. Returns what could not be dropped."""
    left = []
    with database.connect("pipedag clean-up") as connection:
        connection.execute(f"SET lock_timeout = '{_DROP_TIMEOUT}'".encode())
        batches = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]
        while batches:
            batch = batches.pop()
            try:
                connection.execute(f"DROP {kind} {', '.join(quote(schema, name) for name in batch)} RESTRICT".encode())
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DependentObjectsStillExist) as error:
                if len(batch) > 1:
                    batches.extend([name] for name in batch)
                else:
                    left += batch
                    reason = error.diag.message_detail or error.diag.message_primary
                    log.warning("%s stays for now: %s", quote(schema, batch[0]), reason)
    return left


_GRANTS = """
    SELECT NULL::name AS relname, a.privilege_type, a.grantee, a.is_grantable
    FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = :schema AND a.grantee <> n.nspowner
    UNION ALL
    SELECT c.relname, a.privilege_type, a.grantee, a.is_grantable
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
    WHERE n.nspname = :schema AND c.relkind = 'v' AND a.grantee <> c.relowner
"""


def _grants(connection: sa.Connection, old: str, new: str, tables: set[str]) -> list[str]:
    """The statements that give the new schema and its views the grants of the old ones."""
    query = f"SELECT g.*, r.rolname FROM ({_GRANTS}) g LEFT JOIN pg_roles r ON r.oid = g.grantee"
    statements = []
    for row in connection.execute(sa.text(query), {"schema": old}):
        if row.relname is not None and row.relname not in tables:
            continue
        target = f"SCHEMA {quote(new)}" if row.relname is None else f"TABLE {quote(new, row.relname)}"
        role = "PUBLIC" if row.grantee == 0 else quote(row.rolname)
        option = " WITH GRANT OPTION" if row.is_grantable else ""
        statements.append(f"GRANT {row.privilege_type} ON {target} TO {role}{option}")
    return statements


_FOREIGN = """
    SELECT DISTINCT dn.nspname, d.relname, d.relkind::text AS kind, pg_get_viewdef(d.oid) AS definition
    FROM pg_depend p
    JOIN pg_rewrite w ON w.oid = p.objid AND p.classid = 'pg_rewrite'::regclass
    JOIN pg_class d ON d.oid = w.ev_class
    JOIN pg_namespace dn ON dn.oid = d.relnamespace
    JOIN pg_class v ON v.oid = p.refobjid AND p.refclassid = 'pg_class'::regclass
    JOIN pg_namespace n ON n.oid = v.relnamespace
    WHERE n.nspname = :schema AND dn.nspname <> :schema
"""


def _foreign_views(connection: sa.Connection, schema: str) -> dict[str, str | None]:
    """Other people's views on ours, with their text; None for a materialized view, which cannot be replaced."""
    execute(connection, "SET LOCAL search_path = pg_catalog")  # so that all names come out qualified
    rows = connection.execute(sa.text(_FOREIGN), {"schema": schema})
    return {quote(row.nspname, row.relname): row.definition if row.kind == "v" else None for row in rows}


def _recreate(database: Database, view: str, definition: str | None) -> None:
    """Point somebody else's view at the new version: the same text now means the new views."""
    if definition is None:
        log.warning("%s is a materialized view: it still reads the old version. Drop and create it again.", view)
        return
    try:
        with database.connect("pipedag") as connection:
            connection.execute(f"CREATE OR REPLACE VIEW {view} AS {definition}".encode())
    except psycopg.Error as error:
        log.warning("%s still reads the old version: %s", view, error.diag.message_primary or error)
