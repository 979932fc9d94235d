"""What a query depends on beside the tables that it was given: PostgreSQL itself says it, of a temporary view."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import psycopg

from pipedag_dagster.postgres.database import Database
from pipedag_dagster.postgres.session import SEARCH_PATH, Connection, set_search_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueryReads:
    """What a query reads.

    Attributes:
        functions: those whose result may change by itself: volatile ones, the time, and functions of users.
        tables: tables and views, as (schema, name), without those of PostgreSQL itself.
    """

    functions: tuple[str, ...] = ()
    tables: tuple[tuple[str, str], ...] = ()


# The rule of a view holds its query as PostgreSQL has understood it, with the numbers of its functions. Functions of
# PostgreSQL itself are not in pg_depend.
_FUNCTIONS = r"""
    WITH rule AS (SELECT ev_action::text AS text FROM pg_rewrite WHERE ev_class = 'pg_temp.pipedag_query'::regclass),
    used AS (
        SELECT DISTINCT found[1]::oid AS oid
        FROM rule, regexp_matches(text, ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)', 'g') AS found
    )
    SELECT CASE n.nspname WHEN 'pg_catalog' THEN '' ELSE n.nspname || '.' END || p.proname || '()'
    FROM used JOIN pg_proc p USING (oid) JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.provolatile = 'v'
        OR n.nspname = 'pg_catalog' AND p.proname IN ('now', 'transaction_timestamp', 'statement_timestamp')
        OR n.nspname NOT IN ('pg_catalog', 'information_schema') AND NOT EXISTS (
            SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e'
        )
    UNION
    SELECT lower(found[1])
    FROM rule, regexp_matches(
        pg_get_viewdef('pg_temp.pipedag_query'::regclass), '\m(CURRENT_(?:DATE|TIME|TIMESTAMP)|LOCALTIME(?:STAMP)?)\M',
        'g'
    ) AS found
    WHERE strpos(text, '{SQLVALUEFUNCTION ') > 0
    ORDER BY 1
"""
_TABLES = """
    SELECT DISTINCT n.nspname, c.relname
    FROM pg_rewrite r
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class c ON c.oid = d.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE r.ev_class = 'pg_temp.pipedag_query'::regclass AND d.refobjid <> r.ev_class
        AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    ORDER BY 1, 2
"""


def query_reads(connection: Connection, database: Database, query: str) -> QueryReads:
    """What a query reads; nothing where PostgreSQL cannot say it, as for a user who may not make temporary views.

    Args:
        connection: in a transaction of this database.
        query: one that has run: it is one statement.
    """
    statements = (
        "SAVEPOINT pipedag_query",
        set_search_path(database.own_search_path),
        f"CREATE TEMPORARY VIEW pipedag_query AS\n{query}\n",
        set_search_path(SEARCH_PATH),
        _FUNCTIONS,
        _TABLES,
        "ROLLBACK TO SAVEPOINT pipedag_query",
    )
    try:
        cursor = connection.execute("; ".join(statements).encode())  # one message
    except psycopg.Error as error:
        log.debug("what a query reads is not known: %s", error)
        connection.execute("ROLLBACK TO SAVEPOINT pipedag_query")
        return QueryReads()
    results = []
    while cursor.nextset():
        results.append(cursor.fetchall() if cursor.description else [])
    functions, tables = results[3:5]
    return QueryReads(tuple(str(row[0]) for row in functions), tuple((str(row[0]), str(row[1])) for row in tables))
