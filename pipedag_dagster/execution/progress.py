"""Following a stage run while it runs."""

from __future__ import annotations

import logging
from typing import Protocol

from pipedag_dagster.execution.stage_result import Outcome
from pipedag_dagster.graph.flow import TaskCall

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Is told what happens in a stage run, always by the thread that called `run_stage`."""

    def started(self, call: TaskCall) -> None:
        """A call begins: it is decided whether it must run, and it runs if it must."""

    def finished(self, outcome: Outcome) -> None:
        """A call has ended well. One that fails is told by `message`, and `run_stage` raises its error."""

    def message(self, text: str) -> None:
        """Something happened that a person may want to know."""

    def warning(self, text: str) -> None:
        """Something may be wrong."""


class LoggedProgress:
    """Writes the messages to the log of this package."""

    def started(self, call: TaskCall) -> None:
        """The log has a line when it has finished."""

    def finished(self, outcome: Outcome) -> None:
        """Its tables are in messages."""

    def message(self, text: str) -> None:
        log.info("%s", text)

    def warning(self, text: str) -> None:
        log.warning("%s", text)


class FollowedProgress(LoggedProgress):
    """The same, and tells somebody who follows the run."""

    def __init__(self, follower: Progress) -> None:
        self._follower = follower

    def started(self, call: TaskCall) -> None:
        self._follower.started(call)

    def finished(self, outcome: Outcome) -> None:
        self._follower.finished(outcome)

    def message(self, text: str) -> None:
        super().message(text)
        self._follower.message(text)

    def warning(self, text: str) -> None:
        super().warning(text)
        self._follower.warning(text)
