"""The versions of a stage: listing them, comparing them, and going back to one."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from pipedag_dagster.catalog.catalog import SourceVersion, StageVersion
from pipedag_dagster.errors import NotMaterialized
from pipedag_dagster.versions.table_store import TableStore


@dataclass(frozen=True)
class Changes:
    """Names of tables, compared with the version before. A table whose data version is the same has not changed."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True)
class VersionInfo:
    """One version of a stage. `changes` is None when the version before is not there any more to compare with.

    `kept`: it is one of the last `keep_versions`. Others are dropped once no run in `pinned_by` needs them.
    """

    number: int
    committed_at: datetime.datetime
    run_id: str
    changes: Changes | None
    sources: tuple[SourceVersion, ...]
    restored: int | None
    current: bool
    kept: bool
    pinned_by: tuple[str, ...]


def versions(store: TableStore, stage: str) -> list[VersionInfo]:
    """The versions of a stage that are there, the newest first; empty when it was never committed."""
    if not store.exists():
        return []
    with store.database.read() as connection:
        commits = store.catalog.commits(connection, stage)
        members = {one.number: store.catalog.versions(connection, {stage: one.number})[stage].tables for one in commits}
        pins = store.catalog.pinned(connection, stage)
    members[0] = {}
    contents = {
        number: {table.name: table.data_version for table in tables.values()} for number, tables in members.items()
    }
    return [
        VersionInfo(
            one.number,
            one.committed_at,
            one.run_id,
            _changes(contents.get(one.number - 1), contents[one.number]),
            one.sources,
            one.restored,
            current=position == 0,
            kept=position < store.config.keep_versions,
            pinned_by=tuple(run for run, _, number in pins if number == one.number),
        )
        for position, one in enumerate(commits)
    ]


def _changes(old: dict[str, str] | None, new: dict[str, str]) -> Changes | None:
    if old is None:
        return None
    return Changes(
        tuple(sorted(new.keys() - old.keys())),
        tuple(sorted(name for name in new.keys() & old.keys() if new[name] != old[name])),
        tuple(sorted(old.keys() - new.keys())),
    )


def rollback(store: TableStore, stage: str, to: int | None, run_id: str) -> tuple[StageVersion, StageVersion]:
    """Commit the tables of an older version as a new one, atomically. Waits for a run that writes the stage.

    Args:
        to: number of the version. Without it, the version before the current one; after a rollback, the version before
            the restored one.

    Returns:
        The version that was visible before, and the one that is visible now.

    Raises:
        NotMaterialized: there is no such version, or it was dropped. The message lists the versions that exist.
    """
    if not store.exists():
        raise NotMaterialized(f"Instance {store.config.name!r} was never run: there is no version to go back to.")
    store.prepare()
    with store.lock(stage, run_id) as held:
        with store.database.read() as connection:
            commits = {one.number: one for one in store.catalog.commits(connection, stage)}
            before = store.catalog.current(connection, [stage])[stage]
            older = sorted(number for number in commits if number != before.number)
            same_as = commits[before.number].restored if before.number else None
            number = to if to is not None else max((n for n in older if n < (same_as or before.number)), default=0)
            if number not in older:
                there = ", ".join(map(str, older)) or "none"
                where = f"to version {to}" if to is not None else "further"
                current = f"{before.number}" + (f" (version {same_as} again)" if same_as else "")
                choose = " Choose one with --to." if to is None and older else ""
                raise NotMaterialized(
                    f"Stage {stage!r} of instance {store.config.name!r} cannot go back {where}: the current one is "
                    f"{current}, and the older ones are: {there} (keep_versions: {store.config.keep_versions})."
                    f"{choose}"
                )
            tables = store.catalog.versions(connection, {stage: number})[stage].tables
        try:
            after = StageVersion(stage, before.number + 1, tables)
            sources = commits[number].sources
            held.commit(after.number, tables, sources=sources, restored=number)
        finally:
            store.unpin(run_id)
    return before, after
