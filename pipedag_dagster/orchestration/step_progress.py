"""The progress of a step: in Dagster's log, and for whoever runs the flow in this process."""

from __future__ import annotations

import time
from contextvars import ContextVar

import dagster as dg

from pipedag_dagster.catalog.reason import Reason
from pipedag_dagster.execution.progress import Progress
from pipedag_dagster.execution.stage_result import Outcome
from pipedag_dagster.graph.flow import TaskCall

observer: ContextVar[Progress | None] = ContextVar("observer", default=None)
"""Set around a run in this process, when somebody follows it."""

_QUIET = 10  # seconds between two lines about rows that are being sent


class StepProgress:
    """Writes messages to the log of a step, and tells the observer of the run, if there is one."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self._log = log
        self._observer = observer.get()
        self._begun: dict[TaskCall, float] = {}
        self._told: dict[TaskCall, float] = {}

    def started(self, call: TaskCall) -> None:
        if self._observer is not None:
            self._observer.started(call)

    def running(self, call: TaskCall, reason: Reason) -> None:
        self._log.info(f"{call}: started: {reason}")
        self._begun[call] = self._told[call] = time.monotonic()
        if self._observer is not None:
            self._observer.running(call, reason)

    def sent(self, call: TaskCall, rows: int) -> None:
        now = time.monotonic()
        if now - self._told[call] >= _QUIET:  # each line is an entry in Dagster's event log
            self._told[call] = now
            self._log.info(f"{call}: {rows:,} rows sent after {now - self._begun[call]:.0f} s")
        if self._observer is not None:
            self._observer.sent(call, rows)

    def failed(self, call: TaskCall) -> None:
        self._log.info(f"{call}: failed")
        if self._observer is not None:
            self._observer.failed(call)

    def finished(self, outcome: Outcome) -> None:
        if self._observer is not None:
            self._observer.finished(outcome)

    def message(self, text: str) -> None:
        self._log.info(text)
        if self._observer is not None:
            self._observer.message(text)

    def warning(self, text: str) -> None:
        self._log.warning(text)  # Dagster shows it on the console too
        if self._observer is not None:
            self._observer.warning(text)
