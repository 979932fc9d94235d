"""`pipedag-dagster repair`."""

from __future__ import annotations

import uuid
from pathlib import Path

import click

from pipedag_dagster.cli.options import where
from pipedag_dagster.orchestration.workspace import locations, of_instance
from pipedag_dagster.versions import repair as repairs


@click.command(short_help="Repair what was damaged by hand.")
@click.argument("instance")
@click.argument("stage", required=False)
@where
def repair(instance: str, stage: str | None, module: str | None, workspace: Path) -> None:
    """Repair STAGE of INSTANCE, or all its stages, after somebody has changed the database or the files by hand.

    Tables and blobs that are gone or were changed are forgotten: the next run makes them again. Views are made again,
    schemas get their names back, and what is left over is dropped. `check --database --content` says what is wrong
    without changing anything.

    \b
    Example:
        pipedag-dagster repair full raw
    """
    found = of_instance(locations(module, workspace), instance)
    store = found[0].instance.store.table_store
    for sentence in repairs.repair(store, str(uuid.uuid4()), None if stage is None else stage.lower()):
        click.echo(sentence)
