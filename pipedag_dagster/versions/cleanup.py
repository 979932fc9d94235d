"""Forgetting old stage versions, and dropping what nobody needs any more."""

from __future__ import annotations

from collections.abc import Callable

from pipedag_dagster.catalog.catalog import Catalog
from pipedag_dagster.names import StageSchemas, quote
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.versions import foreign_views, schema_objects, write_view
from pipedag_dagster.versions.commit import gate
from pipedag_dagster.versions.ownership import Owner


def clean_up(
    database: Database,
    catalog: Catalog,
    schemas: StageSchemas,
    owner: Owner,
    keep: int,
    asset: str | None,
    *,
    check: Callable[[], None],
) -> None:
    """Forget old stage versions and drop what nobody needs any more.

    Other people's views are pointed at the new version first. Objects that other people's objects depend on stay, and
    the log says so: nothing is dropped with CASCADE. Objects that are being read are left for the next clean-up.

    Args:
        asset: what older runs did is forgotten when too many are remembered of this table; without it, always.
    """
    with database.begin() as guard:
        gate(guard, schemas, check)
        with database.look() as connection:
            left = schema_objects.replaced_schemas(connection, schemas, owner)
        foreign_views.repoint(database, owner, schemas.current, [name for name in left if name != schemas.next])
        for schema in left:
            schema_objects.drop_views(database, schema, owner)
        with database.begin() as connection:
            catalog.forget(connection, owner.stage, keep, asset)
            known = catalog.physical_names(connection, owner.stage)
            unknown = {
                kind: [
                    name for name in schema_objects.relations(connection, schemas.versions, kind) if name not in known
                ]
                for kind in "vr"
            }
            # A table that a view of ours reads, maybe a view of another stage, is dropped after the view.
            free = set(write_view.droppable(connection, schemas.versions, unknown["v"] + unknown["r"]))
        for kind, word in (("v", "VIEW"), ("r", "TABLE")):
            schema_objects.drop(
                database, word, [quote(schemas.versions, name) for name in unknown[kind] if name in free]
            )
