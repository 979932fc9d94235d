"""`pipedag-dagster list`: instances, stages and committed tables."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from pipedag_dagster.cli.options import extent, where
from pipedag_dagster.orchestration.table_names import label
from pipedag_dagster.orchestration.workspace import Location, locations, of_instance


@click.command("list", short_help="Show instances, stages and committed tables.")
@click.argument("instance", required=False)
@where
def list_(instance: str | None, module: str | None, workspace: Path) -> None:
    """Show the instances, their stages and the committed tables."""
    loaded = locations(module, workspace)
    tree = Tree("instances")
    for location in of_instance(loaded, instance) if instance else loaded:
        _add_instance(tree, location)
    Console().print(tree)


def _add_instance(tree: Tree, location: Location) -> None:
    instance = location.instance
    store = instance.store.table_store
    declared: dict[str, list[str]] = {}
    for stage, asset in location.tables():
        declared.setdefault(stage, []).append(asset)
    versions = store.current(declared)
    source = f", inputs copied from {instance.config.copy_source}" if instance.config.copy_source else ""
    branch = tree.add(f"[bold]{instance.config.name}[/] [dim]({location.name}{source})[/]", highlight=False)
    for stage, assets in declared.items():
        version = versions[stage]
        state = f"version {version.number}" if version.number else "never run"
        leaf = branch.add(f"[cyan]{stage}[/]: [dim]{state}, schema {store.schemas(stage).current}[/]")
        for asset in sorted({*assets, *version.tables}):
            table = version.tables.get(asset)
            name = escape(label(asset, table.name if table else asset))
            leaf.add(name if table is None else f"{name}: [dim]{extent(table, 'row')}[/]")
