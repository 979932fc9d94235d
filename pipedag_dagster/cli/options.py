"""What the commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

WORKSPACE = Path("workspace.yaml")


def where(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which definitions a command is about."""
    command = click.option("-m", "--module", help="Module with the definitions, instead of a workspace.")(command)
    workspace = click.option("-w", "--workspace", type=click.Path(path_type=Path), default=WORKSPACE, show_default=True)
    return workspace(command)


def count(number: int, noun: str) -> str:
    """
    >>> count(2, "table")
    '2 tables'
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
