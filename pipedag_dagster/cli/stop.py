"""`pipedag-dagster stop`: stop the embedded PostgreSQL."""

from __future__ import annotations

import click

from pipedag_dagster.context import PipedagConfig, find_config
from pipedag_dagster.postgres import embedded


@click.command(short_help="Stop the embedded PostgreSQL of this project.")
def stop() -> None:
    """Stop the embedded PostgreSQL of this project. Its data stays; the next command starts it again.

    \b
    Example:
        pipedag-dagster stop
    """
    files = PipedagConfig(find_config())
    project = files.get(files.instance_names[0]).config.project
    stopped = embedded.stop(project)
    click.echo("Stopped." if stopped else "It was not running.")
