"""Listing and dropping the objects in the schemas of a stage. Nothing is dropped with CASCADE."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import psycopg
import sqlalchemy as sa

from pipedag_dagster.names import StageSchemas, quote
from pipedag_dagster.postgres.database import Database, driver_of
from pipedag_dagster.versions import ownership
from pipedag_dagster.versions.ownership import Owner

BATCH = 100
"""How many objects one transaction handles. Until it ends, each takes an entry of PostgreSQL's lock table."""

DROP_TIMEOUT = "200ms"
"""How long to wait for readers of an object that is dropped or replaced. Busy objects are left for the next time."""

log = logging.getLogger(__name__)


def replaced_schemas(connection: sa.Connection, schemas: StageSchemas, owner: Owner) -> list[str]:
    """The schemas of ours that held the views of earlier versions, or that a commit has left when it was killed."""
    query = "SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace "
    query += "WHERE starts_with(nspname, :old) OR nspname = :next ORDER BY length(nspname), nspname"
    rows = connection.execute(sa.text(query), {"old": schemas.old, "next": schemas.next})
    ours = [name for name, comment in rows if ownership.named_by(comment) == owner]
    return [name for name in ours if name == schemas.next or _is_old(schemas, name)]


def named_old(connection: sa.Connection, schemas: StageSchemas) -> list[str]:
    """The schemas that are called `…__old`, `…__old2`, …, whoever owns them."""
    query = "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, :old) ORDER BY length(nspname), nspname"
    names = connection.scalars(sa.text(query), {"old": schemas.old})
    return [name for name in names if _is_old(schemas, name)]


def _is_old(schemas: StageSchemas, name: str) -> bool:
    return re.fullmatch(r"\d*", name.removeprefix(schemas.old)) is not None


def relations(connection: sa.Connection, schema: str, kind: str) -> list[str]:
    """The names of the tables (`r`) or views (`v`) in a schema."""
    # The newest first: a view can only read older objects.
    query = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(:schema) AND relkind = :kind "
    query += "ORDER BY oid::bigint DESC"
    return list(connection.scalars(sa.text(query), {"schema": quote(schema), "kind": kind}))


def drop_views(database: Database, schema: str, owner: Owner) -> None:
    """Drop a schema of ours that holds views. Views that other people's objects depend on stay."""
    with database.look() as connection:
        if ownership.owner_of(connection, schema) != owner:
            return
        views = relations(connection, schema, "v")
    if not drop(database, "VIEW", [quote(schema, view) for view in views]):
        drop(database, "SCHEMA", [quote(schema)])


def drop(database: Database, kind: str, names: Sequence[str]) -> list[str]:
    """Drop in batches; one by one where a batch fails. Returns what could not be dropped."""
    left: list[str] = []
    batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
    while batches:
        batch = batches.pop()
        try:
            with database.look() as connection:
                # One message, and so one transaction.
                limit, what = f"SET LOCAL lock_timeout = '{DROP_TIMEOUT}'", ", ".join(batch)
                driver_of(connection).execute(f"{limit}; DROP {kind} IF EXISTS {what} RESTRICT".encode())
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
