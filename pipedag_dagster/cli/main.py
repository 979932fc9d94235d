"""The command `pipedag-dagster`."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from pipedag_dagster.cli.lazy_group import LazyGroup
from pipedag_dagster.errors import PipedagError, failures_in

_log = logging.getLogger("pipedag_dagster")


def main(args: Sequence[str] | None = None) -> None:
    """Entry point. An error of this package is printed as a message, with exit code 1."""
    try:
        cli(args, standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _interrupted()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except PipedagError as error:
        if _log.isEnabledFor(logging.DEBUG):
            traceback.print_exception(error)
        print_error(error)
        sys.exit(1)
    except BaseException as error:
        dagster = sys.modules.get("dagster")  # not imported for this: most commands do not load Dagster
        if dagster is not None and isinstance(error, dagster.DagsterExecutionInterruptedError):
            _interrupted()
        raise


_EPILOG = """\b
Exit codes:
  0    done
  1    an error, or what --check or --exit-code asks for; the message says what to do
  2    a wrong option or argument; for diff --exit-code, any error
  130  interrupted

\b
Environment variables:
  PIPEDAG_CONFIG      the configuration: a folder or a file
  PIPEDAG_WORKSPACE   as --workspace
  PIPEDAG_MODULE      as --module
  DAGSTER_HOME        runs are part of the history that Dagster keeps there
  NO_COLOR            no colors
"""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(package_name="pipedag_dagster")
@click.option("-v", "--verbose", is_flag=True, help="Log what is done, and print whole tracebacks.")
def cli(verbose: bool) -> None:
    """Several sizes of one pipeline in Dagster."""
    _log.setLevel(logging.DEBUG if verbose else logging.NOTSET)
    if verbose:
        logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")


def _interrupted() -> NoReturn:
    click.echo(
        "Interrupted. The stage that was running is unchanged, and the results of its finished tasks are reused.",
        err=True,
    )
    sys.stdout.flush()
    os._exit(130)  # at once: otherwise Python would wait for tasks that still run in threads


def print_error(error: PipedagError) -> None:
    """Print the message, and the traceback of the user's own exception with the frames of the user's own code."""
    # Only when there is something to print: importing these takes a while.
    from rich.console import Console  # noqa: PLC0415

    from pipedag_dagster.execution.user_frames import user_traceback  # noqa: PLC0415

    console = Console(stderr=True)
    for failure in failures_in(error):
        if isinstance(failure.__cause__, Exception):
            lines = user_traceback(failure.__cause__)
            console.print(lines, end="", markup=False, highlight=False, soft_wrap=True)
    console.print("[bold red]Error:[/] ", end="")
    for text in (str(error), *error.notes):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
