"""The progress of a step in Dagster's log, and who else follows it."""

from __future__ import annotations

import time
from contextvars import ContextVar

import dagster as dg

from pipedag_dagster.catalog.reason import Reason
from pipedag_dagster.execution.progress import LoggedProgress, Progress
from pipedag_dagster.graph.flow import TaskCall

observer: ContextVar[Progress | None] = ContextVar("observer", default=None)
"""Set around a run in this process, when somebody follows it."""

_QUIET = 10  # seconds between two lines about rows that are being sent


class StepProgress(LoggedProgress):
    """Writes to the log of a step, of which each line is an entry in Dagster's event log."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        super().__init__(log)
        self._begun: dict[TaskCall, float] = {}
        self._told: dict[TaskCall, float] = {}

    def running(self, call: TaskCall, reason: Reason) -> None:
        super().running(call, reason)
        self._begun[call] = self._told[call] = time.monotonic()

    def sent(self, call: TaskCall, rows: int) -> None:
        now = time.monotonic()
        if now - self._told[call] >= _QUIET:
            self._told[call] = now
            self.log.info(f"{call}: {rows:,} rows sent after {now - self._begun[call]:.0f} s")
