"""`pipedag-dagster list`: instances, stages and committed tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.cli.options import count, json_option, print_json, where
from pipedag_dagster.orchestration.table_names import label
from pipedag_dagster.orchestration.workspace import Location, locations, of_instance


@click.command("list", short_help="Show instances, stages and committed tables.")
@click.argument("instance", required=False)
@json_option
@where
def list_(instance: str | None, as_json: bool, module: str | None, workspace: Path) -> None:
    """Show the instances, their stages and the committed tables.

    \b
    Examples:
        pipedag-dagster list
        pipedag-dagster list mini
        pipedag-dagster list --json | jq '.[].stages[].version'
    """
    loaded = locations(module, workspace)
    chosen = [_described(location) for location in (of_instance(loaded, instance) if instance else loaded)]
    if as_json:
        print_json(chosen)
        return
    tree = Tree("instances")
    for described in chosen:
        _add_instance(tree, described)
    Console().print(tree)


def _described(location: Location) -> dict[str, Any]:
    """An instance, its stages and their tables, as in JSON. A table that was never made has no kind."""
    config, store = location.instance.config, location.instance.store.table_store
    declared: dict[str, list[str]] = {}
    for stage, asset in location.tables():
        declared.setdefault(stage, []).append(asset)
    versions = store.current(declared)
    stages = [
        {
            "stage": stage,
            "version": versions[stage].number or None,
            "schema": store.schemas(stage).current,
            "tables": list(_tables(assets, versions[stage].tables)),
        }
        for stage, assets in declared.items()
    ]
    return {"instance": config.name, "location": location.name, "copy_source": config.copy_source, "stages": stages}


def _tables(assets: list[str], tables: Mapping[str, TableVersion]) -> Iterator[dict[str, Any]]:
    for asset in sorted({*assets, *tables}):
        table = tables.get(asset)
        if table is None:
            yield {"asset": asset, "table": asset, "kind": None, "rows": None, "bytes": None}
        else:
            rows = table.rows if table.in_database else None
            yield {"asset": asset, "table": table.name, "kind": table.kind.name, "rows": rows, "bytes": table.bytes}


def _add_instance(tree: Tree, instance: Mapping[str, Any]) -> None:
    source = f", inputs copied from {instance['copy_source']}" if instance["copy_source"] else ""
    branch = tree.add(f"[bold]{instance['instance']}[/] [dim]({instance['location']}{source})[/]", highlight=False)
    for stage in instance["stages"]:
        state = f"version {stage['version']}" if stage["version"] else "never run"
        leaf = branch.add(f"[cyan]{stage['stage']}[/]: [dim]{state}, schema {stage['schema']}[/]")
        for table in stage["tables"]:
            name = escape(label(table["asset"], table["table"]))
            extent = table["kind"] if table["rows"] is None else count(table["rows"], "row")
            leaf.add(name if table["kind"] is None else f"{name}: [dim]{extent}[/]")
