"""Following a stage run while it runs."""

from __future__ import annotations

import logging

from pipedag_dagster.catalog.reason import Reason
from pipedag_dagster.execution.stage_result import Outcome
from pipedag_dagster.graph.flow import TaskCall

log = logging.getLogger(__name__)


class Progress:
    """Is told what happens in a stage run, always by the thread that called `run_stage`. What a subclass does not
    define does nothing."""

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


class LoggedProgress(Progress):
    """Writes what happens to a log. The tables of a call that has ended are in messages."""

    def __init__(self, log: logging.Logger = log) -> None:
        self.log = log

    def running(self, call: TaskCall, reason: Reason) -> None:
        self.log.info(f"{call}: started: {reason}")

    def failed(self, call: TaskCall) -> None:
        self.log.info(f"{call}: failed")

    def message(self, text: str) -> None:
        self.log.info(text)

    def warning(self, text: str) -> None:
        self.log.warning(text)


class SharedProgress(Progress):
    """Tells several followers what happens, in their order."""

    def __init__(self, *followers: Progress | None) -> None:
        self._followers = [follower for follower in followers if follower is not None]

    def started(self, call: TaskCall) -> None:
        for follower in self._followers:
            follower.started(call)

    def running(self, call: TaskCall, reason: Reason) -> None:
        for follower in self._followers:
            follower.running(call, reason)

    def sent(self, call: TaskCall, rows: int) -> None:
        for follower in self._followers:
            follower.sent(call, rows)

    def finished(self, outcome: Outcome) -> None:
        for follower in self._followers:
            follower.finished(outcome)

    def failed(self, call: TaskCall) -> None:
        for follower in self._followers:
            follower.failed(call)

    def message(self, text: str) -> None:
        for follower in self._followers:
            follower.message(text)

    def warning(self, text: str) -> None:
        for follower in self._followers:
            follower.warning(text)
