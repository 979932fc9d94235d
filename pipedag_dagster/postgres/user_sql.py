"""SQL that users have written: one statement at a time, which writes to nothing but its own table and whose names fit.

PostgreSQL itself is lenient: it runs `SELECT 1; COMMIT; DROP SCHEMA …` when it gets that as one text, it cuts long
names and only says so in a notice, and a function in a query may write to any table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg

from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.names import MAX_BYTES, literal, quote
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.postgres.session import SEARCH_PATH, set_search_path

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_NAME_TOO_LONG = "42622"


def run(connection: Connection, statement: str) -> psycopg.Cursor[tuple[Any, ...]]:
    """Run one statement. `%` and `:` mean nothing in it.

    Raises:
        UnstorableResult: it is several statements.
    """
    try:
        # A result in the binary format takes PostgreSQL's extended protocol, which has one statement for each message.
        return connection.cursor(binary=True).execute(statement.encode())
    except psycopg.errors.SyntaxError as error:
        if error.diag.source_function == "exec_parse_message":  # not a mistake in the statement itself
            raise UnstorableResult(
                "A query must be one statement, and this is several statements. Return RawSql(…) for a script."
            ) from None
        raise


@contextmanager
def contained(connection: Connection, database: Database, what: str, schema: str, name: str | None) -> Iterator[None]:
    """Within a transaction: SQL of a user. It may only make the table or view `schema.name`, or anything in `schema`.

    Args:
        database: where the connection leads to.
        what: names the task for people.

    Raises:
        UnstorableResult: it has written to something else, or used a name that is too long.
    """
    cut: list[str] = []

    def notice(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.sqlstate == _NAME_TOO_LONG:
            cut.append(diagnostic.message_primary or "")

    connection.execute(f"SET LOCAL client_min_messages = notice; {set_search_path(database.own_search_path)}".encode())
    connection.add_notice_handler(notice)
    try:
        yield
    finally:
        connection.remove_notice_handler(notice)
        if cut:  # whatever else has failed because of it
            _refuse_cut(what, cut[0])
    _refuse_writes(connection, database, what, schema, name)


def _refuse_cut(what: str, said: str) -> None:
    raise UnstorableResult(
        f"{what}: {said}. PostgreSQL allows {MAX_BYTES} bytes, and would have stored another name than the one that is "
        "written. Shorten it."
    )


# Whatever a statement writes to stays locked until its transaction ends.
_LOCKED = """
    SELECT l.relation, n.nspname, c.relname
    FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation'
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
        AND (n.nspname IS NULL OR n.nspname !~ '^pg_(catalog|toast|temp_|toast_temp_)'
            AND NOT (n.nspname = {schema} AND {own}))
"""
_STILL_THERE = "SELECT oid::regclass::text FROM pg_class WHERE oid = ANY(%s) AND relnamespace <> ALL('{11,99}')"


def _refuse_writes(connection: Connection, database: Database, what: str, schema: str, name: str | None) -> None:
    own = "true" if name is None else f"c.relname = {literal(name)}"
    locks = _LOCKED.format(schema=literal(schema), own=own)
    cursor = connection.execute(f"{set_search_path(SEARCH_PATH)}; {locks}".encode())
    cursor.nextset()
    locked = cursor.fetchall()
    written = {quote(schema, relation) for _, schema, relation in locked if relation is not None}
    gone = [oid for oid, _, relation in locked if relation is None]
    if gone:  # dropped meanwhile: if others still see it, it was not its own
        with database.transaction() as other:
            written |= {row[0] for row in other.execute(_STILL_THERE, (gone,)).fetchall()}
    if written:
        raise UnstorableResult(
            f"{what}: its SQL writes to {', '.join(sorted(written))}. It may only make tables of its own. Nothing was "
            "changed. In a script, write names without a schema, or as {schema}.name."
        )
