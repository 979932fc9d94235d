"""Logging set up for scripts."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.logging import RichHandler


def setup_logging(level: int | str = logging.INFO, *, log_level: int | str | None = None) -> None:
    """Show what this package does on the console. Leave it out where logging is set up already.

    Args:
        level: of this package's messages; everything else is shown from WARNING on.
        log_level: another name for `level`, which pydiverse.common has.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, markup=False)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", datefmt="[%X]", handlers=[handler])
    else:  # a file or a pipe: one line for each message, however long
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)-8s %(message)s", datefmt="%X")
    logging.getLogger("pipedag_dagster").setLevel(level if log_level is None else log_level)
