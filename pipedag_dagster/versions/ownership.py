"""Who owns a schema. A marker on it (its comment) names the instance, and the stage; nobody else writes to it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from pipedag_dagster.errors import NotOwned
from pipedag_dagster.names import literal, quote
from pipedag_dagster.postgres.database import execute

_MARK = "pipedag_dagster: "


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
        return False
    if found is None and not _exists(connection, schema):
        execute(connection, f"CREATE SCHEMA {quote(schema)}")
        execute(connection, f"COMMENT ON SCHEMA {quote(schema)} IS {literal(_MARK + json.dumps(asdict(owner)))}")
        return True
    whose = f"{found} owns it" if found else "it was there before and has no mark of ours"
    raise NotOwned(
        f"Schema {schema!r} is needed for {owner}, but {whose}. Nothing was changed. "
        "Choose another schema_prefix or stage name" + ("." if found else ", or drop the schema if nobody needs it.")
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
    """The schemas whose marks name this instance of this pipeline, with their owners. Names are not looked at."""
    marked = "SELECT nspname FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') IS NOT NULL ORDER BY 1"
    owners = {schema: owner_of(connection, schema) for schema in connection.scalars(sa.text(marked)).all()}
    return {
        schema: owner
        for schema, owner in owners.items()
        if owner is not None and (owner.pipeline, owner.instance) == (pipeline, instance)
    }


def _exists(connection: sa.Connection, schema: str) -> bool:
    return bool(connection.scalar(sa.text("SELECT to_regnamespace(:schema) IS NOT NULL"), {"schema": quote(schema)}))
