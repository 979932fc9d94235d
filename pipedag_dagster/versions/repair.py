"""Repair what somebody has damaged by hand, as far as that is possible without running a task."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from pipedag_dagster.errors import NotMaterialized
from pipedag_dagster.names import quote
from pipedag_dagster.postgres.database import execute
from pipedag_dagster.versions import ownership
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.verify import Difference, differences


def repair(store: TableStore, run_id: str, stage: str | None = None) -> Iterator[str]:
    """Repair a stage, or all stages that have a version. Waits for runs that write them.

    A schema that was renamed gets its name back. Tables and files that are gone or were changed are taken out of what
    people see, so that the next run makes them again. Views and indexes are made again. What is left over is dropped.

    Yields a sentence for each thing that was done, or that is to be done by hand.

    Raises:
        NotMaterialized: the instance, or the stage, was never committed.
    """
    if not store.exists():
        raise NotMaterialized(f"Instance {store.config.name!r} has no catalog: run it, and everything is made again.")
    with store.database.read() as connection:
        stages = store.catalog.stages(connection)
    if stage is not None and stage not in stages:
        raise NotMaterialized(f"Stage {stage!r} of instance {store.config.name!r} was never committed.")
    for name in stages if stage is None else [stage]:
        with store.lock(name, run_id) as held:
            yield from _rename_back(store, name)
            found = [difference for difference in differences(store, content=True) if difference.stage == name]
            yield from _repair(store, held, found)
        store.unpin(run_id)


def _repair(store: TableStore, held: LockedStage, found: list[Difference]) -> Iterator[str]:
    stage = held.stage
    for difference in found:
        if difference.remedy is not None:
            with store.database.begin() as connection:
                execute(connection, difference.remedy)
            yield f"{stage}: {difference.remedy}"
    broken = {difference.broken for difference in found if difference.broken is not None}
    views = [each for each in found if not each.harmless and each.broken is None and each.remedy is None]
    version = store.current([stage])[stage]
    whole = {
        asset: table
        for asset, table in version.tables.items()
        if table.physical not in broken and table.file not in broken
    }
    if views or len(whole) < len(version.tables):
        held.commit(version.number + 1, whole)
        yield f"{stage}: made all views again, as version {version.number + 1}."
    if broken:
        with store.database.begin() as connection:
            names = store.catalog.disown(connection, stage, broken)
        taken = ", ".join(sorted(version.tables[asset].name for asset in version.tables.keys() - whole.keys()))
        out = f", and took {taken} out of what people see" if taken else ""
        yield f"{stage}: forgot damaged versions of {', '.join(names)}{out}. The next run makes what is missing."
    held.clean_up()
    held.clean_up_files()
    if any(difference.harmless for difference in found):
        yield f"{stage}: dropped what was left over."
    if not found:
        yield f"{stage}: nothing to repair."


def _rename_back(store: TableStore, stage: str) -> list[str]:
    """Give a schema its name back. Its mark says whose it is, and what is in it says which one it is."""
    schemas = store.schemas(stage)
    ours = {schemas.current, schemas.versions, schemas.next}
    done = []
    with store.database.begin() as connection:
        owned = ownership.owned(connection, store.config.pipeline, store.config.instance_id)
        marked = [name for name, owner in owned.items() if owner.stage == stage]
        others = [name for name in marked if name not in ours and not name.startswith(schemas.old)]
        for right, kind in ((schemas.versions, "r"), (schemas.current, "v")):
            query = "SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace(:schema) AND relkind = :kind"
            like = [n for n in others if connection.execute(sa.text(query), {"schema": quote(n), "kind": kind}).first()]
            if right not in marked and len(like) == 1:
                execute(connection, f"ALTER SCHEMA {quote(like[0])} RENAME TO {quote(right)}")
                others.remove(like[0])
                done.append(f"{stage}: renamed schema {like[0]} back to {right}.")
    return done
