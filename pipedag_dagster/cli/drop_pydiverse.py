"""`pipedag-dagster drop-pydiverse`."""

from __future__ import annotations

from pathlib import Path

import click

from pipedag_dagster.cli.options import confirmed, count
from pipedag_dagster.context import PipedagConfig
from pipedag_dagster.versions import pydiverse_schemas


@click.command(short_help="Drop what pydiverse.pipedag has made for an instance.")
@click.argument("instance")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="The configuration. Default: as for a run.")
@click.option("--flow", help="The flow, if it has settings of its own.")
@click.option("--per-user", is_flag=True, help="What it has made for you, if each user has an instance.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop_pydiverse(instance: str, config: Path | None, flow: str | None, per_user: bool, yes: bool) -> None:
    """Drop the schemas that pydiverse.pipedag has made with the database and the schema_prefix of INSTANCE, after a
    question.

    Only schemas of stages that its metadata names are dropped. What pipedag_dagster has made stays, and so do the files
    of blobs. First make sure that no flow of pydiverse.pipedag runs.

    \b
    Example:
        pipedag-dagster drop-pydiverse full
    """
    store = PipedagConfig(config).get(instance, flow, per_user).store.table_store
    found = pydiverse_schemas.find(store.database, store.instance_schemas)
    for schema in found.schemas:
        click.echo(f"  {schema}")
    for line in found.left:
        click.echo(f"stays: {line}")
    size = f"{count(len(found.schemas), 'schema')} with {count(found.tables, 'table')} and views"
    if not found.schemas:
        return
    question = f"Drop what pydiverse.pipedag has made for {instance}: {size}?"
    if not confirmed(question, "Nothing was dropped.", yes=yes):
        return
    pydiverse_schemas.drop(store.database, store.instance_schemas, found.schemas)
    click.echo(f"{instance}: dropped {size}")
