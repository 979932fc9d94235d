"""The commands about versions: `versions`, `rollback`, `gc`, `drop`, `unlock`."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import click
from rich import filesize
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from pipedag_dagster.catalog.catalog import SourceVersion
from pipedag_dagster.cli.options import confirmed, count, json_option, print_json, where
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import NotMaterialized, did_you_mean
from pipedag_dagster.orchestration.run import rollback as roll_back
from pipedag_dagster.orchestration.workspace import locations, of_instance
from pipedag_dagster.postgres import advisory_lock
from pipedag_dagster.versions import history, removal


@click.command(short_help="Show the versions of a stage.")
@click.argument("instance")
@click.argument("stage")
@json_option
@where
def versions(instance: str, stage: str, as_json: bool, module: str | None, workspace: Path) -> None:
    """Show the versions of STAGE in INSTANCE: when and by which run each was committed, and which tables changed.

    \b
    Example:
        pipedag-dagster versions full report
    """
    (chosen,) = _instances(module, workspace, instance)
    listed = history.versions(chosen.store.table_store, _stage(chosen, stage))
    if as_json:
        print_json(listed)
        return
    grid = Grid(box=None, padding=(0, 2, 0, 0))
    for name in ("version", "when", "run", "tables changed", "from"):
        grid.add_column(name, justify="right" if name == "version" else "left", no_wrap=name in ("when", "run"))
    for version in listed:
        marks = ["[bold green]current[/]"] if version.current else []
        marks += [f"pinned by run {run[:8]}" for run in version.pinned_by] + (
            [f"rollback to {version.restored}"] if version.restored else []
        )
        origin = "; ".join([*(_origin(chosen, source) for source in version.sources), *marks])
        when = f"{version.committed_at.astimezone():%Y-%m-%d %H:%M}"
        grid.add_row(str(version.number), when, version.run_id[:8], _changes(version.changes), origin)
    Console().print(grid if listed else f"Stage {stage} was never committed.")


@click.command(short_help="Make an older version of a stage visible again.")
@click.argument("instance")
@click.argument("stage")
@click.option("--to", type=int, metavar="N", help="Number of the version. Default: the version before the current one.")
@where
def rollback(instance: str, stage: str, to: int | None, module: str | None, workspace: Path) -> None:
    """Commit the tables of an older version of STAGE as a new one.

    \b
    Examples:
        pipedag-dagster rollback full report
        pipedag-dagster rollback full report --to 7
    """
    (chosen,) = _instances(module, workspace, instance)
    after = roll_back(chosen, _stage(chosen, stage), to)
    done = history.versions(chosen.store.table_store, after.stage)[0]
    click.echo(f"{instance} {after.stage}: version {after.number} is visible now (rollback to {done.restored}).")
    click.echo("The next run makes newer results visible again. First fix the code, or switch its schedule off.")


@click.command(short_help="Drop old versions that nobody needs.")
@click.argument("instance", required=False)
@json_option
@where
def gc(instance: str | None, as_json: bool, module: str | None, workspace: Path) -> None:
    """Drop old versions of INSTANCE, or of all instances, and show what was freed and what was kept.

    \b
    Examples:
        pipedag-dagster gc
        pipedag-dagster gc midi
    """
    done = {}
    for chosen in _instances(module, workspace, instance):
        if os.environ.get("DAGSTER_HOME"):
            import dagster as dg  # noqa: PLC0415

            from pipedag_dagster.orchestration.executors import release_ended  # noqa: PLC0415

            with dg.DagsterInstance.get() as dagster_instance:
                release_ended(dagster_instance, chosen)
        freed = done[chosen.config.name] = removal.gc(chosen.store.table_store, str(uuid.uuid4()))
        if as_json:
            continue
        size = f"{count(freed.versions, 'version')}, {count(freed.tables, 'table')}, {filesize.decimal(freed.bytes)}"
        size += f", {count(freed.blobs, 'blob')}" if freed.blobs else ""
        click.echo(f"{chosen.config.name}: freed {size}")
        for line in freed.stays:
            click.echo(f"  stays: {line}")
    if as_json:
        print_json(done)


@click.command(short_help="Drop everything that an instance owns.")
@click.argument("instance")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Drop tables that a run has pinned, too. If it is still alive, it fails.")
@where
def drop(instance: str, yes: bool, force: bool, module: str | None, workspace: Path) -> None:
    """Drop all schemas of INSTANCE, after a question. Schemas of other owners are not touched.

    \b
    Example:
        pipedag-dagster drop midi
    """
    (chosen,) = _instances(module, workspace, instance)
    store = chosen.store.table_store
    owned = removal.holdings(store)
    if not owned.schemas:
        click.echo(f"{instance} has nothing in the database.")
        return
    for schema in owned.schemas:
        click.echo(f"  {schema}")
    size = f"{count(len(owned.schemas), 'schema')}, {count(owned.tables, 'table')}, {filesize.decimal(owned.bytes)}"
    if not confirmed(f"Drop {instance}: {size}?", "Nothing was dropped.", yes=yes):
        return
    removal.drop(store, force=force)
    click.echo(f"{instance}: dropped {size}")


@click.command(short_help="Take the lock of a stage from a run that hangs.")
@click.argument("instance")
@click.argument("stage")
@click.option("--yes", is_flag=True, help="Do not ask.")
@where
def unlock(instance: str, stage: str, yes: bool, module: str | None, workspace: Path) -> None:
    """Take the lock of STAGE from the run that holds it, after a question. That run fails when it tries to commit. The
    next run reuses the results of its finished tasks.

    \b
    Example:
        pipedag-dagster unlock full raw
    """
    loaded = of_instance(locations(module, workspace), instance)
    store = loaded[0].instance.store.table_store
    known = {stage for location in loaded for stage, _ in location.tables()}
    if stage.lower() not in known:
        raise NotMaterialized(f"Instance {instance!r} has no stage {stage!r}.{did_you_mean(stage, known)}")
    held = store.stage_lock(stage.lower())
    with store.database.connect("pipedag unlock") as connection:
        holder = advisory_lock.holder_of(connection, held)
        if holder is None:
            click.echo(f"Nobody holds the lock of {held.what}.")
            return
        click.echo(f"{held.what}: {holder}")
        if not confirmed("Take the lock from it?", "Nothing was done.", yes=yes):
            return
        done = advisory_lock.take_away(connection, held, holder)
    click.echo(f"{held.what}: {'free' if done else 'that run does not hold it any more'}.")


COMMANDS = (versions, rollback, gc, drop, unlock)


def _instances(module: str | None, workspace: Path, name: str | None) -> list[ConfigContext]:
    """The instances for a command, each one once."""
    loaded = locations(module, workspace)
    chosen = of_instance(loaded, name) if name else loaded
    return list({location.instance.instance_id: location.instance for location in chosen}.values())


def _stage(instance: ConfigContext, name: str) -> str:
    """The stage `name`, which the instance has in the database.

    Raises:
        NotMaterialized: there is no such stage; a close one is named.
    """
    store = instance.store.table_store
    if not store.exists():
        raise NotMaterialized(f"Instance {instance.config.name!r} was never run.")
    known = store.records.stages()
    if name.lower() not in known:
        raise NotMaterialized(f"No stage {name!r} was ever committed.{did_you_mean(name, known)}")
    return name.lower()


def _origin(instance: ConfigContext, source: SourceVersion) -> str:
    configured = instance.source
    is_configured = configured is not None and configured.config.name == source.instance
    other = configured if configured is not None and is_configured else instance.files.get(source.instance)
    now = other.store.table_store.current([source.stage])[source.stage].number
    text = f"sampled from {source.instance} {source.number}"
    return text if now == source.number else f"{text}; {source.instance} is now at {now}"


def _changes(changes: history.Changes | None) -> str:
    if changes is None:
        return "unknown"
    signed = (("+", changes.added), ("", changes.changed), ("-", changes.removed))
    return ", ".join(f"{sign}{escape(name)}" for sign, names in signed for name in names) or "none"
