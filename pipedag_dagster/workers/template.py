"""The process from which workers are forked: it has imported the libraries, so a worker starts at once.

It runs as `python -m pipedag_dagster.workers.template`, with a socket to the host as its standard input. Python's own
`multiprocessing` would do the same, but imports the program of the user in each child again.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import select
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from pipedag_dagster.workers.workers import Event, run_entry

FORK, STATUS = b"f", b"s"


def main() -> None:
    """Import what the host has imported. Then fork a worker for each socket that comes from the host, until the host
    ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the host, which ends its workers
    control = socket.socket(fileno=os.dup(0))
    _read_nothing()
    length = int.from_bytes(control.recv(8, socket.MSG_WAITALL), "big")
    path, modules = pickle.loads(control.recv(length, socket.MSG_WAITALL))
    sys.path[:] = path
    for module in modules:
        with contextlib.suppress(BaseException):  # the worker that needs it has the error
            importlib.import_module(module)
    while True:
        message, sockets, _, _ = socket.recv_fds(control, 64, 1)
        if not message:
            os._exit(0)  # the host has ended
        if message == FORK:
            process = os.fork()
            if not process:
                control.close()
                _work(Connection(sockets[0]))
            os.close(sockets[0])
            control.send(process.to_bytes(8, "big"))
        else:
            _, status = os.waitpid(int.from_bytes(message[1:], "big"), 0)
            control.send(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))


def _read_nothing() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _work(host: Connection) -> NoReturn:
    """Do jobs until the host closes the connection, or dies."""
    try:
        threading.Thread(target=_end_with_host, args=[host.fileno()], daemon=True).start()
        folder, path, environment = host.recv()
        os.chdir(folder)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        sending = threading.Lock()

        def send(message: Any) -> None:
            with sending:
                host.send(message)

        def tell(event: Event) -> None:
            send(("event", event))

        while True:
            entry, data = host.recv()
            send(("result", run_entry(entry, data, tell)))
    except (EOFError, OSError):
        os._exit(0)
    finally:
        os._exit(1)


def _end_with_host(channel: int) -> None:
    """A worker whose host is gone stops at once, in the middle of a task: nobody would record what it writes."""
    poll = select.poll()
    poll.register(channel, getattr(select, "POLLRDHUP", 0))
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
