"""Removing from the database: old versions on demand, or all of an instance. Never CASCADE, never by matching names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import psycopg
import sqlalchemy as sa

from pipedag_dagster.catalog import functions
from pipedag_dagster.errors import InUse, RunActive
from pipedag_dagster.names import quote
from pipedag_dagster.postgres import advisory_lock
from pipedag_dagster.versions import ownership, schema_objects
from pipedag_dagster.versions.history import versions
from pipedag_dagster.versions.table_store import TableStore

_ONE_TRANSACTION = 500  # objects that are dropped in one; more could fill PostgreSQL's lock table
_BATCH = 100


@dataclass(frozen=True)
class CleanupReport:
    """What a clean-up dropped. `stays` says what it could not drop, and why. `bytes` counts tables, not blobs."""

    versions: int
    tables: int
    bytes: int
    stays: tuple[str, ...]
    blobs: int = 0


@dataclass(frozen=True)
class Holdings:
    """What an instance owns in the database. `tables` counts physical tables."""

    schemas: tuple[str, ...]
    tables: int
    bytes: int


def gc(store: TableStore, run_id: str) -> CleanupReport:
    """Clean up every stage of the instance, also those that the flow has no more. Waits for runs that write them."""
    with store.database.read() as connection:
        stages = {owner.stage for owner in _owned(store, connection).values() if owner.stage}
    if not stages or not store.exists():
        return CleanupReport(0, 0, 0, ())
    files = store.blobs
    blobs = sum(len(files.sizes(stage)) for stage in files.stages())
    found = CleanupReport(0, 0, 0, ())
    freed = True
    while freed:  # once a view is dropped, maybe of a later stage, the tables that it reads can be
        before = found
        for stage in sorted(stages):
            with store.lock(stage, run_id) as held:
                old_versions, old_tables = _state(store, stage)
                held.clean_up()
                held.clean_up_files()
                new_versions, new_tables = _state(store, stage)
            gone = old_tables.keys() - new_tables.keys()
            found = CleanupReport(
                found.versions + old_versions - new_versions,
                found.tables + len(gone),
                found.bytes + sum(old_tables[name] for name in gone),
                (),
            )
        freed = found != before
    blobs -= sum(len(files.sizes(stage)) for stage in files.stages())
    stays = tuple(line for stage in sorted(stages) for line in _stays(store, stage))
    return replace(found, stays=stays, blobs=blobs)


def _state(store: TableStore, stage: str) -> tuple[int, dict[str, int]]:
    """The number of versions, and the physical tables and views with their bytes."""
    with store.database.read() as connection:
        versions = [store.schemas(stage).versions]
        return len(store.catalog.commits(connection, stage)), _tables(connection, versions, "rv")


def _stays(store: TableStore, stage: str) -> Iterator[str]:
    """What could not be dropped of old versions, and why."""
    schemas = store.schemas(stage)
    for version in versions(store, stage):
        if not version.kept:
            yield f"{stage} version {version.number}: pinned by run {', '.join(version.pinned_by) or 'no more'}"
    with store.database.read() as connection:
        known = store.catalog.physical_names(connection, stage)
        left = [name for name in _tables(connection, [schemas.versions], "rv") if name not in known]
        old = schema_objects.replaced_schemas(connection, schemas, store.owner(stage))
        needed = _dependents(connection, [schemas.current, *old, schemas.versions])
    for schema, name in [(schemas.versions, name) for name in left] + [(schema, "") for schema in old]:
        theirs = {their for one, relation, their in needed if one == schema and name in ("", relation)}
        why = f"needed by {', '.join(sorted(theirs))}" if theirs else "in use just now"
        yield f"{quote(schema, name) if name else quote(schema)}: {why}"


def holdings(store: TableStore) -> Holdings:
    """What `drop` would drop: all schemas with the mark of this instance and pipeline."""
    with store.database.read() as connection:
        schemas = _owned(store, connection)
        tables = _tables(connection, [schema for schema, owner in schemas.items() if owner.stage])
    return Holdings(tuple(schemas), len(tables), sum(tables.values()))


def drop(store: TableStore, *, force: bool = False) -> Holdings:
    """Drop everything that the instance owns, and nothing else. Returns what that was.

    It is one transaction, but for instances with very many tables: there the catalog goes last, and what was
    interrupted can be done again.

    Args:
        force: also when a run has pinned versions of it. One that is alive will fail.

    Raises:
        RunActive: a run writes a stage, or (without `force`) has pinned what it reads. Nothing was dropped.
        InUse: objects of somebody else depend on it, or are in its schemas. Nothing was dropped.
    """
    found = holdings(store)
    if not found.schemas:
        return found
    blobs = store.blobs if store.catalog.schema in found.schemas and store.exists() else None
    with store.database.read() as connection:
        owners = _owned(store, connection)
    stages = [(schema, owner.stage) for schema, owner in owners.items() if owner.stage]
    with store.database.told(), store.database.connect("pipedag drop") as locks:
        advisory_lock.take_all(locks, [replace(store.stage_lock(stage), schema=schema) for schema, stage in stages])
        with store.database.read() as connection:  # its snapshot is taken after the locks
            owners = _owned(store, connection)
            if not force:
                _refuse_pinned(store, connection, owners)
            _refuse_dependents(connection, owners)
            together = _drop_statements(connection, owners)
        for statements in together:
            try:
                with store.database.transaction() as transaction:
                    for statement in statements:
                        transaction.execute(statement.encode())
            except psycopg.errors.DependentObjectsStillExist as error:
                raise InUse(f"Dropping stopped, because this is in the way: {error.diag.message_detail}") from error
        if blobs is not None:
            blobs.remove_all()
    return found


def _refuse_pinned(store: TableStore, connection: sa.Connection, owners: Mapping[str, ownership.Owner]) -> None:
    pins = store.catalog.pinned(connection) if store.catalog.schema in owners else []
    if pins:
        reads = sorted({f"run {run} reads {stage} version {number}" for run, stage, number in pins})
        raise RunActive(
            f"Nothing was dropped: {'; '.join(reads)}. Wait for it, or stop it. What a run that died has pinned is "
            f"free after {functions.LEASE_MINUTES} minutes; to drop it now, use --force."
        )


def _refuse_dependents(connection: sa.Connection, owners: Mapping[str, ownership.Owner]) -> None:
    catalogs = [schema for schema, owner in owners.items() if not owner.stage]
    theirs = sorted({their for _, _, their in _dependents(connection, list(owners), catalogs)})
    if theirs:
        raise InUse(f"Nothing was dropped, because this would be in the way: {', '.join(theirs)}. Drop it first.")


def _drop_statements(connection: sa.Connection, owners: Mapping[str, ownership.Owner]) -> list[list[str]]:
    """The statements that drop these schemas, by transaction: one, or several for very many objects."""

    def of_kind(kind: str, schemas: Iterable[str]) -> list[str]:
        return [
            quote(schema, name) for schema in schemas for name in schema_objects.relations(connection, schema, kind)
        ]

    views = _views(connection, owners)
    data = of_kind("r", [schema for schema, owner in owners.items() if owner.stage])
    catalogs = [schema for schema, owner in owners.items() if not owner.stage]
    batches = [
        f"DROP {kind} {', '.join(batch)} RESTRICT"
        for kind, names in (("VIEW", views), ("TABLE", data))
        for batch in _batches(names)
    ]
    tables = of_kind("r", catalogs)
    last = [
        f"DROP FUNCTION IF EXISTS {quote(schema, name)}({arguments}) RESTRICT"
        for schema in catalogs
        for name, arguments in functions.SIGNATURES.items()
    ]
    last += [f"DROP TABLE {', '.join(tables)} RESTRICT"] if tables else []
    last.append(f"DROP SCHEMA {', '.join(map(quote, owners))} RESTRICT")
    if len(views) + len(data) <= _ONE_TRANSACTION:
        return [batches + last]
    return [*([batch] for batch in batches), last]


def _views(connection: sa.Connection, schemas: Iterable[str]) -> list[str]:
    """The newest first: a view can only read older objects."""
    query = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    query += "WHERE n.nspname = ANY(:schemas) AND c.relkind = 'v' ORDER BY c.oid::bigint DESC"
    return [quote(row[0], row[1]) for row in connection.execute(sa.text(query), {"schemas": list(schemas)})]


def _batches(names: list[str]) -> Iterator[list[str]]:
    return (names[start : start + _BATCH] for start in range(0, len(names), _BATCH))


def _owned(store: TableStore, connection: sa.Connection) -> dict[str, ownership.Owner]:
    return ownership.owned(connection, store.config.pipeline, store.config.instance_id)


def _tables(connection: sa.Connection, schemas: list[str], kinds: str = "r") -> dict[str, int]:
    query = "SELECT c.relname, pg_total_relation_size(c.oid) FROM pg_class c JOIN pg_namespace n "
    query += "ON n.oid = c.relnamespace WHERE n.nspname = ANY(:schemas) AND c.relkind = ANY(:kinds) ORDER BY 1"
    rows = connection.execute(sa.text(query), {"schemas": schemas, "kinds": list(kinds)})
    return {row[0]: row[1] for row in rows}


_DEPENDENTS = """
    SELECT n.nspname, c.relname,
        CASE WHEN their.oid IS NULL THEN pg_describe_object(d.classid, d.objid, 0)
        ELSE pg_describe_object('pg_class'::regclass, their.oid, 0) END
    FROM pg_depend d
    JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    LEFT JOIN pg_class their ON
        their.oid = coalesce(w.ev_class, k.conrelid, CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid END)
    LEFT JOIN pg_namespace m ON m.oid = their.relnamespace
    WHERE n.nspname = ANY(:schemas) AND d.deptype = 'n' AND (their.oid IS NULL OR m.nspname <> ALL(:schemas))
    UNION ALL
    SELECT n.nspname, c.relname, pg_describe_object('pg_class'::regclass, c.oid, 0)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY(:schemas) AND (c.relkind IN ('m', 'f', 'p')
        OR c.relkind = 'r' AND NOT n.nspname LIKE '%\\_\\_versions' AND NOT n.nspname = ANY(:catalogs))
    UNION ALL
    SELECT n.nspname, p.proname, pg_describe_object('pg_proc'::regclass, p.oid, 0)
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = ANY(:schemas) AND NOT (n.nspname = ANY(:catalogs) AND p.proname = ANY(:functions))
"""


def _dependents(
    connection: sa.Connection, schemas: list[str], catalogs: Sequence[str] = ()
) -> list[tuple[str, str, str]]:
    """Foreign objects that depend on objects in these schemas, or are in them: schema, object, and dependent."""
    given = {"schemas": schemas, "catalogs": list(catalogs), "functions": list(functions.SIGNATURES)}
    rows = connection.execute(sa.text(_DEPENDENTS), given)
    return [(row[0], row[1], row[2]) for row in rows]
