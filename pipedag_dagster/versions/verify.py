"""Whether the catalog of an instance and the database agree, object by object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Column, OutputKind
from pipedag_dagster.errors import PipedagError
from pipedag_dagster.names import quote
from pipedag_dagster.versions import ownership, write_view
from pipedag_dagster.versions.table_store import TableStore


@dataclass(frozen=True)
class Difference:
    """Something that the catalog and the database see differently.

    `harmless`: it is left over from a run that was killed, and the next clean-up removes it.
    """

    message: str
    harmless: bool = False


def differences(store: TableStore) -> list[Difference]:
    """Everything about which the catalog and the database disagree; empty when all is well.

    Raises:
        DatabaseError: the database cannot be read.
    """
    if not store.exists():
        with store.database.read() as connection:
            owned = ownership.owned(connection, store.config.pipeline, store.config.instance_id)
        missing = f"but the catalog {quote(store.catalog.schema)} is not there"
        return [Difference(f"schema {schema} belongs to {owner}, {missing}") for schema, owner in owned.items()]
    with store.database.read() as connection:
        stages = store.catalog.stages(connection)
        of_stages = [found for stage in stages for found in _of_stage(store, connection, stage)]
        return [*of_stages, *_of_pins(store, connection)]


def _of_pins(store: TableStore, connection: sa.Connection) -> Iterator[Difference]:
    """Pins of runs that may be alive, on versions that are gone."""
    pin, version = store.catalog.pins, store.catalog.stage_version
    same = sa.and_(pin.c.stage == version.c.stage, pin.c.number == version.c.number)
    gone = sa.select(pin).join(version, same, isouter=True)
    gone = gone.where(pin.c.number > 0, version.c.number.is_(None), pin.c.until >= sa.func.now())
    for row in connection.execute(gone):
        yield Difference(f"run {row.run_id} pins version {row.number} of stage {row.stage}, which is not there")


def _of_stage(store: TableStore, connection: sa.Connection, stage: str) -> Iterator[Difference]:
    schemas = store.schemas(stage)
    for schema in (schemas.current, schemas.versions):
        owner = ownership.owner_of(connection, schema)
        if owner != store.owner(stage):
            yield Difference(f"schema {schema} should belong to {store.owner(stage)}, but its mark says {owner}")
    version = store.catalog.current(connection, [stage])[stage]
    expected = {table.name: table.physical for table in version.tables.values() if table.in_database}
    # A view may be gone, be new, or show another table than the catalog says.
    rows = connection.execute(sa.text(_SHOWN), {"schema": schemas.current, "versions": schemas.versions})
    shown: dict[str, str] = {view: table for view, table in rows}  # noqa: C416 (rows are no tuples to mypy)
    for name in sorted({*expected, *shown}):
        if expected.get(name) != shown.get(name):
            should, does = expected.get(name, "nothing"), shown.get(name, "nothing")
            view = quote(schemas.current, name)
            yield Difference(f"{view} should show {should} (version {version.number}), but shows {does}")
    known = store.catalog.physical_names(connection, stage)
    there = set(connection.scalars(sa.text(_TABLES), {"schema": schemas.versions}))
    for physical in sorted(known - there):
        yield Difference(f"{quote(schemas.versions, physical)} is in the catalog, but not in the database")
    made = store.catalog.table_version
    rows = connection.execute(
        sa.select(made.c.physical, made.c.columns).where(made.c.stage == stage, made.c.kind == OutputKind.table)
    )
    recorded = {row.physical: [Column(**column) for column in row[1]] for row in rows}
    actual: dict[str, list[Column]] = {}
    for row in connection.execute(sa.text(_COLUMNS), {"schema": schemas.versions}):
        actual.setdefault(row.relname, []).append(Column(row.attname, row.type, row.nullable))
    for physical in sorted(recorded.keys() & there):
        if recorded[physical] != actual.get(physical, []):
            yield Difference(f"{quote(schemas.versions, physical)} has other columns than the catalog says")
    # A table that a view of ours reads stays as long as the view does.
    for physical in sorted(write_view.droppable(connection, schemas.versions, there - known)):
        yield Difference(f"{quote(schemas.versions, physical)} is not in the catalog", harmless=True)
    yield from _of_blobs(store, connection, stage)
    for schema in connection.scalars(sa.text(_LEFT), {"next": schemas.next, "old": f"{schemas.old}"}):
        yield Difference(f"schema {schema} is left over from a commit", harmless=True)


def _of_blobs(store: TableStore, connection: sa.Connection, stage: str) -> Iterator[Difference]:
    """Files that are missing, were changed, or are not in the catalog."""
    known = store.catalog.files(connection, stage)
    for name in sorted(known):
        try:
            store.blobs.read(stage, name, f"a blob of stage {stage}")
        except PipedagError as error:
            yield Difference(str(error))
    for name in sorted(store.blobs.sizes(stage).keys() - known):
        yield Difference(f"the file {store.blobs.path(stage, name)} is not in the catalog", harmless=True)


_SHOWN = """
    SELECT v.relname, coalesce(max(t.relname), '?')
    FROM pg_class v
    JOIN pg_namespace n ON n.oid = v.relnamespace
    LEFT JOIN pg_rewrite w ON w.ev_class = v.oid
    LEFT JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid
    LEFT JOIN pg_class t ON t.oid = d.refobjid AND t.relnamespace = to_regnamespace(quote_ident(:versions))
    WHERE n.nspname = :schema AND v.relkind IN ('r', 'v', 'm')
    GROUP BY v.relname
"""
_TABLES = """
    SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relkind IN ('r', 'v')
"""
_COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type, NOT a.attnotnull AS nullable
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_LEFT = """
    SELECT nspname FROM pg_namespace
    WHERE nspname = :next OR (starts_with(nspname, :old) AND substr(nspname, length(:old) + 1) ~ '^[0-9]*$')
"""
