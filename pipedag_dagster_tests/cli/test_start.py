"""What the command imports before it knows what to do."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from pipedag_dagster.cli.lazy_group import COMMANDS
from pipedag_dagster.cli.main import cli

_HEAVY = ("dagster", "pandas", "polars", "pyarrow", "sqlalchemy")


@pytest.mark.parametrize(
    "code",
    ["import pipedag_dagster", "from pipedag_dagster.cli.main import cli; cli(['--help'], standalone_mode=False)"],
    ids=["import", "help"],
)
def test_start_imports_nothing_large(code: str) -> None:
    script = f"{code}\nimport sys\nprint('loaded:', [name for name in {_HEAVY} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_listing_shows_the_short_help_of_the_command(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert (command.name, command.short_help) == (name, COMMANDS[name].short_help)
