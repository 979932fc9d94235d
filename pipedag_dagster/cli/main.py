"""The command `pipedag-dagster`."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import click
from dagster import AssetCheckEvaluation, AssetCheckSeverity, BetaWarning, DagsterExecutionInterruptedError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid
from rich.tree import Tree

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.cli import explain, history
from pipedag_dagster.cli.init import init
from pipedag_dagster.cli.options import WORKSPACE, attrs_of, cache_modes, count, where
from pipedag_dagster.cli.roles import roles
from pipedag_dagster.context import PipedagConfig, find_config
from pipedag_dagster.errors import ConfigError, PipedagError, Problem, SeveralFailed
from pipedag_dagster.execution.stage_result import Outcome
from pipedag_dagster.graph.flow import TaskCall
from pipedag_dagster.orchestration.run import Result, execute
from pipedag_dagster.orchestration.table_names import label
from pipedag_dagster.orchestration.workspace import Location, locations, of_instance, refuse_shared_keys
from pipedag_dagster.postgres import embedded
from pipedag_dagster.versions.verify import differences

_PACKAGE = str(Path(__file__).parent.parent)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point: errors of this package become a message and exit code 1."""
    warnings.filterwarnings("ignore", category=BetaWarning)
    try:
        cli(args, standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt, DagsterExecutionInterruptedError):
        click.echo(
            "Interrupted. The stage that was running is as it was before; what its tasks have finished is reused.",
            err=True,
        )
        sys.stdout.flush()
        os._exit(130)  # at once: Python would wait for the tasks that still run in threads
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except PipedagError as error:
        _explain(error)
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pipedag_dagster")
def cli() -> None:
    """Several sizes of one pipeline in Dagster."""


@cli.command(short_help="Run an instance, or some of its tables.")
@click.argument("instance")
@click.option("-s", "--select", help="A stage, stage.table, or Dagster's selection syntax (group:raw+). Default: all.")
@cache_modes
@click.option("--attr", "attrs", multiple=True, metavar="NAME=VALUE", help="Another attr in this run, as YAML.")
@where
def run(
    instance: str,
    select: str | None,
    cache_mode: str | None,
    disable_cache_function: bool,
    ignore_task_version: bool,
    attrs: tuple[str, ...],
    module: str | None,
    workspace: Path,
) -> None:
    """Run INSTANCE, or some of its tables, and show what was done about each table and why."""
    console = Console()
    for location in of_instance(locations(module, workspace), instance):
        selection = location.select(select)
        started = time.monotonic()
        bar = _Bar(location, len(selection))
        with bar.bars:
            result = execute(
                location.definitions,
                location.instance,
                {
                    "cache_validation_mode": cache_mode,
                    "disable_cache_function": disable_cache_function or None,
                    "ignore_task_version": ignore_task_version or None,
                    "attrs": attrs_of(location.instance, attrs),
                },
                selection=selection,
                log_level=logging.CRITICAL,
                progress=bar,
            )
        if result.error is not None:
            raise result.error
        console.print(_summary(location, result, time.monotonic() - started))
        for line in _checks(result.checks):
            console.print(line, soft_wrap=True, highlight=False)


@cli.command("list", short_help="Show instances, stages and committed tables.")
@click.argument("instance", required=False)
@where
def list_(instance: str | None, module: str | None, workspace: Path) -> None:
    """Show the instances, their stages and the committed tables."""
    found = locations(module, workspace)
    tree = Tree("instances")
    for location in of_instance(found, instance) if instance else found:
        _add_instance(tree, location)
    Console().print(tree)


@cli.command(short_help="Name every mistake in configuration and definitions.")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="Check only this configuration.")
@click.option("--database", is_flag=True, help="Compare each instance's catalog with what is in the database, too.")
@where
def check(config: Path | None, database: bool, module: str | None, workspace: Path) -> None:
    """Load the configuration and all definitions, and name every mistake at once."""
    problems: list[str] = []
    console = Console()
    try:
        files = PipedagConfig(config)
        for note in files.notes:
            console.print(note, highlight=False, soft_wrap=True)
        console.print(f"{files.path}: {', '.join(files.instance_names)}", highlight=False, soft_wrap=True)
        for name in files.instance_names:
            problems += _mistakes(partial(files.get, name))
            if database:
                problems += _mistakes(partial(_check_database, files, name, console))
    except ConfigError as error:
        problems += map(str, error.problems)
    if module or (config is None and (workspace.is_file() or workspace != WORKSPACE)):

        def load() -> None:
            found = locations(module, workspace)
            refuse_shared_keys(found)
            for location in found:
                tables = count(len(location.keys()), "table")
                told = f"{location.name}: {location.resource.instance}, {tables}"
                console.print(told, highlight=False, soft_wrap=True)

        problems += _mistakes(load)
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    console.print("Everything is right.")


