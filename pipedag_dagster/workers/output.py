"""What a job prints and logs: it is sent to the host, line by line, and shown there.

A worker may do several jobs at a time, in threads. So what is printed is told to whoever is set in the context; threads
that a job starts print where the worker prints.
"""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from pipedag_dagster.workers.workers import Tell

LINE, RECORD = "line", "record"

_told: ContextVar[_Lines | None] = ContextVar("told", default=None)


class _Lines:
    """Sends a text line by line, each when it is complete."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self._rest = ""

    def write(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self.tell((LINE, line))

    def end(self) -> None:
        if self._rest:
            self.write("\n")


class _Stream(io.TextIOBase):
    """Standard output or error of a worker."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        (_told.get() or self.own).write(text)
        return len(text)

    def flush(self) -> None:
        self.own.flush()

    def fileno(self) -> int:
        number: int = self.own.fileno()
        return number


class _Records(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, with its message and traceback as text: their objects may be anything."""
        lines = _told.get()
        if lines is None:
            return
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        plain = {name: value for name, value in vars(record).items() if _is_plain(value)}
        lines.tell((RECORD, {**plain, "msg": message, "args": None, "exc_info": None}))


def _is_plain(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


@contextlib.contextmanager
def sent(tell: Tell, levels: Mapping[str, int]) -> Iterator[None]:
    """Within it, what this thread prints and logs is told as events.

    Args:
        levels: the levels of loggers by name, as the host has them.
    """
    if not isinstance(sys.stdout, _Stream):
        sys.stdout, sys.stderr = _Stream(sys.stdout), _Stream(sys.stderr)
        logging.getLogger().addHandler(_Records())
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    lines = _Lines(tell)
    token = _told.set(lines)
    try:
        yield
    finally:
        _told.reset(token)
        lines.end()


def levels() -> dict[str, int]:
    """The levels of the loggers of this process that have one."""
    loggers = list(logging.root.manager.loggerDict.items())
    own = {name: logger.level for name, logger in loggers if isinstance(logger, logging.Logger) and logger.level}
    return {"": logging.root.level, **own}


def handle(fields: Mapping[str, Any]) -> None:
    """Hand a record that a worker has sent to the loggers of this process."""
    record = logging.makeLogRecord(dict(fields))
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
