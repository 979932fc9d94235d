"""What the commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from pipedag_dagster.config.instances import CacheMode

WORKSPACE = Path("workspace.yaml")


def where(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which definitions a command is about."""
    command = click.option("-m", "--module", help="Module with the definitions, instead of a workspace.")(command)
    workspace = click.option("-w", "--workspace", type=click.Path(path_type=Path), default=WORKSPACE, show_default=True)
    return workspace(command)


def cache_modes(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say how much of the cache one run believes."""
    modes = [mode.value for mode in CacheMode]
    text = f"Replaces the instance's own mode in this run: {', '.join(modes)}."
    options = (
        click.option("--cache-mode", type=click.Choice(modes), metavar="MODE", help=text),
        click.option("--disable-cache-function", is_flag=True, help="Do not call cache functions in this run."),
        click.option("--ignore-task-version", is_flag=True, help="Run tasks with a version in this run."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def count(number: int, noun: str) -> str:
    """
    >>> count(2, "table")
    '2 tables'
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
