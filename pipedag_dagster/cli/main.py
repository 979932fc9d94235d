"""The command `pipedag-dagster`."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import click
from dagster import BetaWarning, DagsterExecutionInterruptedError
from rich.console import Console

from pipedag_dagster.cli import explain, history
from pipedag_dagster.cli.check import check
from pipedag_dagster.cli.init import init
from pipedag_dagster.cli.keep import keep
from pipedag_dagster.cli.listing import list_
from pipedag_dagster.cli.repair import repair
from pipedag_dagster.cli.roles import roles
from pipedag_dagster.cli.run import run
from pipedag_dagster.cli.sample import sample
from pipedag_dagster.context import PipedagConfig, find_config
from pipedag_dagster.errors import PipedagError, SeveralFailed
from pipedag_dagster.postgres import embedded

_PACKAGE = str(Path(__file__).parent.parent)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point. An error of this package is printed as a message, with exit code 1."""
    warnings.filterwarnings("ignore", category=BetaWarning)
    try:
        cli(args, standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt, DagsterExecutionInterruptedError):
        click.echo(
            "Interrupted. The stage that was running is unchanged, and the results of its finished tasks are reused.",
            err=True,
        )
        sys.stdout.flush()
        os._exit(130)  # at once: otherwise Python would wait for tasks that still run in threads
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except PipedagError as error:
        _print_error(error)
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pipedag_dagster")
def cli() -> None:
    """Several sizes of one pipeline in Dagster."""


@cli.command()
def stop() -> None:
    """Stop the embedded PostgreSQL of this project."""
    files = PipedagConfig(find_config())
    project = files.get(files.instance_names[0]).config.project
    stopped = embedded.stop(project)
    click.echo("Stopped." if stopped else "It was not running.")


for command in (run, list_, check, *explain.COMMANDS, *history.COMMANDS, init, keep, repair, roles, sample):
    cli.add_command(command)


def _print_error(error: PipedagError) -> None:
    """Print the message, and the traceback of the user's own exception without the frames of this package."""
    console = Console(stderr=True)
    failures = error.failures if isinstance(error, SeveralFailed) else (error,)
    for failure in failures:
        if isinstance(failure.__cause__, Exception):
            own = traceback.TracebackException.from_exception(failure.__cause__)
            frames = [frame for frame in own.stack if not _is_ours(frame.filename)]
            if frames:
                own.stack = traceback.StackSummary.from_list(frames)
                own.__cause__ = own.__context__ = None
                console.print("".join(own.format()), end="", markup=False, highlight=False, soft_wrap=True)
    console.print("[bold red]Error:[/] ", end="")
    for text in (str(error), *getattr(error, "__notes__", ())):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _is_ours(filename: str) -> bool:
    return filename.startswith(_PACKAGE) and not filename.startswith(f"{_PACKAGE}/examples")


if __name__ == "__main__":
    main()
