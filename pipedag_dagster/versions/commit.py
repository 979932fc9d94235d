"""Making a new stage version visible.

What people query is one view per table. The new views are prepared in a schema beside the old one; then one
short transaction records the version in the catalog and renames both schemas. Renaming a schema waits for
nobody.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Catalog, RunRecord, SourceVersion, TableVersion
from pipedag_dagster.errors import DatabaseError
from pipedag_dagster.names import StageSchemas, literal, quote
from pipedag_dagster.postgres.advisory_lock import take_in_transaction
from pipedag_dagster.postgres.database import Database, execute
from pipedag_dagster.versions import ownership, write_view
from pipedag_dagster.versions.ownership import Owner

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
    records: Sequence[RunRecord],
    sources: Collection[SourceVersion] | None = None,
    restored: int | None = None,
    *,
    check: Callable[[], None],
) -> None:
    """Make `tables` the version `number` of the stage. The caller holds the stage's lock.

    Until it returns, everybody sees the old version; killed at any point, the old version stays.

    Args:
        check: raises an error when the stage's lock was lost.

    Raises:
        ConnectionLost: the lock was lost, or the connection. Nothing was committed, or everything.
        DatabaseError: another run that held the lock meanwhile has made this version.
    """
    with database.begin() as connection:
        gate(connection, schemas, check)
        _drop_views(database, schemas.next, owner)  # of a commit that was killed
        if not ownership.claim(connection, schemas.next, owner):
            raise DatabaseError(f"Schema {schemas.next} is left of a commit, and cannot be dropped (the log says why).")
        ownership.claim(connection, schemas.current, owner)
        for statement in _default_grants(connection, schemas.current, schemas.next):
            execute(connection, statement)
        for statement in _grants(connection, schemas.current, schemas.next, ()):
            execute(connection, statement)
    shown = [table for table in tables if table.in_database]
    for start in range(0, len(shown), _BATCH):
        with database.begin() as connection:
            gate(connection, schemas, check)
            batch = shown[start : start + _BATCH]
            for table in batch:
                execute(connection, _view(schemas, table, catalog))
            for statement in _revoked(connection, schemas.current, schemas.next, batch):
                execute(connection, statement)
            for statement in _grants(connection, schemas.current, schemas.next, batch):
                execute(connection, statement)
    with database.begin() as connection:
        gate(connection, schemas, check)
        members = [table.id for table in tables if table.id]
        try:
            catalog.commit(connection, owner.stage, number, members, run_id, sources, restored)
        except sa.exc.IntegrityError:
            raise DatabaseError(
                f"Version {number} of {owner} is there already: another run has made it meanwhile. Nothing was "
                "committed. Run it again: what was staged is reused."
            ) from None
        catalog.record(connection, records)
        catalog.move_pin(connection, run_id, owner.stage, number)
        _wait_for_readers(connection, schemas.current)
        execute(connection, f"ALTER SCHEMA {quote(schemas.current)} RENAME TO {quote(_free(connection, schemas))}")
        execute(connection, f"ALTER SCHEMA {quote(schemas.next)} RENAME TO {quote(schemas.current)}")


def gate(connection: sa.Connection, schemas: StageSchemas, check: Callable[[], None]) -> None:
    """Make sure that the stage's lock is ours, and that until this transaction ends nobody else changes anything of the
    stage. The lock alone does not say so: at any instant it may be lost, or taken away."""
    take_in_transaction(connection, f"pipedag:{schemas.current}:gate", f"the gate of {schemas.current}")
    check()


def clean_up(
    database: Database, catalog: Catalog, schemas: StageSchemas, owner: Owner, keep: int, *, check: Callable[[], None]
) -> None:
    """Forget old stage versions and drop what nobody needs any more. The caller holds the stage's lock.

    Never CASCADE: what somebody else's object depends on stays, and the log says so. Other people's views are
    pointed at the new version first. What is being read is left for the next clean-up.
    """
    with database.begin() as guard:
        gate(guard, schemas, check)
        with database.begin() as connection:
            left = old_schemas(connection, schemas, owner)
        try:
            with database.begin() as connection:
                execute(connection, f"SET LOCAL lock_timeout = '{_DROP_TIMEOUT}'")
                foreign = _foreign_views(connection, schemas.current, left) if left else {}
        except sa.exc.DBAPIError as error:  # somebody is changing one of them
            log.warning("Views of others on %s stay as they are for now: %s", owner, error.orig)
            foreign = {}
        for view, definition in foreign.items():
            _recreate(database, view, definition)
        for schema in (*left, schemas.next):  # the next one is of a commit that was killed
            _drop_views(database, schema, owner)
        with database.begin() as connection:
            catalog.forget(connection, owner.stage, keep)
            known = catalog.physical_names(connection, owner.stage)
            unknown = {
                kind: [name for name in relations(connection, schemas.versions, kind) if name not in known]
                for kind in "vr"
            }
            # What a view of ours reads, maybe one of another stage, goes after it.
            free = set(write_view.droppable(connection, schemas.versions, unknown["v"] + unknown["r"]))
        for kind, word in (("v", "VIEW"), ("r", "TABLE")):
            _drop(database, word, [quote(schemas.versions, name) for name in unknown[kind] if name in free])


def _view(schemas: StageSchemas, table: TableVersion, catalog: Catalog) -> str:
    """The view that people query.

    Names are looked up afresh in every statement, rows are not: a REPEATABLE READ transaction that began before the
    physical table was made would find it empty. It sees the table's entry in pg_class exactly when it sees its rows,
    because both are written in one transaction; when it does not, `is_visible` raises an error. PostgreSQL asks it
    when it plans a statement, and not for each row.
    """
    columns = ", ".join(quote(column.name) for column in table.columns)
    source, name = quote(schemas.versions, table.physical), quote(schemas.current, table.name)
    return (
        f"CREATE VIEW {quote(schemas.next, table.name)} AS SELECT {columns} FROM {source} "
        f"WHERE {quote(catalog.schema)}.is_visible({literal(source)}, {literal(name)})"
    )


def old_schemas(connection: sa.Connection, schemas: StageSchemas, owner: Owner) -> list[str]:
    """The schemas of earlier versions that are still there."""
    return [name for name in _named_old(connection, schemas) if ownership.owner_of(connection, name) == owner]


def _named_old(connection: sa.Connection, schemas: StageSchemas) -> list[str]:
    """The schemas that are called `…__old`, `…__old2`, …, whoever owns them."""
    query = "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, :old) ORDER BY length(nspname), nspname"
    names = connection.scalars(sa.text(query), {"old": schemas.old})
    return [name for name in names if re.fullmatch(r"\d*", name.removeprefix(schemas.old))]


def _free(connection: sa.Connection, schemas: StageSchemas) -> str:
    """A name for the old schema: `…__old`, unless one is left that could not be dropped."""
    taken = _named_old(connection, schemas)
    return next(name for n in itertools.count(1) if (name := f"{schemas.old}{n if n > 1 else ''}") not in taken)


def _wait_for_readers(connection: sa.Connection, schema: str) -> None:
    """Wait until no statement is between resolving the name of one view and the next, or patience ends.

    ALTER VIEW takes the exclusive lock on the view alone; LOCK TABLE would lock the physical tables under it too,
    and so wait for readers who read a pinned version. An owner that stays the same writes nothing. All views are
    locked by one statement: a reader that has resolved some of its names, and waits for us for the next, would keep
    us from the rest, and the more time passes between the first lock and the last, the more such readers there are.
    """
    owners = connection.execute(sa.text(_OWNERS), {"schema": quote(schema)}).all()
    if not owners or len(owners) > connection.scalar(sa.text(_LOCKS)) / 2:
        return
    locks = "".join(f"ALTER VIEW {quote(schema, view)} OWNER TO {quote(owner)};\n" for view, owner in owners)
    tag = f"$lock{secrets.token_hex(8)}$"  # in no name
    until = time.monotonic() + PATIENCE
    execute(connection, f"SET LOCAL lock_timeout = '{int(_TRY * 1000)}ms'")
    execute(connection, f"SET LOCAL statement_timeout = '{int(_TRY * 1000) + len(owners)}ms'")
    while time.monotonic() < until:
        try:
            with connection.begin_nested():
                execute(connection, f"DO {tag} BEGIN\n{locks}END {tag}")
            break
        except sa.exc.OperationalError as error:
            if not isinstance(error.orig, _BUSY):
                raise
        time.sleep(_TRY)
    execute(connection, "SET LOCAL lock_timeout = 0")
    execute(connection, "SET LOCAL statement_timeout = 0")


# About as many locks as fit into the server's table of locks. When it is full, everybody gets errors.
_LOCKS = "SELECT current_setting('max_locks_per_transaction')::int * current_setting('max_connections')::int"
_OWNERS = """
    SELECT relname, pg_get_userbyid(relowner) FROM pg_class
    WHERE relnamespace = to_regnamespace(:schema) AND relkind = 'v' ORDER BY 1
