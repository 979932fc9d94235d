"""The commands that explain runs: `plan` before a run, `explain` after it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table as Grid

from pipedag_dagster.catalog.catalog import RunRecord, TableVersion
from pipedag_dagster.cli.options import cache_modes, count, json_option, print_json, where
from pipedag_dagster.errors import NotMaterialized, did_you_mean
from pipedag_dagster.execution.plan import Action, PlannedTable
from pipedag_dagster.execution.plan import plan as what_would_run
from pipedag_dagster.execution.run_log import SUSPICION, is_suspicious
from pipedag_dagster.execution.run_validation import validation
from pipedag_dagster.fingerprint.code_text import difference
from pipedag_dagster.orchestration.partition_choice import choose
from pipedag_dagster.orchestration.plain_plan import plan_plain
from pipedag_dagster.orchestration.table_names import find_table, label
from pipedag_dagster.orchestration.workspace import Location, locations, of_instance
from pipedag_dagster.versions.table_store import TableStore


@click.command(short_help="Show what a run would do and why, without running anything.")
@click.argument("instance")
@click.option("-s", "--select", help="As for run: a stage, stage.table, or Dagster's selection syntax. Default: all.")
@click.option("--check", is_flag=True, help="Exit with code 1 unless a run would change nothing.")
@cache_modes
@json_option
@where
def plan(
    instance: str,
    select: str | None,
    check: bool,
    cache_mode: str | None,
    disable_cache_function: bool,
    ignore_task_version: bool,
    as_json: bool,
    module: str | None,
    workspace: Path,
) -> None:
    """Show what a run of INSTANCE would do about each table, and why. No task runs, and nothing is locked, written or
    pinned. Cache functions are called, and lazy tasks build their queries. Partitioned assets are left out, as a run
    without --partition leaves them out.

    \b
    Examples:
        pipedag-dagster plan midi
        pipedag-dagster plan midi --select report
        pipedag-dagster plan midi --check
    """
    planned: list[PlannedTable] = []
    for location in of_instance(locations(module, workspace), instance):
        choice = choose(location.assets(), location.select(select), None, selected=False)
        selection = set(choice.tables)
        tables = what_would_run(
            location.instance,
            location.stages,
            lambda stage, asset, selection=selection: (stage, asset) in selection,  # type: ignore[misc]
            validation(
                location.instance.config.cache_validation,
                cache_mode,
                disable_cache_function or None,
                ignore_task_version or None,
            ),
        )
        tables += plan_plain(location, choice.tables)
        planned += tables
        if not as_json:
            console = Console()
            console.print(_title(location, tables), soft_wrap=True)
            console.print(_planned(tables))
            if hint := choice.hint(instance):
                console.print(hint, soft_wrap=True)
    if as_json:
        print_json(planned)
    if check and any(table.action is not Action.cached for table in planned):
        sys.exit(1)


def _title(location: Location, tables: list[PlannedTable]) -> str:
    actions = [table.action for table in tables]
    says = f"{actions.count(Action.runs)} of {count(len(tables), 'table')} would run"
    says += f", {actions.count(Action.shown)} would become visible" if Action.shown in actions else ""
    says += f", {actions.count(Action.perhaps)} perhaps" if Action.perhaps in actions else ""
    says += f", {actions.count(Action.fails)} would fail" if Action.fails in actions else ""
    return f"[bold]{location.instance.instance_id}[/]  {says}"


def _planned(tables: list[PlannedTable]) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0))
    grid.add_column("table")
    grid.add_column("what a run would do", overflow="fold")
    stage = None
    for table in tables:
        if table.stage != stage:
            stage = table.stage
            grid.add_row(f"[bold cyan]{stage}[/]", "")
        grid.add_row(f"  {escape(table.asset)}", _fate(table))
    return grid


def _fate(table: PlannedTable) -> str:
    reason, inputs = escape(table.reason), escape(", ".join(table.open))
    if table.action is Action.runs:
        return f"[green]runs[/]: {reason}"
    if table.action is Action.fails:
        return f"[red]fails[/]: {reason}"
    if table.action is Action.shown:
        return "[dim]cached[/], [yellow]becomes visible[/]"
    return f"[yellow]runs if {inputs} changes[/]" if table.action is Action.perhaps else "[dim]cached[/]"


@click.command(short_help="Show what the last runs did about a table and why, with diffs.")
@click.argument("instance")
@click.argument("table", metavar="STAGE.TABLE")
@click.option("-n", "--runs", type=click.IntRange(1), default=10, show_default=True, help="How many runs.")
@json_option
@where
def explain(instance: str, table: str, runs: int, as_json: bool, module: str | None, workspace: Path) -> None:
    """Show what the last runs of INSTANCE did about a table, and why, with a diff of the code or the query that
    changed.

    \b
    Examples:
        pipedag-dagster explain midi report.ranking
        pipedag-dagster explain midi report.ranking --runs 3
    """
    chosen = of_instance(locations(module, workspace), instance)
    store = chosen[0].instance.store.table_store
    stage, asset = _known(store, chosen, table)
    done = store.records.runs(stage, asset, runs)
    if as_json:
        print_json([_as_json(run, _diff(store, run)) for run in done])
        return
    console = Console(highlight=False)
    current = store.current([stage])[stage].tables.get(asset)
    shown = f"{stage}.{label(asset, current.name) if current else asset}"
    console.print(_heading(instance, shown, current), soft_wrap=True)
    for run in done:
        console.print(_run(run), soft_wrap=True)
        if diff := _diff(store, run):
            console.print(Padding(Syntax(diff, "diff", background_color="default", word_wrap=True), (0, 0, 0, 4)))
    if is_suspicious(done):
        console.print(f"[yellow]{stage}.{asset}: {escape(SUSPICION)}[/]", soft_wrap=True)


def _diff(store: TableStore, run: RunRecord) -> str:
    """What changed in the code or the query; empty when that is not why the task ran."""
    if not run.old_text:
        return ""
    return difference(store.records.text(run.old_text), store.records.text(run.new_text))


def _as_json(run: RunRecord, diff: str) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "at": run.at,
        "cached": run.cached,
        "reason": str(run.reason),
        "seconds": run.seconds,
        "same_content": run.same,
        "diff": diff or None,
    }


def _known(store: TableStore, chosen: Sequence[Location], table: str) -> tuple[str, str]:
    """Stage and asset of a table that some run has made.

    Raises:
        NotMaterialized: there is none.
    """
    instance = chosen[0].instance.config.name
    if not store.exists():
        raise NotMaterialized(f"Instance {instance!r} was never run.")
    assets = store.records.assets()
    made = find_table(table, assets, store)
    if made is not None:
        return made
    defined = find_table(table, [each for location in chosen for each in location.tables()], store)
    if defined is not None:
        raise NotMaterialized(
            f"{'.'.join(defined)} has no table in {instance!r}: no run has made it yet, or it is a plain asset that "
            "returns None. Dagster's UI shows the runs of such assets."
        )
    hint = did_you_mean(table.lower(), map(".".join, assets))
    raise NotMaterialized(f"No run of {instance!r} has made {table!r}.{hint}")


def _heading(instance: str, table: str, current: TableVersion | None) -> str:
    if current is None:
        return f"[bold]{escape(instance)} {escape(table)}[/]  not committed"
    libraries = ", ".join(f"{name} {version}" for name, version in current.libraries.items())
    parts = [
        count(current.rows, "row"),
        f"code version {current.code_version}" if current.code_version else "a plain asset: it runs in every run",
        f"data version {current.data_version}",
        *([f"with {libraries}"] if libraries else []),
    ]
    return f"[bold]{escape(instance)} {escape(table)}[/]  {escape(', '.join(parts))}"


def _run(run: RunRecord) -> str:
    when = f"{run.at.astimezone():%Y-%m-%d %H:%M:%S}" if run.at else ""
    if run.cached:
        return f"{when}  run {run.run_id[:8]}  [dim]cached[/]"
    same = "; the content is unchanged" if run.same else ""
    return f"{when}  run {run.run_id[:8]}  [green]ran[/]: {escape(str(run.reason))}[dim] ({run.seconds:.2f} s{same})[/]"


COMMANDS = (plan, explain)
