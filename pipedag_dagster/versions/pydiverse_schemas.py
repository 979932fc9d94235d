"""What pydiverse.pipedag has made in a database: finding it, and dropping it.

It puts no mark on its schemas. But for each prefix it keeps tables of its own in one schema, `pipedag_metadata`, and
they name its stages. A schema counts as its own only if these tables name its stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
import sqlalchemy as sa

from pipedag_dagster.errors import InUse, NotMaterialized, NotOwned
from pipedag_dagster.names import quote
from pipedag_dagster.postgres.database import Database, execute
from pipedag_dagster.versions import ownership
from pipedag_dagster.versions.instance_schemas import InstanceSchemas

_ENDINGS = ("", "__tmp", "__swap", "__odd", "__even")
"""What it adds to the name of a stage for its schemas."""

_KEPT = {  # its tables, with some columns by which they are recognized
    "metadata_version": {"version"},
    "stages": {"stage", "cur_transaction_name"},
    "tasks": {"stage", "position_hash", "output_json", "in_transaction_schema"},
    "lazy_tables": {"stage", "query_hash"},
    "raw_sql": {"stage", "prev_objects", "new_objects"},
}

_PATIENCE = "SET LOCAL lock_timeout = '5s'"


@dataclass(frozen=True)
class PydiverseSchemas:
    """The schemas that pydiverse.pipedag has made for one prefix.

    Attributes:
        schemas: what can be dropped, the one with its metadata last.
        left: schemas of its stages that cannot be dropped, and why.
        tables: the number of tables and views in `schemas`.
    """

    schemas: tuple[str, ...]
    left: tuple[str, ...]
    tables: int


def find(database: Database, names: InstanceSchemas) -> PydiverseSchemas:
    """The schemas that pydiverse.pipedag has made with the `schema_prefix` and `schema_suffix` of an instance.

    Raises:
        NotMaterialized: it has made none.
        NotOwned: a schema is called like that of its metadata, but its tables are others, or are views.
    """
    with database.read() as connection:
        return _find(connection, names)


def drop(database: Database, names: InstanceSchemas, schemas: Sequence[str]) -> None:
    """Drop schemas that `find` has found, in one transaction.

    Raises:
        NotOwned: one of them is not among those that pydiverse.pipedag has made any more. Nothing was dropped.
        InUse: somebody reads one of the tables, or has objects that depend on them. Nothing was dropped.
    """
    with database.begin() as connection:
        gone = set(schemas) - set(_find(connection, names).schemas)
        if gone:
            raise NotOwned(f"Nothing was dropped, because this has changed meanwhile: {', '.join(sorted(gone))}.")
        _lock(connection, schemas)
        theirs = connection.scalars(sa.text(_DEPENDENTS), {"schemas": list(schemas)}).all()
        if theirs:
            raise InUse(f"Nothing was dropped, because this would be in the way: {', '.join(theirs)}. Drop it first.")
        execute(connection, f"DROP SCHEMA {', '.join(map(quote, schemas))} CASCADE")


def refuse(connection: sa.Connection, names: InstanceSchemas, stage: str) -> None:
    """Say what to do about a schema that a stage needs, if pydiverse.pipedag has made it.

    Raises:
        NotOwned
    """
    schema = names.of(stage).current
    if not ownership.exists(connection, schema) or ownership.owner_of(connection, schema) is not None:
        return
    if ownership.exists(connection, _metadata(names)):
        raise NotOwned(
            f"Schema {schema!r} is needed for {names.owner(stage)}, but pydiverse.pipedag has filled it. Nothing was "
            "changed. Choose another schema_prefix, and both can run side by side. Or, once nobody needs its tables, "
            f"drop them: pipedag-dagster drop-pydiverse {names.config.name} (it lists the schemas, and asks). The next "
            "run makes the tables again."
        )


def _metadata(names: InstanceSchemas) -> str:
    return f"{names.config.schema_prefix}pipedag_metadata{names.config.schema_suffix}"


def _find(connection: sa.Connection, names: InstanceSchemas) -> PydiverseSchemas:
    metadata = _metadata(names)
    prefix, suffix = names.config.schema_prefix, names.config.schema_suffix
    if not ownership.exists(connection, metadata):
        raise NotMaterialized(
            f"pydiverse.pipedag has made nothing for instance {names.config.name!r}: its database has no schema "
            f"{metadata!r}."
        )
    _refuse_others(connection, metadata)
    stages = connection.scalars(
        sa.text(
            " UNION ".join(f"SELECT stage FROM {quote(metadata, kept)}" for kept in _KEPT if kept != "metadata_version")
            + " ORDER BY 1"
        )
    ).all()
    schemas, left = [], []
    for schema in [*(f"{prefix}{stage}{ending}{suffix}" for stage in stages for ending in _ENDINGS), metadata]:
        if not ownership.exists(connection, schema):
            continue
        why = _why_not(connection, schema)
        if why is None:
            schemas.append(schema)
        else:
            left.append(f"{schema}: {why}")
    return PydiverseSchemas(tuple(schemas), tuple(left), len(_relations(connection, schemas)))


def _refuse_others(connection: sa.Connection, metadata: str) -> None:
    """Make sure that a schema has the tables of pydiverse.pipedag, and that reading them runs no code of others."""
    ownership.refuse_code(connection, metadata)
    query = "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
    query += "WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind = 'r' AND a.attnum > 0"
    found: dict[str, set[str]] = {}
    for table, column in connection.execute(sa.text(query), {"schema": quote(metadata)}):
        found.setdefault(table, set()).add(column)
    if any(not columns <= found.get(table, set()) for table, columns in _KEPT.items()):
        raise NotOwned(
            f"Schema {metadata!r} does not have the tables in which pydiverse.pipedag keeps its metadata "
            f"({', '.join(_KEPT)}), so nobody can tell what it has made. Nothing was dropped. Drop its schemas by hand."
        )


def _why_not(connection: sa.Connection, schema: str) -> str | None:
    """Why a schema must not be dropped, although its name is that of a stage."""
    if schema == "public":
        return "everybody may have tables there"
    owner = ownership.owner_of(connection, schema)
    if owner is not None:
        return f"{owner} owns it"
    if not ownership.belongs_to_us(connection, schema):
        return "another database role owns it"
    return None


def _lock(connection: sa.Connection, schemas: Sequence[str]) -> None:
    """Keep others from reading the tables, and from making views of them, until they are dropped."""
    tables = _relations(connection, schemas)
    execute(connection, _PATIENCE)
    try:
        if tables:
            execute(connection, f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
    except sa.exc.OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise InUse("Nothing was dropped, because somebody uses the tables just now. Try again later.") from error
        raise


def _relations(connection: sa.Connection, schemas: Sequence[str]) -> list[str]:
    """The tables and views in these schemas."""
    query = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    query += "WHERE c.relkind IN ('r', 'v') AND n.nspname = ANY(:schemas) ORDER BY c.oid"
    return [quote(row[0], row[1]) for row in connection.execute(sa.text(query), {"schemas": list(schemas)})]


_DEPENDENTS = """
    WITH schemas AS (SELECT oid FROM pg_namespace WHERE nspname = ANY(:schemas)), objects AS (
        SELECT 'pg_class'::regclass AS class, oid FROM pg_class WHERE relnamespace IN (SELECT oid FROM schemas)
        UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace IN (SELECT oid FROM schemas)
        UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace IN (SELECT oid FROM schemas))
    SELECT DISTINCT CASE WHEN their.oid IS NULL THEN pg_describe_object(d.classid, d.objid, 0)
        ELSE pg_describe_object('pg_class'::regclass, their.oid, 0) END
    FROM objects o
    JOIN pg_depend d ON d.refclassid = o.class AND d.refobjid = o.oid AND d.deptype IN ('n', 'a')
    LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
    LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
    LEFT JOIN pg_class their ON their.oid = coalesce(
        w.ev_class, k.conrelid, a.adrelid, g.tgrelid, CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid END)
    LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
    LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
    WHERE coalesce(their.relnamespace, p.pronamespace, t.typnamespace) NOT IN (SELECT oid FROM schemas)
    ORDER BY 1
"""
