"""What people compare: two instances, two versions of a stage, or what the last commits have changed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipedag_dagster.catalog.catalog import StageVersion
from pipedag_dagster.comparing.compare_stages import Side, compare_sides
from pipedag_dagster.comparing.diff import Diff
from pipedag_dagster.errors import NotComparable, NotMaterialized, did_you_mean
from pipedag_dagster.versions.renewal import renewed
from pipedag_dagster.versions.table_store import TableStore, pinned_by


def compare_instances(
    left: TableStore,
    right: TableStore,
    select: str | None = None,
    *,
    key: Sequence[str] = (),
    examples: int | None = None,
    labels: tuple[str, str] | None = None,
) -> Diff:
    """What differs between what two instances have committed. Their versions are pinned meanwhile.

    Args:
        select, key, examples: as for `compare_sides`.
        labels: what the sides are called. Without it, the names of the instances.

    Raises:
        NotMaterialized: one of them was never run.
        NotComparable: both are the same tables.
    """
    names = labels or (left.config.name, right.config.name)
    if left.catalog.schema == right.catalog.schema and left.database.same_as(right.database):
        raise NotComparable(
            f"{names[0]} and {names[1]} are the same tables: both are in the schemas {left.schema_prefix}* of one "
            "database. Give one of them another schema_prefix, instance_id or database, and run it."
        )
    with _pinned() as run_id:
        one, two = (
            Side(name, store, store.pin(run_id, _stages(store)))
            for name, store in zip(names, (left, right), strict=True)
        )
        return compare_sides(one, two, select, key=key, examples=examples)


def compare_versions(
    store: TableStore,
    first: int,
    second: int,
    select: str | None = None,
    *,
    key: Sequence[str] = (),
    examples: int | None = None,
) -> Diff:
    """What differs between two versions of a stage.

    Args:
        first, second: the numbers of the versions.
        select: the stage, or `stage.table`. It may be left out where the instance has one stage.

    Raises:
        NotMaterialized: there is no such stage or version.
        NotComparable: there are several stages.
    """
    stages = _stages(store)
    name = (select or "").lower().partition(".")[0]
    if not name and len(stages) > 1:
        raise NotComparable(f"Each stage has versions of its own. Name a stage: {', '.join(stages)}.")
    stage = name or stages[0]
    if stage not in stages:
        raise NotMaterialized(f"Instance {store.config.name!r} has no stage {stage!r}.{did_you_mean(stage, stages)}")
    with store.database.read() as connection:
        kept = sorted(commit.number for commit in store.catalog.commits(connection, stage))
        for number in (first, second):
            if number not in kept:
                raise NotMaterialized(
                    f"Stage {stage!r} of instance {store.config.name!r} has no version {number}. Kept are: "
                    f"{', '.join(map(str, kept))} (keep_versions: {store.config.keep_versions})."
                )
        versions = [store.catalog.versions(connection, {stage: number}) for number in (first, second)]
    one, two = (
        Side(f"{store.config.name} {stage} version {number}", store, version)
        for number, version in zip((first, second), versions, strict=True)
    )
    return compare_sides(one, two, select, key=key, examples=examples)


def compare_last_commits(
    store: TableStore, select: str | None = None, *, key: Sequence[str] = (), examples: int | None = None
) -> Diff:
    """What the last commit of each stage has changed. Stages with one version are not part of it.

    Raises:
        NotMaterialized: no stage has a version before the current one, or there is no such stage.
    """
    before: dict[str, StageVersion] = {}
    stages = _stages(store)
    with store.database.read() as connection:
        for stage in stages:
            older = [commit.number for commit in store.catalog.commits(connection, stage)][1:]
            if older:
                before |= store.catalog.versions(connection, {stage: older[0]})
        after = store.catalog.current(connection, list(before))
    name = store.config.name
    if not before:
        raise NotMaterialized(
            f"No stage of instance {name!r} has an older version to compare with. Compare two instances: "
            f"pipedag-dagster diff {name} OTHER"
        )
    chosen = (select or "").lower().partition(".")[0]
    if chosen in stages and chosen not in before:
        raise NotMaterialized(f"Stage {chosen!r} of instance {name!r} has no older version to compare with.")
    one, two = Side(f"{name} before", store, before), Side(f"{name} now", store, after)
    return compare_sides(one, two, select, key=key, examples=examples)


def _stages(store: TableStore) -> list[str]:
    stages = store.records.stages() if store.exists() else []
    if not stages:
        name = store.config.name
        raise NotMaterialized(f"Instance {name!r} was never run. Type: pipedag-dagster run {name}")
    return stages


@contextmanager
def _pinned() -> Iterator[str]:
    """A run id under which versions can be pinned. They are released at the end."""
    run_id = str(uuid.uuid4())
    with renewed(run_id):
        try:
            yield run_id
        finally:
            for store in pinned_by(run_id):
                store.unpin(run_id)
