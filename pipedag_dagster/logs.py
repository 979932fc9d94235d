"""Logging set up for scripts."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.logging import RichHandler


def setup_logging(level: int | str = logging.INFO) -> None:
    """Show what this package does on the console. Leave it out where logging is set up already.

    Args:
        level: of this package's messages; everything else is shown from WARNING on.
    """
    handler = RichHandler(console=Console(stderr=True), show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", datefmt="[%X]", handlers=[handler])
    logging.getLogger("pipedag_dagster").setLevel(level)
