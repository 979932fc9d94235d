"""Running an SQL script, and keeping the tables and views that it makes.

One transaction: an empty schema is made and put first in the search path; the script runs; what it has made is moved
to the physical tables; the schema is dropped. The database splits the script into statements and runs them by
EXECUTE, which refuses COMMIT and ROLLBACK. Everything that a script writes to stays locked until the end of its
transaction: so, before that, the locks tell whether it has written to anything that is not its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

import psycopg
from psycopg import sql

from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.graph.schema import SCRIPT_SCHEMA
from pipedag_dagster.names import Label, ScriptTable, StageSchemas, physical_name, quote, table_name
from pipedag_dagster.postgres import user_sql
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.postgres.failures import is_about_the_database
from pipedag_dagster.postgres.session import search_path
from pipedag_dagster.versions import same_content, write_table, write_view
from pipedag_dagster.versions.write_table import Connection, Constraints, PhysicalTable
from pipedag_dagster.versions.write_view import RoleOf

_KINDS = {"m": "materialized view", "p": "partitioned table", "f": "foreign table", "S": "sequence", "c": "type"}


def run(
    database: Database, schemas: StageSchemas, texts: Sequence[str], what: str, role_of: RoleOf
) -> dict[str, PhysicalTable]:
    """Run the scripts one after the other, in one transaction.

    Returns:
        What they have made, by name.

    Raises:
        UnstorableResult: the database refuses a statement, or they have written to something that is not their own,
            or made something that cannot be kept. Nothing was changed.
    """
    scratch = f"pipedag_script_{secrets.token_hex(6)}"  # nobody else ever sees it
    # A new connection: settings and temporary tables of the script end with it.
    with database.told(), database.connect("pipedag script") as connection, connection.transaction():
        connection.execute(f"CREATE SCHEMA {quote(scratch)}".encode())
        with (
            user_sql.contained(connection, database, what, scratch, None),
            search_path(connection, f"{quote(scratch)}, {database.own_search_path}"),
        ):
            for text in texts:
                _execute(connection, text.replace(SCRIPT_SCHEMA, quote(scratch)), text, what)
        found = _found(connection, scratch, what)
        names = {name: physical_name(name) for name, _ in found}
        made = {}
        for name, kind in found:
            _move(connection, scratch, schemas.versions, name, kind, names[name])
        for name, kind in found:
            about = ScriptTable(what, table_name(name))
            if kind == "v":
                one = write_view.measure(connection, schemas.versions, names[name], about, role_of)
            else:
                one = _measured(connection, schemas.versions, names[name], about)
            made[table_name(name)] = one
        _drop(connection, scratch, what)
    return made


def _execute(connection: Connection, text: str, shown: str, what: str) -> None:
    # EXECUTE refuses SELECT … INTO as the last statement, so another one follows.
    execute = sql.SQL("BEGIN EXECUTE {}; END").format(sql.Literal(f"{text}\n;SELECT 1")).as_string(connection)
    try:
        connection.execute(sql.SQL("DO {}").format(sql.Literal(execute)))
    except (psycopg.OperationalError, psycopg.InterfaceError):
        raise
    except psycopg.Error as error:
        if is_about_the_database(error):
            raise
        said = error.diag.message_primary or str(error)
        if isinstance(error, psycopg.errors.FeatureNotSupported) and "EXECUTE" in said:
            said = f"a script is one transaction, and cannot end it ({said})"
        hint = ""
        if isinstance(error, psycopg.errors.SyntaxError) and '"{"' in said:
            hint = " Only arguments of the task that are tables can be written as {name}."
        position = error.diag.internal_position
        line = f" (line {text[: int(position)].count(chr(10)) + 1})" if position else ""
        detail = f" {error.diag.message_detail}" if error.diag.message_detail else ""
        raise UnstorableResult(f"{what}: {said}{line}.{detail}{hint}\nin the script:\n{shown.strip()}") from error


def _found(connection: Connection, scratch: str, what: str) -> list[tuple[str, str]]:
    """The tables and views that the script has made, in this order."""
    query = """
        SELECT c.relname, c.relkind::text, c.relpersistence = 'u', c.relrowsecurity FROM pg_class c
        WHERE c.relnamespace = %s::regnamespace AND c.relkind <> ALL('{i,I,t}') AND NOT (c.relkind = 'S' AND EXISTS (
            SELECT FROM pg_depend d
            WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
        ORDER BY c.oid
    """
    rows = connection.execute(query, (quote(scratch),)).fetchall()
    for name, _, unlogged, row_security in rows:
        if unlogged:
            raise UnstorableResult(
                f"{what}: the table {name} is UNLOGGED, so a crash would empty it. Leave out UNLOGGED."
            )
        if row_security:
            raise UnstorableResult(
                f"{what}: the table {name} has row-level security, which does not hold for the view that people query. "
                "Make a table of the rows that everybody may see, or use GRANT on the views."
            )
    found = [(str(name), str(kind)) for name, kind, _, _ in rows]
    for name, kind in found:
        if kind not in ("r", "v"):
            raise UnstorableResult(
                f"{what}: the script makes the {_KINDS.get(kind, 'object')} {name}, which cannot be kept. Make a table "
                "or a view of it (CREATE TABLE … AS), or CREATE TEMPORARY, or drop it at the end."
            )
    lowered = [table_name(name) for name, _ in found]
    twice = next((name for name in lowered if lowered.count(name) > 1), None)
    if twice is not None:
        raise UnstorableResult(
            f"{what}: the script makes two tables {twice!r}. Names are case-insensitive: rename one."
        )
    return found


def _move(connection: Connection, scratch: str, versions: str, name: str, kind: str, to: str) -> None:
    relation = "VIEW" if kind == "v" else "TABLE"
    # Names of indexes and sequences must be unique in the schema, and the next version uses the same ones.
    query = """
        SELECT o.relname, o.relkind::text FROM pg_class o WHERE o.relnamespace = %s::regnamespace AND (
            o.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = %s::regclass)
            OR o.relkind = 'S' AND o.oid IN (SELECT objid FROM pg_depend WHERE classid = 'pg_class'::regclass
                AND refclassid = 'pg_class'::regclass AND refobjid = %s::regclass AND deptype IN ('a', 'i')))
    """
    table = quote(scratch, name)
    for other, what in connection.execute(query, (quote(scratch), table, table)).fetchall():
        word = "SEQUENCE" if what == "S" else "INDEX"
        new = quote(physical_name(other))
        connection.execute(f"ALTER {word} {quote(scratch, other)} RENAME TO {new}".encode())
    connection.execute(f"ALTER {relation} {table} RENAME TO {quote(to)}".encode())
    connection.execute(f"ALTER {relation} {quote(scratch, to)} SET SCHEMA {quote(versions)}".encode())


def _measured(connection: Connection, schema: str, name: str, what: Label) -> PhysicalTable:
    """The table, with the key and the indexes that the script gave it."""
    if not write_table.columns_of(connection, quote(schema, name)):
        raise UnstorableResult(f"{what}: the table has no columns: a table needs at least one.")
    rows, others = same_content.rows_of(connection, quote(schema, name))
    columns, size = write_table.finish(connection, schema, name, Constraints(), what)
    made = PhysicalTable(name, columns, rows, size, None)
    if others:  # written in several steps: nobody could tell later whether it was changed
        content = same_content.rows_hash(connection, schema, made)
        made = replace(made, content=content, content_hash=content)
    query = """
        SELECT i.indisprimary, array_agg(a.attname ORDER BY k.place)
        FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = %s::regclass AND i.indexprs IS NULL AND i.indpred IS NULL
        GROUP BY i.indexrelid, i.indisprimary ORDER BY i.indexrelid
    """
    found = connection.execute(query, (quote(schema, name),)).fetchall()
    key = next((tuple(columns) for primary, columns in found if primary), ())
    indexes = tuple(tuple(columns) for primary, columns in found if not primary)
    return replace(made, constraints=Constraints(key, indexes))


def _drop(connection: Connection, scratch: str, what: str) -> None:
    try:
        connection.execute(f"DROP SCHEMA {quote(scratch)} RESTRICT".encode())
    except psycopg.errors.DependentObjectsStillExist as error:
        detail = (
            (error.diag.message_detail or "").replace(f"{scratch}.", "").replace(f" depends on schema {scratch}", "")
        )
        raise UnstorableResult(
            f"{what}: the script makes what cannot be kept: {detail}. Only tables and views are: drop the rest at its "
            "end."
        ) from error
