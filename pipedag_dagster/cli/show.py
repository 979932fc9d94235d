"""`pipedag-dagster show`: the rows of a committed table."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.cli.opening import opened, where_or_config
from pipedag_dagster.cli.options import count, json_option
from pipedag_dagster.errors import BadQuery
from pipedag_dagster.looking import committed, table_rows
from pipedag_dagster.looking.open_instance import OpenInstance
from pipedag_dagster.looking.queries import Queries, Rows


@click.command(short_help="Show rows of a committed table.")
@click.argument("instance")
@click.argument("table", metavar="STAGE.TABLE", required=False)
@click.option("--where", "condition", metavar="SQL", help="Only the rows for which this holds.")
@click.option("--rows", type=click.IntRange(0), default=20, show_default=True, help="At most so many rows.")
@click.option("--columns", metavar="A,B", help="Only these columns, in this order.")
@click.option("--version", "number", type=int, metavar="N", help="An older version of the stage.")
@json_option
@where_or_config
def show(
    instance: str,
    table: str | None,
    condition: str | None,
    rows: int,
    columns: str | None,
    number: int | None,
    as_json: bool,
    module: str | None,
    workspace: Path,
    config: Path | None,
) -> None:
    """Show rows of a committed table of INSTANCE, or, without STAGE.TABLE, list its tables. Nothing is written.

    \b
    Examples:
        pipedag-dagster show mini
        pipedag-dagster show mini report.ranking
        pipedag-dagster show full raw.orders --where "amount > 100" --columns id,amount --rows 5
        pipedag-dagster show full raw.orders --json | jq .rows
    """
    chosen = opened(instance, module, workspace, config)
    store = chosen.instance.store.table_store
    if table is None:
        _list(chosen, number, as_json)
        return
    found = committed.table(store, table, number)
    number = number or committed.stage(store, found.stage).number
    if not found.in_database:
        value = store.read(found)
        click.echo(
            json.dumps({"table": f"{found.stage}.{found.asset}", "value": value}, default=repr)
            if as_json
            else repr(value)
        )
        return
    names = [name.strip() for name in columns.split(",")] if columns else []
    if as_json:
        values = table_rows.json(Queries(store), found, names, condition, rows)
        click.echo(_json(chosen.instance.instance_id, found, number, names, values))
        return
    shown = table_rows.rows(Queries(store), found, names, condition, rows)
    console = Console(highlight=False)
    title = f"{count(found.rows, 'row')}, {count(len(found.columns), 'column')}, version {number}"
    console.print(
        Text.assemble((f"{chosen.instance.instance_id} {found.stage}.{found.asset}", "bold"), f"  {title}"),
        soft_wrap=True,
    )
    console.print(grid(shown))
    if shown.more:
        console.print(f"There are more rows: --rows {max(rows * 10, 10)}", style="dim")


def _list(chosen: OpenInstance, number: int | None, as_json: bool) -> None:
    if number is not None:
        raise BadQuery("--version belongs to a table: pipedag-dagster show INSTANCE STAGE.TABLE --version N")
    tables = chosen.tables()
    if as_json:
        listed = [
            {"table": f"{each.stage}.{each.asset}", "kind": each.kind.value, "rows": each.rows} for each in tables
        ]
        click.echo(json.dumps({"instance": chosen.instance.instance_id, "tables": listed}))
        return
    Console(highlight=False).print(tables)


def _json(instance_id: str, table: TableVersion, number: int, names: list[str], rows: list[str]) -> str:
    head = {
        "instance": instance_id,
        "table": f"{table.stage}.{table.asset}",
        "version": number,
        "total_rows": table.rows,
        "columns": [
            {"name": column.name, "type": column.type} for column in table.columns if not names or column.name in names
        ],
    }
    # The rows are put in as PostgreSQL writes them, so that 1.00 stays 1.00.
    return f'{json.dumps(head)[:-1]}, "rows": [{", ".join(rows)}]}}'


def grid(rows: Rows) -> Grid:
    """Rows as a table, with the type of each column under its name."""
    numeric = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
    table = Grid(box=None, padding=(0, 2, 0, 0))
    for name, kind in rows.columns:
        table.add_column(
            Text.assemble(name, "\n", (kind, "dim not bold")),
            justify="right" if kind.startswith(numeric) else "left",
            overflow="fold",
        )
    for row in rows.values:
        table.add_row(*(Text("NULL", style="dim") if value is None else Text(value) for value in row))
    return table
