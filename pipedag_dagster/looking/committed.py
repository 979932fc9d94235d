"""The committed tables of an instance, found by the names that people type."""

from __future__ import annotations

from collections.abc import Mapping

from pipedag_dagster.catalog.catalog import StageVersion, TableVersion
from pipedag_dagster.errors import NotMaterialized, did_you_mean
from pipedag_dagster.versions.table_store import TableStore


def stages(store: TableStore) -> dict[str, StageVersion]:
    """The committed version of every stage.

    Raises:
        NotMaterialized: the instance was never run.
    """
    if store.exists():
        found = store.current(store.records.stages())
        if found:
            return found
    name = store.config.name
    raise NotMaterialized(f"Instance {name!r} was never run. Type: pipedag-dagster run {name}")


def stage(store: TableStore, name: str, number: int | None = None) -> StageVersion:
    """A version of a stage: the committed one, or an older one that is kept.

    Raises:
        NotMaterialized: there is no such stage or version.
    """
    known = stages(store)
    if name.lower() not in known:
        raise NotMaterialized(f"Instance {store.config.name!r} has no stage {name!r}.{did_you_mean(name, known)}")
    current = known[name.lower()]
    if number is None or number == current.number:
        return current
    with store.database.read() as connection:
        kept = sorted(commit.number for commit in store.catalog.commits(connection, current.stage))
        if number not in kept:
            raise NotMaterialized(
                f"Stage {current.stage!r} of instance {store.config.name!r} has no version {number}. Kept are: "
                f"{', '.join(map(str, kept))} (keep_versions: {store.config.keep_versions})."
            )
        return store.catalog.versions(connection, {current.stage: number})[current.stage]


def table(store: TableStore, text: str, number: int | None = None) -> TableVersion:
    """The table that somebody calls `text`.

    Args:
        text: `stage.table`, by its name in Dagster or in SQL; or `table` alone, if only one stage has it.
        number: of the stage version. Without it, the committed one.

    Raises:
        NotMaterialized: there is no such table. A close name is given, and what to type.
    """
    stage_name, dot, name = text.lower().partition(".")
    if not dot:
        return _alone(store, text.lower(), number)
    version = stage(store, stage_name, number)
    if (found := _named(version, name)) is not None:
        return found
    instance, known = store.config.name, [f"{stage_name}.{each}" for each in version.tables]
    if number is None:
        missing = f"Instance {instance!r} has not committed {text!r}."
        run = f" If it is new, type: pipedag-dagster run {instance}"
        raise NotMaterialized(f"{missing}{did_you_mean(text.lower(), known)}{run}")
    raise NotMaterialized(
        f"Version {number} of stage {stage_name!r} of instance {instance!r} has no table {name!r}."
        f"{did_you_mean(text.lower(), known)}"
    )


def _alone(store: TableStore, name: str, number: int | None) -> TableVersion:
    known: Mapping[str, StageVersion] = stages(store)
    having = [stage_name for stage_name, version in known.items() if _named(version, name) is not None]
    if len(having) == 1:
        return table(store, f"{having[0]}.{name}", number)
    if having:
        choices = " or ".join(f"{stage_name}.{name}" for stage_name in having)
        raise NotMaterialized(f"{name!r} is in {len(having)} stages. Write {choices}.")
    assets = {asset: f"{version.stage}.{asset}" for version in known.values() for asset in version.tables}
    hint = did_you_mean(name, assets, otherwise=did_you_mean(name, assets.values()).strip())
    raise NotMaterialized(f"Instance {store.config.name!r} has not committed {name!r}.{hint}")


def _named(version: StageVersion, name: str) -> TableVersion | None:
    """The table with this name in Dagster, or else in SQL."""
    by_name = {each.name: each for each in version.tables.values()}
    return version.tables.get(name) or by_name.get(name)