@cli.command()
def stop() -> None:
    """Stop the embedded PostgreSQL of this project."""
    files = PipedagConfig(find_config())
    project = files.get(files.instance_names[0]).config.project
    stopped = embedded.stop(project)
    click.echo("Stopped." if stopped else "It was not running.")


for command in (*explain.COMMANDS, *history.COMMANDS, init, roles):
    cli.add_command(command)


def _check_database(files: PipedagConfig, instance: str, console: Console) -> None:
    found = differences(files.get(instance).store.table_store)
    for difference in found:
        if difference.harmless:
            console.print(f"{instance}: left over: {difference.message}", highlight=False, soft_wrap=True)
    wrong = [Problem(None, None, f"{instance}: {one.message}") for one in found if not one.harmless]
    if wrong:
        raise ConfigError(wrong)


def _mistakes(load: Callable[[], object]) -> list[str]:
    try:
        load()
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    except PipedagError as error:
        return [str(error)]
    return []


class _Bar:
    """A bar that counts tables, and names the task that started last; lines of text where there is no terminal."""

    def __init__(self, location: Location, total: int) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}"),
        )
        console = Console(stderr=True)
        self.is_live = console.is_terminal
        self.bars = Progress(*columns, console=console, transient=True, disable=not self.is_live)
        self.bar = self.bars.add_task(location.resource.instance, total=total, last="")

    def started(self, call: TaskCall) -> None:
        self.bars.update(self.bar, last=str(call))

    def finished(self, outcome: Outcome) -> None:
        self.bars.update(self.bar, advance=len(outcome.tables))
        if not self.is_live:
            click.echo(f"{outcome.call}: {outcome.reason} ({outcome.seconds:.1f} s)", err=True)

    def message(self, text: str) -> None:
        """The summary says it."""


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
        grid.add_row(f"  {name}", _extent(table), what, duration)
    return grid


def _checks(evaluations: Sequence[AssetCheckEvaluation]) -> Iterator[str]:
    """How many checks passed, and what is wrong where one did not."""
    if evaluations:
        passed = sum(each.passed for each in evaluations)
        yield f"[bold]checks[/]  {passed} of {count(len(evaluations), 'check')} passed"
    for each in evaluations:
        if not each.passed:
            what = "[yellow]warning[/]" if each.severity == AssetCheckSeverity.WARN else "[red]failed[/]"
            table = ".".join(each.asset_key.path[1:])
            yield f"  {escape(table)}: {what}: {escape(each.check_name)}: {escape(each.description or '')}"


def _add_instance(tree: Tree, location: Location) -> None:
    instance = location.instance
    store = instance.store.table_store
    declared: dict[str, list[str]] = {}
    keys = location.keys()
    for key in keys:
        declared.setdefault(key.path[1], []).append(key.path[2])
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
            leaf.add(name if table is None else f"{name}: [dim]{_extent(table, 'row')}[/]")


def _extent(table: TableVersion, noun: str = "") -> str:
    """How many rows; or that it is no table."""
    if not table.in_database:
        return table.kind.name
    return count(table.rows, noun) if noun else f"{table.rows:,}"


def _explain(error: PipedagError) -> None:
    """The message, and the user's own traceback without our frames."""
    console = Console(stderr=True)
    failures = error.failures if isinstance(error, SeveralFailed) else (error,)
    for failure in failures:
        if isinstance(failure.__cause__, Exception):
            ours = traceback.TracebackException.from_exception(failure.__cause__)
            frames = [frame for frame in ours.stack if not _is_ours(frame.filename)]
            if frames:
                ours.stack = traceback.StackSummary.from_list(frames)
                ours.__cause__ = ours.__context__ = None
                console.print("".join(ours.format()), end="", markup=False, highlight=False, soft_wrap=True)
    console.print("[bold red]Error:[/] ", end="")
    for text in (str(error), *getattr(error, "__notes__", ())):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _is_ours(filename: str) -> bool:
    return filename.startswith(_PACKAGE) and not filename.startswith(f"{_PACKAGE}/examples")


if __name__ == "__main__":
    main()
