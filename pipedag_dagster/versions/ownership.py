"""Who owns a schema. A marker on it (its comment) names the instance, and the stage; nobody else writes to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from pipedag_dagster.errors import NotOwned
from pipedag_dagster.names import literal, quote
from pipedag_dagster.postgres.database import execute

_MARK = "pipedag_dagster: "
_OURS = "SELECT current_user"
_ROLE = "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE oid = to_regnamespace(:schema)"


@dataclass(frozen=True)
class Owner:
    """An instance of a pipeline, and the stage; no stage for the catalog."""

    pipeline: str
    instance: str
    stage: str

    def __str__(self) -> str:
        stage = f"stage {self.stage!r}" if self.stage else "the catalog"
        return f"{stage} of instance {self.instance!r} of pipeline {self.pipeline!r}"


def claim(connection: sa.Connection, schema: str, owner: Owner) -> bool:
    """Create the schema and mark it, unless it is marked as this owner's already. True: it was created.

    Raises:
        NotOwned: it belongs to somebody else, or existed before and is nobody's.
    """
    found = owner_of(connection, schema)
    if found == owner:
        _refuse_forged(connection, schema, owner)
        return False
    if found is None and not exists(connection, schema):
        execute(connection, f"CREATE SCHEMA {quote(schema)}")
        execute(connection, f"COMMENT ON SCHEMA {quote(schema)} IS {literal(_MARK + json.dumps(asdict(owner)))}")
        return True
    role = connection.scalar(sa.text(_ROLE), {"schema": quote(schema)})
    whose = f"{found} owns it" if found else f"it was there before and has no mark of ours (role {role!r} made it)"
    raise NotOwned(
        f"Schema {schema!r} is needed for {owner}, but {whose}. Nothing was changed. "
        "Choose another schema_prefix or stage name" + ("." if found else ", or drop the schema if nobody needs it.")
    )


def are_claimed(connection: sa.Connection, schemas: Mapping[str, Owner]) -> bool:
    """Whether all these schemas exist, are marked as their owners', and belong to us, so that `claim` would do
    nothing. One statement."""
    query = "SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace "
    query += "WHERE nspname = ANY(:names) AND pg_has_role(current_user, nspowner, 'USAGE')"
    rows = connection.execute(sa.text(query), {"names": list(schemas)})
    return {schema: named_by(comment) for schema, comment in rows} == schemas


def _refuse_forged(connection: sa.Connection, schema: str, owner: Owner) -> None:
    """Whoever made the schema may write any mark on it, and may drop what we put there."""
    if not belongs_to_us(connection, schema):
        role, ours = connection.scalar(sa.text(_ROLE), {"schema": quote(schema)}), connection.scalar(sa.text(_OURS))
        raise NotOwned(
            f"Schema {schema!r} is needed for {owner}. It bears our mark, but the database role {role!r} owns it, and "
            f"{ours!r} is not a member of that role. Nothing was changed. If somebody else made the schema, drop it. "
            f"If an older run made it under another role, let an administrator run REASSIGN OWNED BY {quote(role)} TO "
            f"{quote(ours)}."
        )


def belongs_to_us(connection: sa.Connection, schema: str) -> bool:
    """Whether the database role of this connection has the rights of the schema's owner."""
    query = "SELECT pg_has_role(current_user, nspowner, 'USAGE') FROM pg_namespace WHERE oid = to_regnamespace(:schema)"
    return bool(connection.scalar(sa.text(query), {"schema": quote(schema)}))


def refuse_code(connection: sa.Connection, schema: str) -> None:
    """Make sure that reading the tables in a catalog runs no code of whoever made it.

    Raises:
        NotOwned: one of them is a view, or has row security.
    """
    query = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(:schema) "
    query += "AND (relkind IN ('v', 'm', 'f', 'p') OR relrowsecurity) LIMIT 1"
    found = connection.scalar(sa.text(query), {"schema": quote(schema)})
    if found is not None:
        raise NotOwned(
            f"{quote(schema, found)} is not a table of ours: a catalog has no views and no row security. "
            "Nothing was read. Find out who made it; an administrator can drop it."
        )


def owner_of(connection: sa.Connection, schema: str) -> Owner | None:
    """The owner that the schema's mark names; None without a schema or mark."""
    query = "SELECT obj_description(to_regnamespace(:schema)::oid, 'pg_namespace')"
    return named_by(connection.scalar(sa.text(query), {"schema": quote(schema)}))


def named_by(comment: str | None) -> Owner | None:
    """The owner that the comment on a schema names, when it is a mark."""
    if not comment or not comment.startswith(_MARK):
        return None
    try:
        return Owner(**json.loads(comment.removeprefix(_MARK)))
    except (ValueError, TypeError):
        return None


def owned(connection: sa.Connection, pipeline: str, instance: str) -> dict[str, Owner]:
    """The schemas whose marks name this instance of this pipeline, with their owners. Names are not looked at. A mark
    on a schema that another role owns counts for nothing."""
    marked = "SELECT nspname FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') IS NOT NULL "
    marked += "AND pg_has_role(current_user, nspowner, 'USAGE') ORDER BY 1"
    owners = {schema: owner_of(connection, schema) for schema in connection.scalars(sa.text(marked)).all()}
    return {
        schema: owner
        for schema, owner in owners.items()
        if owner is not None and (owner.pipeline, owner.instance) == (pipeline, instance)
    }


def exists(connection: sa.Connection, schema: str) -> bool:
    """Whether the database has a schema of this name."""
    return bool(connection.scalar(sa.text("SELECT to_regnamespace(:schema) IS NOT NULL"), {"schema": quote(schema)}))
