"""`pipedag-dagster check`: every mistake in configuration and definitions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from pipedag_dagster.cli.options import count, json_option, print_json, where
from pipedag_dagster.context import PipedagConfig
from pipedag_dagster.errors import ConfigError, PipedagError, Problem
from pipedag_dagster.orchestration.workspace import WORKSPACE, locations, refuse_shared_keys
from pipedag_dagster.versions.verify import differences


@click.command(short_help="List every mistake in configuration and definitions.")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="Check only this configuration.")
@click.option("--database", is_flag=True, help="Compare the catalog of each instance with the database, too.")
@click.option("--content", is_flag=True, help="As --database, but read all tables, too, and find changed rows.")
@json_option
@where
def check(
    config: Path | None, database: bool, content: bool, as_json: bool, module: str | None, workspace: Path
) -> None:
    """Load the configuration and all definitions, and list every mistake.

    \b
    Examples:
        pipedag-dagster check
        pipedag-dagster check --database --content
    """
    problems: list[str] = []
    console = Console(stderr=as_json)
    try:
        files = PipedagConfig(config)
        for note in files.notes:
            console.print(note, highlight=False, soft_wrap=True)
        console.print(f"{files.path}: {', '.join(files.instance_names)}", highlight=False, soft_wrap=True)
        problems += _mistakes(files.check)
        for name in files.instance_names:
            problems += _mistakes(partial(files.get, name))
            if database or content:
                problems += _mistakes(partial(_check_database, files, name, console, content=content))
    except ConfigError as error:
        problems += map(str, error.problems)
    if module or (config is None and (workspace.is_file() or workspace != WORKSPACE)):
        problems += _mistakes(partial(_check_definitions, module, workspace, console))
    problems = list(dict.fromkeys(problems))
    if as_json:
        print_json({"problems": problems})
        sys.exit(1 if problems else 0)
    if problems:
        raise ConfigError("\n".join(problems))
    console.print("Everything is right.")


def _check_database(files: PipedagConfig, instance: str, console: Console, *, content: bool) -> None:
    listed = differences(files.get(instance).store.table_store, content=content)
    for difference in listed:
        if difference.harmless:
            console.print(f"{instance}: left over: {difference.message}", highlight=False, soft_wrap=True)
    wrong = (difference.message for difference in listed if not difference.harmless)
    mistakes = [Problem(None, None, f"{instance}: {message}") for message in wrong]
    if mistakes:
        raise ConfigError(mistakes)


def _check_definitions(module: str | None, workspace: Path, console: Console) -> None:
    from pipedag_dagster.orchestration.unloadable import refuse_unloadable  # noqa: PLC0415  # imports Dagster

    loaded = locations(module, workspace, checked=True)
    refuse_shared_keys(loaded)
    for location in loaded:
        refuse_unloadable(location)
        text = f"{location.name}: {location.instance.config.name}, {count(len(location.tables()), 'table')}"
        console.print(text, highlight=False, soft_wrap=True)


def _mistakes(load: Callable[[], object]) -> list[str]:
    """The mistakes that `load` raises."""
    try:
        load()
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    except PipedagError as error:
        return [str(error)]
    return []
