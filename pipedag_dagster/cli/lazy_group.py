"""The commands, each of which is imported when it is called: `--help` imports neither Dagster nor pandas."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import NamedTuple

import click

from pipedag_dagster.errors import did_you_mean

_PACKAGE = "pipedag_dagster.cli"


class CommandEntry(NamedTuple):
    """Where a command is, and its line in the listing of `--help`."""

    module: str
    attribute: str
    short_help: str


COMMANDS = {
    "check": CommandEntry("check", "check", "List every mistake in configuration and definitions."),
    "diff": CommandEntry("diff", "diff", "Compare two instances, or two versions of a stage."),
    "drop": CommandEntry("history", "drop", "Drop everything that an instance owns."),
    "drop-pydiverse": CommandEntry(
        "drop_pydiverse", "drop_pydiverse", "Drop what pydiverse.pipedag has made for an instance."
    ),
    "explain": CommandEntry("explain", "explain", "Show what the last runs did about a table and why, with diffs."),
    "gc": CommandEntry("history", "gc", "Drop old versions that nobody needs."),
    "init": CommandEntry("init", "init", "Make a new project."),
    "keep": CommandEntry("keep", "keep", "Keep some rows in every sample, with everything that belongs to them."),
    "list": CommandEntry("listing", "list_", "Show instances, stages and committed tables."),
    "plan": CommandEntry("explain", "plan", "Show what a run would do and why, without running anything."),
    "repair": CommandEntry("repair", "repair", "Repair what was damaged by hand."),
    "roles": CommandEntry("roles", "roles", "Print the SQL that makes the roles of all instances."),
    "rollback": CommandEntry("history", "rollback", "Make an older version of a stage visible again."),
    "run": CommandEntry("run", "run", "Run an instance, or some of its tables."),
    "sample": CommandEntry("sample", "sample", "Look at the samples of small instances."),
    "show": CommandEntry("show", "show", "Show rows of a committed table."),
    "sql": CommandEntry("sql", "sql", "Query an instance, or start psql on it. Read only."),
    "stop": CommandEntry("stop", "stop", "Stop the embedded PostgreSQL of this project."),
    "unlock": CommandEntry("history", "unlock", "Take the lock of a stage from a run that hangs."),
    "url": CommandEntry("sql", "url", "Print the url of the database of an instance."),
    "versions": CommandEntry("history", "versions", "Show the versions of a stage."),
}


class LazyGroup(click.Group):
    """A group whose listing comes from `COMMANDS`, so that it imports no command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        entry = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"{_PACKAGE}.{entry.module}"), entry.attribute)
        _hide_beta_warnings()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(f"There is no command {args[0]!r}.{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].short_help) for name in self.list_commands(ctx)])


def _hide_beta_warnings() -> None:
    dagster = sys.modules.get("dagster")
    if dagster is not None:
        warnings.filterwarnings("ignore", category=dagster.BetaWarning)