"""
_BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected)


def relations(connection: sa.Connection, schema: str, kind: str) -> list[str]:
    """The names of the tables (`r`) or views (`v`) in a schema."""
    # The newest first: a view reads only what was there before it.
    query = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(:schema) AND relkind = :kind "
    query += "ORDER BY oid::bigint DESC"
    return list(connection.scalars(sa.text(query), {"schema": quote(schema), "kind": kind}))


def _drop_views(database: Database, schema: str, owner: Owner) -> None:
    """Drop a schema of ours that holds views. What somebody else's object depends on stays."""
    with database.begin() as connection:
        if ownership.owner_of(connection, schema) != owner:
            return
        views = relations(connection, schema, "v")
    if not _drop(database, "VIEW", [quote(schema, view) for view in views]):
        _drop(database, "SCHEMA", [quote(schema)])


def _drop(database: Database, kind: str, names: Sequence[str]) -> list[str]:
    """Drop in batches; one by one where a batch fails. Returns what could not be dropped."""
    left: list[str] = []
    batches = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]
    while batches:
        batch = batches.pop()
        try:
            with database.transaction() as connection:
                connection.execute(f"SET LOCAL lock_timeout = '{_DROP_TIMEOUT}'".encode())
                connection.execute(f"DROP {kind} IF EXISTS {', '.join(batch)} RESTRICT".encode())
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise  # the connection is lost
            if len(batch) > 1:
                batches.extend([name] for name in batch)
            else:
                left += batch
                reason = error.diag.message_detail or error.diag.message_primary
                log.warning("%s stays for now: %s", batch[0], reason)
    return left


