"""`pipedag-dagster roles`: the SQL that makes the database roles of the instances."""

from __future__ import annotations

from pathlib import Path

import click

from pipedag_dagster.config.instances import ConfigFiles
from pipedag_dagster.context import find_config
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.postgres.roles import statements


@click.command(short_help="Print the SQL that makes the roles of all instances.")
@click.argument("config", type=click.Path(path_type=Path), required=False)
def roles(config: Path | None) -> None:
    """Print the SQL that makes the roles of all instances with `role:` in their configuration. Nothing is run.

    CONFIG is the configuration: a folder or a file. Without it, the one that is found from here.

    \b
    Example:
        pipedag-dagster roles | psql shop
    """
    path = config or find_config()
    lines = statements(ConfigFiles(path))
    if not lines:
        example = 'table_store: {args: {role: "shop_{instance_id}"}}'
        raise ConfigError(f"No instance in {path} has a role. Give each instance one, for example: {example}")
    for line in lines:
        click.echo(line)
