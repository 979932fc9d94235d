"""The commands about versions: `versions`, `rollback`, `gc`, `drop`, `unlock`."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import click
import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from pipedag_dagster.catalog.catalog import SourceVersion
from pipedag_dagster.cli.options import count, where
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import NotMaterialized, did_you_mean
from pipedag_dagster.orchestration.executors import release_ended
from pipedag_dagster.orchestration.run import rollback as roll_back
from pipedag_dagster.orchestration.workspace import locations, of_instance
from pipedag_dagster.postgres import advisory_lock
from pipedag_dagster.versions import history, removal


@click.command(short_help="Show the versions of a stage.")
@click.argument("instance")
@click.argument("stage")
@where
def versions(instance: str, stage: str, module: str | None, workspace: Path) -> None:
    """Show the versions of STAGE that INSTANCE has: when each was committed, by which run, what has changed."""
    (context,) = _contexts(module, workspace, instance)
    found = history.versions(context.store.table_store, _stage(context, stage))
    grid = Grid(box=None, padding=(0, 2, 0, 0))
    for name in ("version", "when", "run", "tables changed", "from"):
        grid.add_column(name, justify="right" if name == "version" else "left", no_wrap=name in ("when", "run"))
    for one in found:
        marks = ["[bold green]current[/]"] if one.current else []
        marks += [f"pinned by run {run[:8]}" for run in one.pinned_by] + (
            [f"rollback to {one.restored}"] if one.restored else []
        )
        origin = "; ".join([*(_origin(context, source) for source in one.sources), *marks])
        when = f"{one.committed_at.astimezone():%Y-%m-%d %H:%M}"
        grid.add_row(str(one.number), when, one.run_id[:8], _changes(one.changes), origin)
    Console().print(grid if found else f"Stage {stage} was never committed.")


@click.command(short_help="Make an older version of a stage visible again.")
@click.argument("instance")
@click.argument("stage")
@click.option("--to", type=int, metavar="N", help="Number of the version. Default: the one before the current one.")
@where
def rollback(instance: str, stage: str, to: int | None, module: str | None, workspace: Path) -> None:
    """Commit the tables of an older version of STAGE as a new one."""
    (context,) = _contexts(module, workspace, instance)
    after = roll_back(context, _stage(context, stage), to)
    done = history.versions(context.store.table_store, after.stage)[0]
    click.echo(f"{instance} {after.stage}: version {after.number} is visible now (rollback to {done.restored}).")
    click.echo("The next run makes newer results visible again: fix what made them first, or switch its launch off.")


@click.command(short_help="Drop old versions that nobody needs.")
@click.argument("instance", required=False)
@where
def gc(instance: str | None, module: str | None, workspace: Path) -> None:
    """Drop old versions of INSTANCE, or of all instances, and say what was freed and what stays."""
    for context in _contexts(module, workspace, instance):
        if os.environ.get("DAGSTER_HOME"):
            with dg.DagsterInstance.get() as dagster:
                release_ended(dagster, context)
        freed = removal.gc(context.store.table_store, str(uuid.uuid4()))
        what = f"{count(freed.versions, 'version')}, {count(freed.tables, 'table')}, {_size(freed.bytes)}"
        what += f", {count(freed.blobs, 'blob')}" if freed.blobs else ""
        click.echo(f"{context.config.name}: freed {what}")
        for line in freed.stays:
            click.echo(f"  stays: {line}")


@click.command(short_help="Drop everything that an instance owns.")
@click.argument("instance")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also what a run has pinned, which may have died. One that is alive fails.")
@where
def drop(instance: str, yes: bool, force: bool, module: str | None, workspace: Path) -> None:
    """Drop all schemas of INSTANCE, after asking. Nothing that belongs to somebody else is touched."""
    (context,) = _contexts(module, workspace, instance)
    store = context.store.table_store
    found = removal.holdings(store)
    if not found.schemas:
        click.echo(f"{instance} has nothing in the database.")
        return
    for schema in found.schemas:
        click.echo(f"  {schema}")
    what = f"{count(len(found.schemas), 'schema')}, {count(found.tables, 'table')}, {_size(found.bytes)}"
    if not yes and not click.confirm(f"Drop {instance}: {what}?"):
        click.echo("Nothing was dropped.")
        return
    removal.drop(store, force=force)
    click.echo(f"{instance}: dropped {what}")


@click.command(short_help="Take the lock of a stage from a run that hangs.")
@click.argument("instance")
@click.argument("stage")
@click.option("--yes", is_flag=True, help="Do not ask.")
@where
def unlock(instance: str, stage: str, yes: bool, module: str | None, workspace: Path) -> None:
    """Take the lock of STAGE from the run that holds it, after asking. That run cannot commit any more: it fails when
    it comes to it, and what it has staged is reused by the next one."""
    found = of_instance(locations(module, workspace), instance)
    store = found[0].instance.store.table_store
    known = {key.path[1] for location in found for key in location.select(None)}
    if stage.lower() not in known:
        raise NotMaterialized(f"Instance {instance!r} has no stage {stage!r}.{did_you_mean(stage, known)}")
    held = store.stage_lock(stage.lower())
    with store.database.connect("pipedag unlock") as connection:
        holder = advisory_lock.holder_of(connection, held)
        if holder is None:
            click.echo(f"Nobody holds the lock of {held.what}.")
            return
        click.echo(f"{held.what}: {holder}")
        if not yes and not click.confirm("Take the lock from it?"):
            click.echo("Nothing was done.")
            return
        done = advisory_lock.take_away(connection, held, holder)
    click.echo(f"{held.what}: {'free' if done else 'that run does not hold it any more'}.")


COMMANDS = (versions, rollback, gc, drop, unlock)


def _contexts(module: str | None, workspace: Path, instance: str | None) -> list[ConfigContext]:
    """The instances that a command is about, each once."""
    found = locations(module, workspace)
    chosen = of_instance(found, instance) if instance else found
    return list({location.instance.instance_id: location.instance for location in chosen}.values())


def _stage(context: ConfigContext, name: str) -> str:
    """A stage that the instance has in the database."""
    store = context.store.table_store
    if not store.exists():
        raise NotMaterialized(f"Instance {context.config.name!r} was never run.")
    known = store.records.stages()
    if name.lower() not in known:
        raise NotMaterialized(f"No stage {name!r} was ever committed.{did_you_mean(name, known)}")
    return name.lower()


def _origin(context: ConfigContext, source: SourceVersion) -> str:
    own = context.source
    other = own if own is not None and own.config.name == source.instance else context.files.get(source.instance)
    now = other.store.table_store.current([source.stage])[source.stage].number
    text = f"sampled from {source.instance} {source.number}"
    return text if now == source.number else f"{text}; {source.instance} is now at {now}"


def _changes(changes: history.Changes | None) -> str:
    if changes is None:
        return "unknown"
    kinds = (("+", changes.added), ("", changes.changed), ("-", changes.removed))
    return ", ".join(f"{sign}{escape(name)}" for sign, names in kinds for name in names) or "none"


def _size(number: int) -> str:
    size, unit = float(number), 0
    while size >= 1000 and unit < 4:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} B" if unit == 0 else f"{size:.1f} {'kMGT'[unit - 1]}B"
