"""The progress of a step: in Dagster's log, and for whoever runs the flow in this process."""

from __future__ import annotations

from contextvars import ContextVar

import dagster as dg

from pipedag_dagster.execution.progress import Progress
from pipedag_dagster.execution.stage_result import Outcome
from pipedag_dagster.graph.flow import TaskCall

observer: ContextVar[Progress | None] = ContextVar("observer", default=None)
"""Set around a run in this process, when somebody follows it."""


class StepProgress:
    """Writes messages to the log of a step, and tells the observer of the run, if there is one."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self._log = log
        self._observer = observer.get()

    def started(self, call: TaskCall) -> None:
        if self._observer is not None:
            self._observer.started(call)

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