_GRANTS = """
    SELECT NULL::name AS relname, NULL::name AS attname, a.privilege_type, a.grantee, a.is_grantable
    FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = :schema AND a.grantee <> n.nspowner
    UNION ALL
    SELECT c.relname, NULL, a.privilege_type, a.grantee, a.is_grantable
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
    WHERE n.nspname = :schema AND c.relkind = 'v' AND a.grantee <> c.relowner
    UNION ALL
    SELECT c.relname, t.attname, a.privilege_type, a.grantee, a.is_grantable
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute t ON t.attrelid = c.oid,
    aclexplode(t.attacl) a
    WHERE n.nspname = :schema AND c.relkind = 'v' AND a.grantee <> c.relowner
"""


def _grants(connection: sa.Connection, old: str, new: str, tables: Sequence[TableVersion]) -> list[str]:
    """The statements that give the new schema and its views the grants of the old ones."""
    columns = {table.name: {column.name for column in table.columns} for table in tables}
    query = f"SELECT g.*, r.rolname FROM ({_GRANTS}) g LEFT JOIN pg_roles r ON r.oid = g.grantee"
    statements = []
    for row in connection.execute(sa.text(query), {"schema": old}):
        target, column = f"SCHEMA {quote(new)}", ""
        if row.relname is not None:
            if row.relname not in columns or (row.attname and row.attname not in columns[row.relname]):
                continue
            target, column = f"TABLE {quote(new, row.relname)}", f" ({quote(row.attname)})" if row.attname else ""
        statements.append(f"GRANT {row.privilege_type}{column} ON {target} {_to(row)}")
    return statements


