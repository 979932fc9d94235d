"""Views of other people that read ours. After a commit they are pointed at the new version, where that is possible."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import psycopg
import sqlalchemy as sa

from pipedag_dagster.names import quote
from pipedag_dagster.postgres.database import Database, execute
from pipedag_dagster.versions.ownership import Owner
from pipedag_dagster.versions.schema_objects import DROP_TIMEOUT

log = logging.getLogger(__name__)


def repoint(database: Database, owner: Owner, current: str, old: Sequence[str]) -> None:
    """Let views of other people that read the views in the schemas `old` read those in `current`. The log names each
    view that cannot be changed, and says why."""
    if not old:
        return
    try:
        with database.begin() as connection:
            execute(connection, f"SET LOCAL lock_timeout = '{DROP_TIMEOUT}'")
            definitions = _definitions(connection, current, old)
    except sa.exc.DBAPIError as error:  # somebody is changing one of them
        log.warning("Views of others on %s stay as they are for now: %s", owner, error.orig)
        return
    for view, definition in definitions.items():
        _recreate(database, view, definition)


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


def _definitions(connection: sa.Connection, current: str, old: Sequence[str]) -> dict[str, str | None]:
    """Other people's views that read the views in the schemas `old`, with the definitions that read `current` instead.
    None for a materialized view, which cannot be replaced."""
    execute(connection, "SET LOCAL search_path = pg_catalog")  # so that all names come out qualified
    names = "|".join(re.escape(name) for schema in old for name in (schema, quote(schema)))
    views: dict[str, str | None] = {}
    for row in connection.execute(sa.text(_FOREIGN), {"old": list(old)}):
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
            connection.execute(f"SET LOCAL lock_timeout = '{DROP_TIMEOUT}'".encode())
            connection.execute(f"CREATE OR REPLACE VIEW {view}{definition}".encode())
    except psycopg.Error as error:
        if error.sqlstate is None:
            raise  # the connection is lost
        log.warning("%s still reads the old version: %s", view, error.diag.message_primary)
