"""Following a stage run while it runs."""

from __future__ import annotations

import logging
from typing import Protocol

from pipedag_dagster.catalog.reason import Reason
from pipedag_dagster.execution.stage_result import Outcome
from pipedag_dagster.graph.flow import TaskCall

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Is told what happens in a stage run, always by the thread that called `run_stage`."""

    def started(self, call: TaskCall) -> None:
        """A call begins: it is decided whether it must run, and it runs if it must."""

    def running(self, call: TaskCall, reason: Reason) -> None:
        """The call must run, and does so now."""

    def sent(self, call: TaskCall, rows: int) -> None:
        """So many rows of a table of the call have been sent to the database so far."""

    def finished(self, outcome: Outcome) -> None:
        """A call has ended well."""

    def failed(self, call: TaskCall) -> None:
        """A call has failed. `run_stage` raises its error."""

    def message(self, text: str) -> None:
        """Something happened that a person may want to know."""

    def warning(self, text: str) -> None:
        """Something may be wrong."""


class LoggedProgress:
    """Writes the messages to the log of this package."""

    def started(self, call: TaskCall) -> None:
        """The log has a line when it has to run."""

    def running(self, call: TaskCall, reason: Reason) -> None:
        log.info("%s: started: %s", call, reason)

    def sent(self, call: TaskCall, rows: int) -> None:
        """The log has the number when all rows are sent."""

    def failed(self, call: TaskCall) -> None:
        log.info("%s: failed", call)

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

    def running(self, call: TaskCall, reason: Reason) -> None:
        super().running(call, reason)
        self._follower.running(call, reason)

    def sent(self, call: TaskCall, rows: int) -> None:
        self._follower.sent(call, rows)

    def failed(self, call: TaskCall) -> None:
        super().failed(call)
        self._follower.failed(call)

    def finished(self, outcome: Outcome) -> None:
        self._follower.finished(outcome)

    def message(self, text: str) -> None:
        super().message(text)
        self._follower.message(text)

    def warning(self, text: str) -> None:
        super().warning(text)
        self._follower.warning(text)
