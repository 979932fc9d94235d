"""One run at a time writes a stage: a session-level advisory lock, which the database releases by itself when
the process that holds it dies."""

from __future__ import annotations

import datetime
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from pipedag_dagster.errors import ConnectionLost, DatabaseError, RunActive
from pipedag_dagster.postgres.database import Database

log = logging.getLogger(__name__)

_POLL = 0.1  # seconds; a wait in the database could not be interrupted


@dataclass(frozen=True)
class StageLock:
    """The lock of a stage.

    `schema` is where its tables are, `what` names it for people, and `free` is the command that takes it from a run
    that hangs.
    """

    schema: str
    what: str
    free: str

    @property
    def key(self) -> str:
        return f"pipedag:{self.schema}"


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. `since` is None where this login may not know it."""

    backend: int
    name: str
    since: datetime.datetime | None = field(compare=False)

    def __str__(self) -> str:
        return self.name + (f", which holds its lock since {self.since:%Y-%m-%d %H:%M:%S}" if self.since else "")


@contextmanager
def hold(
    database: Database,
    lock: StageLock,
    run_id: str,
    *,
    timeout: float | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[Callable[[], None]]:
    """Hold the lock of a stage. A waiting run says whom it waits for, in the log and to `tell`.

    Args:
        timeout: how many seconds to wait at most.

    Yields a check, to be called before something is made visible: it raises ConnectionLost when the lock was lost
    together with its connection, because another run may write the stage by now.

    Raises:
        RunActive: another run still holds it after `timeout`.
    """
    host = socket.gethostname()
    name = f"pipedag run {run_id[:8]} (process {os.getpid()} on {host}"[:62] + ")"
    with database.connect(name) as connection:
        with database.told():
            connection.execute(_STAY)
            started, told = time.monotonic(), None
            while connection.execute(_TAKE, (lock.key,)).fetchone() != (True,):
                holder = holder_of(connection, lock)
                if timeout is not None and time.monotonic() - started >= timeout:
                    raise RunActive(
                        f"{lock.what} is being written by {holder or 'another run'}, and lock_timeout is "
                        f"{timeout:g} s. Nothing was done. Run it again when that run has ended. If it hangs, stop its "
                        f"process, or: {lock.free}"
                    )
                if holder and holder != told:
                    message = f"{lock.what}: waiting for {holder}. If it hangs, stop its process, or: {lock.free}"
                    log.warning("%s", message)
                    if tell is not None:
                        tell(message)
                    told = holder
                time.sleep(_POLL)

        def check() -> None:
            try:
                connection.execute("SELECT 1")
            except psycopg.OperationalError:
                raise ConnectionLost(
                    f"The connection that held the lock of {lock.what} was cut, and the lock is lost. Nothing was "
                    "committed. Run it again: what was staged is reused."
                ) from None

        yield check


def take_all(connection: psycopg.Connection[tuple[object, ...]], locks: Iterable[StageLock]) -> None:
    """Take all these locks, without waiting. They are held until the connection ends.

    Raises:
        RunActive: a run holds one of them; it is named.
    """
    for lock in locks:
        if connection.execute(_TAKE, (lock.key,)).fetchone() != (True,):
            holder = holder_of(connection, lock) or "another run"
            raise RunActive(
                f"Nothing was done: {lock.what} is being written by {holder}. Wait for it. If it hangs, stop its "
                f"process, or: {lock.free}"
            )


def holder_of(connection: psycopg.Connection[tuple[object, ...]], lock: StageLock) -> Holder | None:
    """Who holds the lock, if anybody does."""
    row = connection.execute(_HOLDER, (lock.key,)).fetchone()
    return None if row is None else Holder(*row)  # type: ignore[arg-type]


def take_away(connection: psycopg.Connection[tuple[object, ...]], lock: StageLock, holder: Holder) -> bool:
    """Cut the connection of whoever holds the lock. That run cannot commit any more; it fails when it tries to.

    Returns False when it did not hold the lock any more.

    Raises:
        DatabaseError: this login may not do so.
    """
    if holder_of(connection, lock) != holder:
        return False
    try:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (holder.backend,))
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(
            f"{lock.what}: this login may not cut the connection of {holder}: {str(error).strip()}. Stop its process, "
            f"or let an administrator run: SELECT pg_terminate_backend({holder.backend});"
        ) from None
    return True


# The connection is idle for as long as the stage runs. A server that ends idle sessions must leave it alone; but
# when the machine at its other end is gone, the lock should be free within two minutes, not hours.
_STAY = (
    "SET idle_session_timeout = 0; SET tcp_keepalives_idle = 60; SET tcp_keepalives_interval = 10; "
    "SET tcp_keepalives_count = 6"
)

_TAKE = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"

# It has been idle since it took the lock.
_HOLDER = """
    SELECT a.pid, a.application_name, coalesce(a.state_change, a.backend_start)
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(%s, 0)
"""
