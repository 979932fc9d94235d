"""The promises of docs/store.md, proven by breaking things on purpose.

`make test` runs a short form of each, `make torture` a long one. Both print for each promise how often it was tried
and how often it was broken.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

LONG = os.environ.get("PIPEDAG_TORTURE") == "long"


def tries(short: int, long: int) -> int:
    """How often to try, in this form."""
    return long if LONG else short


@dataclass
class Count:
    """What became of one promise. `note` says what was counted besides."""

    promise: str
    tries: int = 0
    violations: int = 0
    note: str = ""


COUNTS: list[Count] = []


def count(promise: str) -> Count:
    """A line of the table that is printed at the end."""
    COUNTS.append(Count(promise))
    return COUNTS[-1]
