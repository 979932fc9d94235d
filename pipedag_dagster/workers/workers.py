"""What all kinds of workers can do."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pipedag_dagster.fingerprint.module_origin import in_library

Event: TypeAlias = tuple[str, Any]
"""Something that happens while a job runs: what it is, and a value that can be pickled."""
Tell: TypeAlias = Callable[[Event], None]
DIED = "died"
"""The event that says in a sentence what is wrong with the workers, while the job goes on."""


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        entry: the function that does it, as `module:function`. It gets `data` and a function that takes events.
        name: for messages.
        resources: what the worker must have, by name: `{"gpu": 1}`.
    """

    entry: str
    data: bytes
    name: str
    resources: Mapping[str, float] = field(default_factory=dict)


class Workers(Protocol):
    """Workers that take jobs. Safe to use from several threads."""

    def run(self, job: Job, tell: Tell) -> bytes:
        """Do a job. Waits until a worker is free, and until the job is done. When the worker dies, another one tries.

        Args:
            tell: is called with each event, in any thread.

        Raises:
            WorkerLost: workers died, or none can be reached.
        """

    def close(self) -> None:
        """End what they do for the run, also in the middle of a job."""


def run_entry(entry: str, data: bytes, tell: Tell) -> bytes:
    """Do a job here: what every kind of worker calls."""
    module, _, function = entry.partition(":")
    result: bytes = getattr(importlib.import_module(module), function)(data, tell)
    return result


def importable() -> dict[str, str]:
    """The environment in which another process of this machine can import what this one can."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def import_path() -> list[str]:
    """Where the user's modules are found that this process has imported: in `sys.path`, or where it pointed to before.
    Dagster extends it only while it loads a module."""
    folders = list(sys.path)
    for name, module in sys.modules.copy().items():
        file = getattr(module, "__file__", None)
        if file is not None and name != "__main__" and not in_library(file):
            path = Path(file)
            depth = name.count(".") + (path.stem == "__init__")
            folders.append(str(path.parents[min(depth, len(path.parents) - 1)]))
    return list(dict.fromkeys(folders))
