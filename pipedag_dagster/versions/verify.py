"""Whether the catalog of an instance and the database agree, object by object."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Column, OutputKind, StageVersion
from pipedag_dagster.errors import PipedagError
from pipedag_dagster.names import quote
from pipedag_dagster.versions import ownership, write_view
from pipedag_dagster.versions.changed_tables import changed_tables
from pipedag_dagster.versions.table_store import TableStore


@dataclass(frozen=True)
class Difference:
    """Something that the catalog and the database see differently.

    `harmless`: it is left over from a run that was killed, and the next clean-up removes it. `stage` is where it is.
    `broken` is the physical table or the file that is not what was written, when it is about one. `remedy` is the
    statement that puts it right, where there is one.
    """

    message: str
    harmless: bool = False
    stage: str = ""
    broken: str | None = None
    remedy: str | None = None


def differences(store: TableStore, *, content: bool = False) -> list[Difference]:
    """Everything about which the catalog and the database disagree; empty when all is well.

    Args:
        content: read all tables, too, and find those whose rows were changed.

    Raises:
        DatabaseError: the database cannot be read.
    """
    if not store.exists():
        with store.database.read() as connection:
            owned = ownership.owned(connection, store.config.pipeline, store.config.instance_id)
        missing = f"but the catalog {quote(store.catalog.schema)} is not there"
        return [Difference(f"schema {schema} belongs to {owner}, {missing}") for schema, owner in owned.items()]
    stages, found = _look(store)
    if content:
        broken = {difference.broken for difference in found}
        found += [
            Difference(f"{quote(store.schemas(stage).versions, physical)} {reason}", stage=stage, broken=physical)
            for stage in stages
            for physical, reason in changed_tables(store, stage, broken)
        ]
    return found


def _look(store: TableStore, attempts: int = 5) -> tuple[list[str], list[Difference]]:
    """The stages, and the differences of one snapshot."""
    try:
        with store.database.read() as connection:
            stages = store.catalog.stages(connection)
            of_stages = [found for stage in stages for found in _of_stage(store, connection, stage)]
            return stages, [*of_stages, *_of_pins(store, connection)]
    except sa.exc.InternalError:
        # "could not open relation": pg_get_viewdef() fails for a view of the snapshot that a commit has dropped since.
        if attempts == 1:
            raise
        return _look(store, attempts - 1)


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
            message = f"schema {schema} should belong to {store.owner(stage)}, but its mark says {owner}"
            yield Difference(message, stage=stage)
    version = store.catalog.current(connection, [stage])[stage]
    expected = {table.name: table.physical for table in version.tables.values() if table.in_database}
    # A view may be gone, be new, or show another table than the catalog says.
    rows = connection.execute(sa.text(_SHOWN), {"schema": schemas.current, "versions": schemas.versions})
    shown: dict[str, str] = {view: table for view, table in rows}  # noqa: C416 (rows are no tuples to mypy)
    for name in sorted({*expected, *shown}):
        if expected.get(name) != shown.get(name):
            should, does = expected.get(name, "nothing"), shown.get(name, "nothing")
            view = quote(schemas.current, name)
            message = f"{view} should show {should} (version {version.number}), but shows {does}"
            yield Difference(message, stage=stage)
    for name in _replaced(store, connection, version, shown):
        yield Difference(f"{quote(schemas.current, name)} is not the view that we made", stage=stage)
    known = store.catalog.physical_names(connection, stage)
    there = set(connection.scalars(sa.text(_TABLES), {"schema": schemas.versions}))
    for physical in sorted(known - there):
        message = f"{quote(schemas.versions, physical)} is in the catalog, but not in the database"
        yield Difference(message, stage=stage, broken=physical)
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
            message = f"{quote(schemas.versions, physical)} has other columns than the catalog says"
            yield Difference(message, stage=stage, broken=physical)
    right = [physical for physical in recorded.keys() & there if recorded[physical] == actual.get(physical)]
    yield from _of_indexes(store, connection, stage, right)
    # A table that a view of ours reads stays as long as the view does.
    for physical in sorted(write_view.droppable(connection, schemas.versions, there - known)):
        yield Difference(f"{quote(schemas.versions, physical)} is not in the catalog", harmless=True, stage=stage)
    yield from _of_blobs(store, connection, stage)
    for schema in connection.scalars(sa.text(_LEFT), {"next": schemas.next, "old": f"{schemas.old}"}):
        yield Difference(f"schema {schema} is left over from a commit", harmless=True, stage=stage)


def _of_indexes(
    store: TableStore, connection: sa.Connection, stage: str, tables: Collection[str]
) -> Iterator[Difference]:
    """Primary keys and indexes of these tables that are gone. Others may have been added."""
    table, schema = store.catalog.table_version, store.schemas(stage).versions
    there: dict[str, set[tuple[bool, tuple[str, ...]]]] = {}
    for row in connection.execute(sa.text(_INDEXES), {"schema": schema}):
        there.setdefault(row.relname, set()).add((row.indisprimary, tuple(row.columns)))
    query = sa.select(table.c.physical, table.c.primary_key, table.c.indexes)
    for row in connection.execute(query.where(table.c.stage == stage, table.c.kind == OutputKind.table)):
        if row.physical not in tables:
            continue  # which is named already
        expected = {(False, tuple(index)) for index in row.indexes}
        expected |= {(True, tuple(row.primary_key))} if row.primary_key else set()
        for primary, columns in sorted(expected - there.get(row.physical, set())):
            what, name = "primary key" if primary else "index", quote(schema, row.physical)
            listed = ", ".join(map(quote, columns))
            remedy = f"ALTER TABLE {name} ADD PRIMARY KEY" if primary else f"CREATE INDEX ON {name}"
            message = f"{name} has lost its {what} ({', '.join(columns)})"
            yield Difference(message, stage=stage, remedy=f"{remedy} ({listed})")


def _replaced(
    store: TableStore, connection: sa.Connection, version: StageVersion, shown: Mapping[str, str]
) -> Iterator[str]:
    """The views that show the right table, but not as it is."""
    schemas = store.schemas(version.stage)
    rows = connection.execute(sa.text(_VIEWS), {"schema": schemas.current})
    definitions = {row.relname: _compact(row.definition) for row in rows}
    for table in version.tables.values():
        if not table.in_database or shown.get(table.name) != table.physical:
            continue
        columns = ", ".join(quote(column.name) for column in table.columns)
        begin = _compact(f"SELECT {columns} FROM {quote(schemas.versions, table.physical)}")
        visible = re.escape(_compact(f"WHERE {quote(store.catalog.schema)}.is_visible("))
        text = definitions.get(table.name, "")
        rest = rf"({visible}E?'([^']|'')*'::regclass,E?'([^']|'')*'::text\))?;?"
        if not (text.startswith(begin) and re.fullmatch(rest, text.removeprefix(begin))):
            yield table.name


def _compact(definition: str) -> str:
    return re.sub(r'[\s"]', "", definition)


def _of_blobs(store: TableStore, connection: sa.Connection, stage: str) -> Iterator[Difference]:
    """Files that are missing, were changed, or are not in the catalog."""
    known = store.catalog.files(connection, stage)
    for name in sorted(known):
        try:
            store.blobs.read(stage, name, f"a blob of stage {stage}")
        except PipedagError as error:
            yield Difference(str(error), stage=stage, broken=name)
    for name in sorted(store.blobs.sizes(stage).keys() - known):
        yield Difference(f"the file {store.blobs.path(stage, name)} is not in the catalog", harmless=True, stage=stage)


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
_VIEWS = """
    SELECT c.relname, pg_get_viewdef(c.oid) AS definition
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = :schema AND c.relkind = 'v'
"""
_INDEXES = """
    SELECT c.relname, i.indisprimary, array_agg(a.attname::text ORDER BY k.place) AS columns
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE n.nspname = :schema AND i.indisvalid GROUP BY c.relname, i.indexrelid, i.indisprimary
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
