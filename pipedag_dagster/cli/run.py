"""`pipedag-dagster run`: a run with a progress bar and a summary."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from pipedag_dagster.catalog.catalog import RunRecord, TableVersion
from pipedag_dagster.catalog.reason import Reason
from pipedag_dagster.cli.options import attrs_of, cache_modes, count, extent, json_option, print_json, where
from pipedag_dagster.errors import PipedagError, failures_in
from pipedag_dagster.execution.progress import Progress as RunProgress
from pipedag_dagster.execution.stage_result import Outcome
from pipedag_dagster.graph.flow import TaskCall
from pipedag_dagster.orchestration.partition_choice import PartitionRange, choose
from pipedag_dagster.orchestration.result import Result
from pipedag_dagster.orchestration.run import execute
from pipedag_dagster.orchestration.table_names import label
from pipedag_dagster.orchestration.workspace import Location, locations, of_instance

if TYPE_CHECKING:
    from dagster import AssetCheckEvaluation


@click.command(short_help="Run an instance, or some of its tables.")
@click.argument("instance")
@click.option("-s", "--select", help="A stage, stage.table, or Dagster's selection syntax (group:raw+). Default: all.")
@cache_modes
@click.option("--partition", metavar="KEY", help="Run partitioned assets for this partition.")
@click.option("--partitions", metavar="FROM..TO", help="Run partitioned assets for these partitions, in their order.")
@click.option("--attr", "attrs", multiple=True, metavar="NAME=VALUE", help="Another attr for this run, as YAML.")
@json_option
@where
def run(
    instance: str,
    select: str | None,
    cache_mode: str | None,
    disable_cache_function: bool,
    ignore_task_version: bool,
    partition: str | None,
    partitions: str | None,
    attrs: tuple[str, ...],
    as_json: bool,
    module: str | None,
    workspace: Path,
) -> None:
    """Run INSTANCE, or some of its tables, and show for each table what was done and why.

    \b
    Examples:
        pipedag-dagster run midi
        pipedag-dagster run midi --select report
        pipedag-dagster run full --cache-mode force_cache_invalid
        pipedag-dagster run full --partition 2026-01-31
        pipedag-dagster run midi --json

    With --json, stdout is a list with an object for each run: one for each flow and partition.
    """
    console = Console(stderr=as_json)
    runs: list[dict[str, Any]] = []
    overrides = {
        "cache_validation_mode": cache_mode,
        "disable_cache_function": disable_cache_function or None,
        "ignore_task_version": ignore_task_version or None,
    }
    for location in of_instance(locations(module, workspace), instance):
        changes = overrides | {"attrs": attrs_of(location.instance, attrs)}
        choice = choose(location.assets(), location.select(select), partition or partitions, selected=bool(select))
        for part in choice.runs:
            started = time.monotonic()
            result = _run(location, changes, choice.tables, part)
            seconds = time.monotonic() - started
            if as_json:
                runs.append(_for_programs(location, result, seconds))
            if result.error is not None:
                if as_json:
                    print_json(runs)
                raise result.error
            if not as_json:
                console.print(_summary(location, result, seconds))
                for line in _checks(result.checks):
                    console.print(line, soft_wrap=True, highlight=False)
        if hint := choice.hint(instance):
            console.print(hint, soft_wrap=True)
    if as_json:
        print_json(runs)


def _run(
    location: Location,
    overrides: dict[str, Any],
    selection: Sequence[tuple[str, str]],
    partitions: PartitionRange | None,
) -> Result:
    bar = _Bar(location, len(selection))
    with bar.bars:
        return execute(
            location.definitions,
            location.instance,
            overrides,
            selection=selection,
            partitions=partitions,
            log_level=logging.CRITICAL,
            progress=bar,
        )


def _for_programs(location: Location, result: Result, seconds: float) -> dict[str, Any]:
    """What `--json` says of a run."""
    failures = () if result.error is None else failures_in(result.error)
    tables: list[tuple[RunRecord, TableVersion]] = []
    with suppress(*((PipedagError, sa.exc.SQLAlchemyError) if failures else ())):  # there may be no catalog yet
        tables = result.tables
    return {
        "instance": location.instance.instance_id,
        "run_id": result.run_id,
        "successful": result.successful,
        "seconds": round(seconds, 3),
        "tables": [
            {
                "stage": run.stage,
                "table": table.asset,
                "name": table.name,
                "rows": table.rows,
                "bytes": table.bytes,
                "cached": run.cached,
                "reason": str(run.reason),
                "seconds": round(run.seconds, 3),
            }
            for run, table in tables
        ],
        "checks": [
            {
                "table": ".".join(check.asset_key.path[1:]),
                "check": check.check_name,
                "passed": check.passed,
                "severity": check.severity.name,
                "description": check.description,
            }
            for check in result.checks
        ],
        "errors": [
            {
                "class": type(failure).__name__,
                "task": getattr(failure, "task", None),
                "line": getattr(failure, "line", None),
                "message": str(failure),
            }
            for failure in failures
        ],
    }


class _Bar(RunProgress):
    """A bar that counts tables, and one for each task that runs. Without a terminal, lines of text. Warnings are on the
    console already, from the log; messages say what the summary says."""

    def __init__(self, location: Location, total: int) -> None:
        console = Console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), _WHAT)
        self.is_live = console.is_terminal
        self.bars = Progress(*columns, console=console, transient=True, disable=not self.is_live)
        name = escape(location.instance.config.name)
        self.whole = self.bars.add_task(f"[bold]{name}[/]", total=total, what=f"0 of {count(total, 'table')}")
        self.total, self.done = total, 0
        self.running_tasks: dict[TaskCall, TaskID] = {}
        self.first_rows: dict[TaskCall, tuple[float, int]] = {}  # when rows were sent first, and how many

    def running(self, call: TaskCall, reason: Reason) -> None:
        bar = self.bars.add_task(f"  {escape(str(call))}", total=None, what=escape(str(reason)))
        self.running_tasks[call] = bar

    def sent(self, call: TaskCall, rows: int) -> None:
        now = time.monotonic()
        begun, first = self.first_rows.setdefault(call, (now, rows))
        rate = f", {(rows - first) / (now - begun):,.0f} rows a second" if rows > first else ""
        self.bars.update(self.running_tasks[call], what=f"{count(rows, 'row')} sent{rate}")

    def failed(self, call: TaskCall) -> None:
        self._remove(call)

    def finished(self, outcome: Outcome) -> None:
        self._remove(outcome.call)
        self.done += len(outcome.tables)
        self.bars.update(self.whole, completed=self.done, what=f"{self.done} of {count(self.total, 'table')}")
        if not self.is_live:
            click.echo(f"{outcome.call}: {outcome.reason} ({outcome.seconds:.1f} s)", err=True)

    def _remove(self, call: TaskCall) -> None:
        if call in self.running_tasks:
            self.bars.remove_task(self.running_tasks.pop(call))


_WHAT = TextColumn("{task.fields[what]}")


def _summary(location: Location, result: Result, seconds: float) -> Grid:
    instance = location.instance
    store = instance.store.table_store
    tables = result.tables
    versions = store.current({run.stage for run, _ in tables})
    ran = sum(not run.cached for run, _ in tables)
    grid = Grid(
        title=f"[bold]{instance.instance_id}[/]  {ran} of {count(len(tables), 'table')} ran in {seconds:.1f} s",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    grid.add_column("table")
    grid.add_column("rows", justify="right")
    grid.add_column("what")
    grid.add_column("seconds", justify="right")
    stage = None
    for run, table in tables:
        if run.stage != stage:
            stage = run.stage
            grid.add_row(f"[bold cyan]{stage}[/]", "", f"[dim]version {versions[stage].number}[/]", "")
        what = "[dim]cached[/]" if run.cached else f"[green]ran[/]: {escape(str(run.reason))}"
        name, duration = escape(label(table.asset, table.name)), "" if run.cached else f"{run.seconds:.2f}"
        grid.add_row(f"  {name}", extent(table), what, duration)
    return grid


def _checks(evaluations: Sequence[AssetCheckEvaluation]) -> Iterator[str]:
    """The number of checks that passed, and a line for each check that did not."""
    if evaluations:
        passed = sum(each.passed for each in evaluations)
        yield f"[bold]checks[/]  {passed} of {count(len(evaluations), 'check')} passed"
    for each in evaluations:
        if not each.passed:
            result = "[yellow]warning[/]" if each.severity.name == "WARN" else "[red]failed[/]"
            table = ".".join(each.asset_key.path[1:])
            yield f"  {escape(table)}: {result}: {escape(each.check_name)}: {escape(each.description or '')}"
