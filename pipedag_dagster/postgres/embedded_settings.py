"""The settings of the embedded server: for large tables that are written once, on one machine.

They are in a file of their own, `pipedag.conf`, which the last line of `postgresql.conf` includes. A user's own
settings win: with ALTER SYSTEM, in lines below that one, and in lines above it that differ from what `initdb` wrote.
"""

from __future__ import annotations

import re
from pathlib import Path

FILE = "pipedag.conf"
_INCLUDE = f"include_if_exists = '{FILE}'  # pipedag_dagster; your own settings win when they are below"
_HEADER = "# Written by pipedag_dagster at each start. Put your own settings below the last line of postgresql.conf.\n"
SETTINGS = {
    # No WAL for the rows of a table that is written in the transaction that makes it: all of ours are.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # A checkpoint in the middle of a large table writes its pages twice.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "shared_buffers": "256MB",
    # Primary keys are built after the rows are there.
    "maintenance_work_mem": "256MB",
    # It compiles each query on tables that it thinks large, which takes longer than most of ours run.
    "jit": "off",
    # Each table that a commit or a clean-up touches takes a place.
    "max_locks_per_transaction": "256",
}
_OF_INITDB = {"shared_buffers": "128MB", "max_wal_size": "1GB"}
"""What `initdb` writes into postgresql.conf."""


def write(data: Path) -> bool:
    """Write the settings into the data folder of a server. Some count only from its next start on.

    Returns:
        Whether anything was changed.
    """
    main = data / "postgresql.conf"
    text = main.read_text()
    before, include, _ = text.partition(_INCLUDE)
    if not include:
        with main.open("a") as file:
            file.write(f"\n{_INCLUDE}\n")
    own = _differing(before)
    lines = [f"{name} = '{value}'\n" for name, value in SETTINGS.items() if name not in own]
    settings = "".join([_HEADER, *lines])
    file_of_ours = data / FILE
    if include and file_of_ours.exists() and file_of_ours.read_text() == settings:
        return False
    file_of_ours.write_text(settings)
    return True


def _differing(text: str) -> set[str]:
    """The names that a user has set to other values than `initdb` does."""
    set_by_name = {name.lower(): value for name, value in re.findall(r"(?m)^\s*(\w+)\s*=?\s*'?([^'#\s]*)", text)}
    return {name for name, value in set_by_name.items() if _OF_INITDB.get(name) != value}
