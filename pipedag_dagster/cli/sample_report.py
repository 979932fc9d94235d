"""`pipedag-dagster sample report` and `pipedag-dagster sample weights`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from pipedag_dagster.cli.options import json_option, print_json, where
from pipedag_dagster.graph.flow import FlowGraph
from pipedag_dagster.orchestration.workspace import Location, locations, of_instance
from pipedag_dagster.sampling.committed import report_of, weights_of
from pipedag_dagster.sampling.comparison import ColumnComparison
from pipedag_dagster.sampling.report import TableReport, summary
from pipedag_dagster.sampling.report_charts import reason_text
from pipedag_dagster.sampling.report_page import page

_SHOWN = 3


@click.command(short_help="Compare the committed sample of an instance with its source.")
@click.argument("instance")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write a page.")
@click.option("--columns", is_flag=True, help="Show all columns, not only those with something to look at.")
@json_option
@where
def report(instance: str, html: Path | None, columns: bool, as_json: bool, module: str | None, workspace: Path) -> None:
    """Compare the input tables of INSTANCE with those of its source: rows and why they are in the sample, references,
    and the distribution of each column. Nothing is written but FILE. With DAGSTER_HOME, Dagster shows where it is.

    \b
    Examples:
        pipedag-dagster sample report midi
        pipedag-dagster sample report midi --html midi.html
    """
    found = of_instance(locations(module, workspace), instance)
    chosen = found[0].instance
    tables = report_of(chosen, _flows(found))
    if as_json:
        print_json([table.as_json() for table in tables])
    else:
        _print(tables, all_columns=columns)
    if html is not None:
        html.write_text(page(chosen.config.name, str(chosen.config.copy_source), tables), encoding="utf-8")
        click.echo(f"Written: {html}", err=as_json)
        if os.environ.get("DAGSTER_HOME"):
            import dagster as dg  # noqa: PLC0415

            from pipedag_dagster.orchestration.assets import link_report  # noqa: PLC0415

            with dg.DagsterInstance.get() as dagster_instance:
                link_report(dagster_instance, chosen, [table.name for table in tables], html)


@click.command(short_help="Print a query for the rows of a sample with their weights.")
@click.argument("instance")
@click.argument("table")
@where
def weights(instance: str, table: str, module: str | None, workspace: Path) -> None:
    """Print a query for the rows of TABLE (stage.table) in INSTANCE with their weights, in the column sample_weight.

    Weighted counts and sums estimate those of the source without bias. The query reads only the small instance.

    \b
    Example:
        pipedag-dagster sample weights midi raw.orders
    """
    found = of_instance(locations(module, workspace), instance)
    click.echo(weights_of(found[0].instance, _flows(found), table))


def _print(tables: Sequence[TableReport], *, all_columns: bool) -> None:
    console = Console()
    console.print(_tables(tables))
    if any(table.relations for table in tables):
        console.print(_relations(tables))
    listed = [(table, column) for table in tables for column in table.columns if all_columns or _is_notable(column)]
    if listed:
        console.print(_columns(listed))
    console.print(summary(tables), highlight=False)


def _flows(found: Sequence[Location]) -> list[FlowGraph]:
    return list({id(stage.flow): stage.flow for location in found for stage in location.stages}.values())


def _grid(*columns: str, left: Sequence[str]) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(column, justify="left" if column in left else "right", overflow="fold")
    return grid


def _tables(tables: Sequence[TableReport]) -> Grid:
    grid = _grid("table", "rows", "of", "share", "why", left=("table", "why"))
    for table in tables:
        why = ", ".join(f"{count:,} {reason_text(name)}" for name, count in table.reasons.items() if count)
        grid.add_row(escape(table.name), f"{table.rows:,}", f"{table.source_rows:,}", f"{table.share:.1%}", why)
    return grid


def _relations(tables: Sequence[TableReport]) -> Grid:
    grid = _grid("relation", "broken", "orphans", "NULL", "children per parent", left=("relation",))
    for one in (relation for table in tables for relation in table.relations):
        ours, theirs = one.sample, one.source
        grid.add_row(
            escape(str(one.relation)),
            f"[bold red]{one.broken:,}[/]" if one.broken else "[green]0[/]",
            f"{theirs.orphan_share:.1%} → {ours.orphan_share:.1%}",
            f"{theirs.unset_share:.1%} → {ours.unset_share:.1%}",
            f"{theirs.children_per_parent:.1f} → {ours.children_per_parent:.1f}",
        )
    return grid


def _is_notable(column: ColumnComparison) -> bool:
    return column.is_far or bool(column.missing)


def _columns(listed: Sequence[tuple[TableReport, ColumnComparison]]) -> Grid:
    grid = _grid(
        "column", "distance", "by chance", "NULL", "missing in the sample", left=("column", "missing in the sample")
    )
    for table, column in listed:
        missing = [*map(repr, column.missing[:_SHOWN]), *column.edge_cases]
        more = f" and {len(column.missing) - _SHOWN} more" if len(column.missing) > _SHOWN else ""
        distance = f"{column.measure} {column.distance:.3f}" if column.measure else ""
        grid.add_row(
            escape(f"{table.name}.{column.name}"),
            f"[yellow]{distance}[/]" if column.is_far else distance,
            "" if column.bound is None else f"{column.bound:.3f}",
            f"{column.source.null_share:.1%} → {column.sample.null_share:.1%}",
            escape(", ".join(missing) + more),
        )
    return grid
