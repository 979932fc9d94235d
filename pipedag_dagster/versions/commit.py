"""Making a new stage version visible.

What people query is one view per table. The new views are prepared in a schema beside the old one; then one
short transaction records the version in the catalog and renames both schemas. Renaming a schema waits for
nobody.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Collection, Sequence

import psycopg
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Catalog, RunRecord, SourceVersion, TableVersion
from pipedag_dagster.errors import DatabaseError
from pipedag_dagster.names import StageSchemas, literal, quote
from pipedag_dagster.postgres.advisory_lock import TransactionLock
from pipedag_dagster.postgres.database import Database, execute
from pipedag_dagster.versions import comments, grants, ownership, schema_objects
from pipedag_dagster.versions.ownership import Owner
from pipedag_dagster.versions.schema_objects import BATCH, named_old

PATIENCE = 0.3
"""Seconds for which a commit waits for readers that are in the middle of a transaction."""

_TRY = 0.02  # a lock request makes later readers wait, so each try is short


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
    """Make `tables` the version `number` of the stage.

    Until it returns, everybody sees the old version; killed at any point, the old version stays.

    Args:
        check: raises an error when the stage's lock was lost.

    Raises:
        ConnectionLost: the lock was lost, or the connection. Nothing was committed, or everything.
        DatabaseError: another run that held the lock meanwhile has made this version.
    """
    with database.begin() as connection:
        gate(connection, schemas, check)
        schema_objects.drop_views(database, schemas.next, owner)  # of a commit that was killed
        if not ownership.claim(connection, schemas.next, owner):
            raise DatabaseError(f"Schema {schemas.next} is left of a commit, and cannot be dropped (the log says why).")
        ownership.claim(connection, schemas.current, owner)
        grants.copy_to_schema(connection, schemas.current, schemas.next)
    shown = [table for table in tables if table.in_database]
    for start in range(0, len(shown), BATCH):
        with database.begin() as connection:
            gate(connection, schemas, check)
            batch = shown[start : start + BATCH]
            execute(connection, ";\n".join(_view(schemas, table, catalog) for table in batch))  # one message
            grants.copy_to_views(connection, schemas.current, schemas.next, batch)
            comments.copy_to_views(connection, schemas, batch)
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
    """Make sure that we hold the stage's lock, and that nobody else changes the stage until this transaction ends. The
    lock alone is not enough: it may be lost, or taken away, at any instant."""
    lock = gate_lock(schemas)
    lock.take(connection)
    check()


def gate_lock(schemas: StageSchemas) -> TransactionLock:
    return TransactionLock(f"pipedag:{schemas.current}:gate", f"the gate of {schemas.current}")


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


def _free(connection: sa.Connection, schemas: StageSchemas) -> str:
    """A free name for the old schema: `…__old`, or `…__old2` when the first could not be dropped, and so on."""
    taken = named_old(connection, schemas)
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
