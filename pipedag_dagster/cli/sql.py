"""`pipedag-dagster sql` and `pipedag-dagster url`: the database of an instance."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click
import sqlalchemy as sa
from rich.console import Console

from pipedag_dagster.cli.opening import opened, where_or_config
from pipedag_dagster.cli.options import json_option
from pipedag_dagster.cli.show import grid
from pipedag_dagster.errors import DatabaseError
from pipedag_dagster.looking.open_instance import OpenInstance
from pipedag_dagster.looking.queries import Queries


@click.command(short_help="Query an instance, or start psql on it. Read only.")
@click.argument("instance")
@click.argument("query", required=False)
@click.option("--rows", type=click.IntRange(1), default=1000, show_default=True, help="Show at most so many rows.")
@json_option
@where_or_config
def sql(
    instance: str,
    query: str | None,
    rows: int,
    as_json: bool,
    module: str | None,
    workspace: Path,
    config: Path | None,
) -> None:
    """Run QUERY on INSTANCE and show the result; `-` reads it from the standard input. Without QUERY, start psql.

    A query names tables as stage.table, and sees one version of every stage. psql knows nothing of stages: there,
    write the table alone, or with its schema. Both are read only.

    \b
    Examples:
        pipedag-dagster sql mini "select customer, sum(amount) from raw.orders group by 1"
        pipedag-dagster sql mini "explain select * from report.ranking"
        pipedag-dagster sql mini --json - < query.sql
        pipedag-dagster sql full
    """
    chosen = opened(instance, module, workspace, config)
    if query is None:
        _start_psql(chosen)
        return
    text = sys.stdin.read() if query == "-" else query
    queries = Queries(chosen.instance.store.table_store)
    if as_json:
        click.echo(f"[{', '.join(queries.json(text))}]")
        return
    shown = queries.rows(text, rows)
    Console(highlight=False).print(grid(shown))
    if shown.more:
        click.echo(f"Only the first {rows:,} rows are shown: --rows {rows * 10}", err=True)


@click.command(short_help="Print the url of the database of an instance.")
@click.argument("instance")
@click.option("--show-password", is_flag=True, help="Print the password, too.")
@where_or_config
def url(instance: str, show_password: bool, module: str | None, workspace: Path, config: Path | None) -> None:
    """Print the url of the database of INSTANCE, for pasting into a client. The password is masked.

    \b
    Examples:
        pipedag-dagster url mini
        psql "$(pipedag-dagster url mini --show-password)"
    """
    database = opened(instance, module, workspace, config).instance.store.table_store.database
    address = database.url
    secrets = [name for name in ("password", "sslpassword") if name in address.query]
    if not show_password:
        address = address.update_query_dict(dict.fromkeys(secrets, "***"))
    click.echo(address.render_as_string(hide_password=not show_password))
    if not show_password and (address.password is not None or secrets):
        click.echo("The password is masked. Add --show-password to print it.", err=True)


def _start_psql(chosen: OpenInstance) -> None:
    """Start psql in place of this process.

    Raises:
        DatabaseError: psql is not there.
    """
    store = chosen.instance.store.table_store
    program = shutil.which("psql")
    if program is None:
        name = chosen.name
        raise DatabaseError(
            "psql is not installed: `apt install postgresql-client` or `brew install libpq` has it. Or give a query: "
            f'pipedag-dagster sql {name} "select 1". Another client takes: pipedag-dagster url {name}'
        )
    address, role = store.database.url, chosen.instance.config.role
    if "sslpassword" in address.query:
        raise DatabaseError("psql takes sslpassword only on its command line, where others see it. Start it yourself.")
    queries = Queries(store)
    path = queries.search_path()
    stages = queries.unshared()
    schemas = ", ".join(store.schemas(stage).current for stage in stages)
    click.echo(f"Read only. Names without a schema are found in: {schemas or 'no schema'}.", err=True)
    environment = {**os.environ, "PGOPTIONS": _options(address, path, role)}
    if address.password is not None:
        environment["PGPASSWORD"] = str(address.password)
    # The password goes by the environment, because others see the command line.
    # `address.set(password=None)` would keep it.
    place = sa.URL.create(
        "postgresql", address.username, None, address.host, address.port, address.database, address.query
    ).difference_update_query(["options"])
    os.execve(program, [program, place.render_as_string(hide_password=False)], environment)


def _options(address: sa.URL, search_path: str, role: str | None) -> str:
    """The options of the session, on top of those of the url."""
    settings = {"default_transaction_read_only": "on", "search_path": search_path} | ({"role": role} if role else {})
    given = address.query.get("options", os.environ.get("PGOPTIONS", ""))
    chosen = (f"-c {name}={_escaped(value)}" for name, value in settings.items())
    return " ".join([given if isinstance(given, str) else " ".join(given), *chosen]).strip()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