_GIVEN = """
    SELECT DISTINCT c.relname, a.grantee, r.rolname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
    LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE n.nspname = :new AND c.relname = ANY(:names) AND a.grantee <> c.relowner AND EXISTS (
        SELECT FROM pg_class o JOIN pg_namespace m ON m.oid = o.relnamespace
        WHERE m.nspname = :old AND o.relname = c.relname AND o.relkind = 'v')
"""


def _revoked(connection: sa.Connection, old: str, new: str, tables: Sequence[TableVersion]) -> list[str]:
    """The statements that take from new views what default privileges have given: on the old ones, somebody may have
    revoked it."""
    given = {"old": old, "new": new, "names": [table.name for table in tables]}
    return [
        f"REVOKE ALL ON TABLE {quote(new, row.relname)} FROM {_grantee(row)}"
        for row in connection.execute(sa.text(_GIVEN), given)
    ]


_DEFAULT_GRANTS = """
    SELECT a.privilege_type, a.grantee, a.is_grantable, r.rolname
    FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
    LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE n.nspname = :schema AND d.defaclobjtype = 'r' AND d.defaclrole = quote_ident(current_user)::regrole
"""


def _default_grants(connection: sa.Connection, old: str, new: str) -> list[str]:
    """The statements that let tables to come have the same grants in the new schema (ALTER DEFAULT PRIVILEGES)."""
    return [
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {quote(new)} GRANT {row.privilege_type} ON TABLES {_to(row)}"
        for row in connection.execute(sa.text(_DEFAULT_GRANTS), {"schema": old})
    ]


def _to(row: sa.Row[Any]) -> str:
    return f"TO {_grantee(row)}" + (" WITH GRANT OPTION" if row.is_grantable else "")


def _grantee(row: sa.Row[Any]) -> str:
    return "PUBLIC" if row.grantee == 0 else quote(row.rolname)


_FOREIGN = """
    SELECT DISTINCT dn.nspname, d.relname, d.relkind::text AS kind, pg_get_viewdef(d.oid) AS definition,
        array_to_string(d.reloptions, ', ') AS options
    FROM pg_depend p
    JOIN pg_rewrite w ON w.oid = p.objid AND p.classid = 'pg_rewrite'::regclass
    JOIN pg_class d ON d.oid = w.ev_class
    JOIN pg_namespace dn ON dn.oid = d.relnamespace
    JOIN pg_class v ON v.oid = p.refobjid AND p.refclassid = 'pg_class'::regclass
    JOIN pg_namespace n ON n.oid = v.relnamespace
    WHERE n.nspname = ANY(:old) AND dn.nspname <> ALL(:old)
"""


def _foreign_views(connection: sa.Connection, current: str, old: list[str]) -> dict[str, str | None]:
    """Other people's views on ours in the schemas `old`, with what they are on those in `current`; None for a
    materialized view, which cannot be replaced."""
    execute(connection, "SET LOCAL search_path = pg_catalog")  # so that all names come out qualified
    names = "|".join(re.escape(name) for schema in old for name in (schema, quote(schema)))
    views: dict[str, str | None] = {}
    for row in connection.execute(sa.text(_FOREIGN), {"old": old}):
        options = f" WITH ({row.options})" if row.options else ""
        definition = re.sub(rf'(?<![\w$"])({names})\.', lambda _: f"{quote(current)}.", row.definition)
        views[quote(row.nspname, row.relname)] = f"{options} AS {definition}" if row.kind == "v" else None
    return views


def _recreate(database: Database, view: str, definition: str | None) -> None:
    """Point somebody else's view at the new version."""
    if definition is None:
        log.warning("%s is a materialized view: it still reads the old version. Drop and create it again.", view)
        return
    try:
        with database.transaction() as connection:
            connection.execute(f"SET LOCAL lock_timeout = '{_DROP_TIMEOUT}'".encode())
            connection.execute(f"CREATE OR REPLACE VIEW {view}{definition}".encode())
    except psycopg.Error as error:
        if error.sqlstate is None:
            raise  # the connection is lost
        log.warning("%s still reads the old version: %s", view, error.diag.message_primary)
