"""Workers on this machine: processes that are forked from a template."""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from pipedag_dagster.errors import WorkerLost
from pipedag_dagster.fingerprint.module_origin import in_library
from pipedag_dagster.workers.template import FORK, STATUS
from pipedag_dagster.workers.workers import DIED, Job, Tell, import_path, importable

ATTEMPTS = 3
"""So many workers may die of one job before it fails."""


class ProcessWorkers:
    """Up to `count` processes. Each is started when a job needs it, and does one job at a time.

    Raises:
        WorkerLost: (by `run`) the job has ended `ATTEMPTS` workers.
    """

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._is_closed = False

    def run(self, job: Job, tell: Tell) -> bytes:
        with self._free:
            for attempt in range(1, ATTEMPTS + 1):
                worker = self._idle.pop() if self._idle else self._start()
                try:
                    result = worker.run(job, tell)
                except (EOFError, OSError):
                    self._workers.discard(worker)
                    if self._is_closed:
                        raise WorkerLost(f"{job.name}: the run has ended its process.") from None
                    ended = worker.how_it_ended()
                    tell((DIED, f"its process {ended}, attempt {attempt} of {ATTEMPTS}"))
                else:
                    self._idle.append(worker)
                    return result
        raise WorkerLost(
            f"{job.name}: {ATTEMPTS} processes ended while they ran it; the last one {ended}. If the machine has too "
            "little memory, lower tasks.workers. To see where it ends, run it with @materialize(run_on='threads')."
        )

    def close(self) -> None:
        """End all workers, also in the middle of a job."""
        self._is_closed = True
        for worker in list(self._workers):
            worker.kill()
        self._workers.clear()

    def _start(self) -> _Worker:
        worker = _Worker(*_fork())
        self._workers.add(worker)
        if self._is_closed:
            worker.kill()
        return worker


class _Worker:
    """One process."""

    def __init__(self, process: int, channel: Connection) -> None:
        self.process, self._channel = process, channel
        channel.send((str(Path.cwd()), import_path(), dict(os.environ)))

    def run(self, job: Job, tell: Tell) -> bytes:
        """
        Raises:
            EOFError, OSError: the process has ended.
        """
        self._channel.send((job.entry, job.data))
        while True:
            kind, value = self._channel.recv()
            if kind == "result":
                result: bytes = value
                return result
            tell(value)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)

    def how_it_ended(self) -> str:
        self.kill()  # it may have closed the connection only
        code = _template().status(self.process)
        if code is None:
            return "ended"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class _Template:
    """The process from which workers are forked (see `template`)."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "pipedag_dagster.workers.template"]
        with theirs:
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), env={**os.environ, **importable()})
        self._control, self._lock = ours, threading.Lock()
        setup = pickle.dumps((sys.path, list(_libraries())))
        ours.sendall(len(setup).to_bytes(8, "big") + setup)

    def fork(self) -> tuple[int, Connection]:
        """A new worker: its process id, and the connection to it.

        Raises:
            OSError: the template has ended.
        """
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            socket.send_fds(self._control, [FORK], [theirs.fileno()])
            answer = self._answer()
        return int.from_bytes(answer, "big"), Connection(ours.detach())

    def status(self, process: int) -> int | None:
        """The exit code of a worker that has ended; None when nobody knows it."""
        try:
            with self._lock:
                self._control.sendall(STATUS + process.to_bytes(8, "big"))
                return int.from_bytes(self._answer(), "big", signed=True)
        except OSError:
            return None

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._control.close()
        self._process.wait()

    def _answer(self) -> bytes:
        answer = self._control.recv(8, socket.MSG_WAITALL)
        if not answer:
            raise BrokenPipeError("the template has ended")
        return answer


def _libraries() -> Iterable[str]:
    """The modules of libraries that this process has loaded. Those of the user each worker imports itself: they may
    have changed since. Dagster is left out, because tasks do without it."""
    for name, module in sys.modules.copy().items():
        file = getattr(module, "__file__", None)
        is_dagster = name.partition(".")[0].startswith("dagster")
        if file is not None and name != "__main__" and not is_dagster and in_library(file):
            yield name


_current: list[_Template] = []
_starting = threading.Lock()


def _template() -> _Template:
    """The template of this process. It is started when it is first needed, and again when it was killed."""
    with _starting:
        if not _current or not _current[0].is_alive():
            _current[:] = [_Template()]
        return _current[0]


def _fork() -> tuple[int, Connection]:
    """A new worker: its process id, and the connection to it."""
    template = _template()
    try:
        return template.fork()
    except OSError:  # it was killed just now
        template.close()
        return _template().fork()


@atexit.register
def _close() -> None:
    while _current:
        _current.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_current.clear)  # a child of this process must not talk to its template
