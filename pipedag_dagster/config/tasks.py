"""The section `tasks`: where the tasks of a stage run."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from pipedag_dagster.config.section import Keys, one_of

PLACES = ("threads", "processes", "dask")
"""Where a task can run."""


_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT]i?)?B", re.IGNORECASE)


def amount(given: object) -> float:
    """How much of a resource there is, or is needed: a number. Sizes are in bytes.

    Raises:
        ValueError: it is neither a number above 0 nor a size.

    >>> amount("8 GiB")
    8589934592.0
    """
    size = _SIZE.fullmatch(given) if isinstance(given, str) else None
    if size is not None:
        unit = (size[2] or "").upper()
        base = 1024 if unit.endswith("I") else 1000
        factor: int = base ** ("KMGT".index(unit[0]) + 1 if unit else 0)
        return float(size[1]) * factor
    if isinstance(given, int | float) and not isinstance(given, bool) and given > 0:
        return float(given)
    raise ValueError(f'must be a number above 0, or a size like "8 GiB", not {given!r}.')


class Tasks(Keys):
    """`tasks: processes`, or `tasks: {on: dask, address: "tcp://scheduler:8786"}`."""

    on: Annotated[str, one_of(PLACES, "there is no place {!r} for tasks.")] = "threads"
    """`threads` of the process that runs the stage, `processes` on the same machine, or the workers of `dask`."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """How many tasks run at the same time; without it, one for each processor."""
    address: str | None = None
    """Of the scheduler of Dask. Without it, a cluster of Dask on this machine."""
    minimum: Annotated[int, Field(ge=0)] | None = None
    """A cluster of Dask on this machine has so many workers when there is little to do, and `workers` at most."""
    resources: dict[str, Annotated[float, BeforeValidator(amount)]] = {}
    """What each worker of a cluster of Dask on this machine has: `gpu: 1`. Tasks ask for it by `resources=`."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return {"on": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _fits(self) -> Tasks:
        if self.on == "dask" and importlib.util.find_spec("distributed") is None:
            raise ValueError("Dask is not installed: pip install 'pipedag_dagster[dask]'.")
        if self.on == "processes" and not hasattr(os, "fork"):
            raise ValueError("processes needs fork, which Windows does not have. Write tasks: dask.")
        if self.on == "threads" and self.workers is not None:
            raise ValueError("workers: tasks run on threads here, and max_concurrent says how many do. Or write on: …")
        if self.on != "dask" and (self.address or self.minimum is not None or self.resources):
            raise ValueError("address, minimum and resources are for `on: dask`.")
        if self.address is not None and (self.minimum is not None or self.resources):
            raise ValueError("the cluster at an address has its own workers: leave minimum and resources out.")
        if self.minimum is not None and self.minimum > self.count:
            raise ValueError(f"minimum is {self.minimum}, but there are at most {self.count} workers.")
        return self

    @property
    def count(self) -> int:
        """How many tasks run at the same time."""
        if self.workers is not None:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
