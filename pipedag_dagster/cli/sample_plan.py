"""`pipedag-dagster sample plan` and `sample why`: what a sample would have, and why a row is in it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from pipedag_dagster.catalog.catalog import SampledRows
from pipedag_dagster.cli.options import json_option, print_json, where
from pipedag_dagster.errors import ConfigError, NotMaterialized, did_you_mean
from pipedag_dagster.orchestration.workspace import Location, locations, of_instance
from pipedag_dagster.sampling.copies import copied_calls
from pipedag_dagster.sampling.flow_samples import flow_sampler
from pipedag_dagster.sampling.report_charts import reason_text
from pipedag_dagster.sampling.row_chain import chains
from pipedag_dagster.sampling.rules import rule_text
from pipedag_dagster.sampling.sampler import Sampler

_ROWS = 3


@click.command(short_help="Show how many rows a sample would have, and what brings them.")
@click.argument("instance")
@json_option
@where
def plan(instance: str, as_json: bool, module: str | None, workspace: Path) -> None:
    """Choose the sample that a run of INSTANCE would copy now, and show the rows of each table by reason, and what each
    relation brings. Nothing is written. The exit code is 1 when a run would refuse the sample.

    \b
    Example:
        pipedag-dagster sample plan midi
    """
    sampler = _sampler(locations(module, workspace), instance)
    rows, brought, refused = _chosen(sampler)
    if as_json:
        print_json({"tables": _as_json(sampler, rows), "relations": dict(brought), "refused": refused})
        sys.exit(1 if refused else 0)
    console = Console()
    console.print(_tables(sampler, rows))
    if any(brought.values()):
        console.print(_relations(brought))
    for sentence in refused:
        console.print(f"[bold red]A run would refuse it:[/] {escape(sentence)}", soft_wrap=True)
    if refused:
        sys.exit(1)


@click.command(short_help="Show the chain from a row to the rule that chose it.")
@click.argument("instance")
@click.argument("table")
@click.argument("condition")
@where
def why(instance: str, table: str, condition: str, module: str | None, workspace: Path) -> None:
    """Show why rows of TABLE are in the sample of INSTANCE: those for which CONDITION holds. Of many rows, three are
    shown.

    \b
    Example:
        pipedag-dagster sample why mini raw.flights "carrier = 'OO'"
    """
    sampler = _sampler(locations(module, workspace), instance)
    name = _named(sampler, table)
    source = sampler.source.config.name
    with sampler.looking(sampler.related(name)) as chosen:
        found = chains(chosen, name, condition, _ROWS)
    if not found:
        raise ConfigError(f"sample why: no row of {name} in {source} is meant by {condition}.")
    for chain in found:
        for depth, link in enumerate(chain):
            click.echo(f"{'  ' * depth}{link.row}  {click.style(link.because, dim=True)}")
    missing = sum(not chain for chain in found)
    if missing:
        verb = "is" if missing == 1 else "are"
        rows = "This row is" if len(found) == 1 else f"{missing} of these {len(found)} rows {verb}"
        click.echo(f"{rows} not in the sample of {instance}. To have such rows in every sample, type:")
        click.echo(f'  pipedag-dagster keep {name} "{condition}"')


def _sampler(loaded: list[Location], instance: str) -> Sampler:
    found = of_instance(loaded, instance)
    chosen = found[0].instance
    source = chosen.source
    if source is None:
        raise ConfigError(f"Instance {instance!r} reads its inputs itself. Choose an instance with copy_source.")
    flows = list({id(stage.flow): stage.flow for location in found for stage in location.stages}.values())
    plain = [pair for location in found for pair in location.plain_inputs()]
    stages = {call.stage.name for flow in flows for call in copied_calls(chosen, flow)} | {stage for stage, _ in plain}
    versions = source.store.table_store.current(sorted(stages))
    sampler = flow_sampler(chosen, flows, versions, plain, remember=False)
    if not sampler.tables:
        name = source.config.name
        raise NotMaterialized(f"{name} has no input table yet. Run it first: pipedag-dagster run {name}")
    return sampler


def _named(sampler: Sampler, table: str) -> str:
    names = [name for name in sampler.tables if table.lower() in (name, name.partition(".")[2])]
    if not names:
        hint = did_you_mean(table.lower(), sampler.tables)
        raise ConfigError(f"sample why: no input task makes a table {table!r}.{hint}")
    if len(names) > 1:
        raise ConfigError(f"sample why: there are several input tables {table!r}. Write one of: {', '.join(names)}.")
    return names[0]


def _chosen(sampler: Sampler) -> tuple[dict[str, SampledRows], Counter[str], list[str]]:
    """What the sample has of each table, how many rows each relation brings, and why a run would refuse it."""
    rows: dict[str, SampledRows] = {}
    brought: Counter[str] = Counter()
    refused: list[str] = []
    for group in sampler.groups():
        if all(sampler.is_whole(name) for name in group):
            rows |= {name: sampler.of(name).rows for name in group}
            continue
        with sampler.looking(group) as chosen:
            rows |= chosen.rows
            brought += chosen.selection.brought
            refused += filter(None, [chosen.refusal(sampler.instance.config.name)])
    return rows, brought, refused


def _as_json(sampler: Sampler, rows: Mapping[str, SampledRows]) -> list[dict[str, Any]]:
    return [
        {
            "table": name,
            "rows": sampled.rows,
            "source_rows": sampled.source_rows,
            "rule": rule_text(sampler.spec.rule(name)),
            "reasons": dict(sampled.reasons),
        }
        for name, sampled in rows.items()
    ]


def _tables(sampler: Sampler, rows: Mapping[str, SampledRows]) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0))
    for column in ("table", "rows", "of", "share", "rule", "why"):
        grid.add_column(column, justify="right" if column in ("rows", "of", "share") else "left", overflow="fold")
    for name, one in rows.items():
        reasons = ", ".join(f"{number:,} {reason_text(reason)}" for reason, number in one.reasons.items() if number)
        share = f"{one.rows / one.source_rows:.1%}" if one.source_rows else ""
        rule = rule_text(sampler.spec.rule(name))
        grid.add_row(escape(name), f"{one.rows:,}", f"{one.source_rows:,}", share, escape(rule), reasons)
    total, of = sum(one.rows for one in rows.values()), sum(one.source_rows for one in rows.values())
    grid.add_row("", f"[bold]{total:,}[/]", f"{of:,}", f"{total / of:.1%}" if of else "", "", "")
    return grid


def _relations(brought: Counter[str]) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0))
    grid.add_column("relation", overflow="fold")
    grid.add_column("brings", justify="right")
    for relation, number in brought.most_common():
        grid.add_row(escape(relation), f"{number:,}")
    return grid
