"""One run at a time writes a stage: a session-level advisory lock, which the database releases by itself when
the process that holds it dies."""

from __future__ import annotations

import datetime
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import sqlalchemy as sa

from pipedag_dagster.errors import ConnectionLost, DatabaseError, RunActive
from pipedag_dagster.names import literal
from pipedag_dagster.postgres import session
from pipedag_dagster.postgres.database import Database, driver_of

log = logging.getLogger(__name__)

_LIMIT = sa.text("SELECT set_config('lock_timeout', :limit, true)")
_POLL = 0.1  # seconds; a wait in the database could not be interrupted
_LONG = 5.0  # seconds


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
    """Who holds a lock. `since` is None where this login may not know it, `login` where it is our own."""

    backend: int
    name: str
    since: datetime.datetime | None = field(compare=False)
    login: str | None = None

    def __str__(self) -> str:
        login = f" of login {self.login!r}" if self.login else ""
        since = f", which holds its lock since {self.since:%Y-%m-%d %H:%M:%S}" if self.since else ""
        return self.name + login + since


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

    Yields a check, to be called before something is made visible. It asks the server whether this session still holds
    the lock, and raises ConnectionLost when it does not: another run may write the stage by now.

    Raises:
        RunActive: another run still holds it after `timeout`.
        PoolerRefused: a pooler lets several clients share one session.
    """
    host = socket.gethostname()
    name = f"pipedag run {run_id[:8]} (process {os.getpid()} on {host}"[:62] + ")"
    with _session(database) as connection:
        with database.told():
            backend = _take(database, connection, lock, name, timeout, tell)

        def check() -> None:
            try:
                held = connection.execute(_IS_HELD, (lock.key,)).fetchone()
            except psycopg.OperationalError:
                raise _lost(lock, "The server has cut the connection that held the lock") from None
            if held == (backend, True):
                return
            if held is not None and held[0] != backend:
                raise session.pooler_refused(database.engine.url)
            raise _lost(lock, "The session no longer holds the lock")

        yield check


@contextmanager
def _session(database: Database) -> Iterator[session.Connection]:
    """A connection of the pool for nobody else, in autocommit mode. It goes back without any lock."""
    with database.look() as pooled:
        connection = driver_of(pooled)
        try:
            yield connection
        finally:
            try:
                connection.execute(_RELEASE)
            except BaseException as error:
                pooled.invalidate()  # it is closed, which releases the lock too
                if not isinstance(error, psycopg.Error):
                    raise


def _take(
    database: Database,
    connection: session.Connection,
    lock: StageLock,
    name: str,
    timeout: float | None,
    tell: Callable[[str], None] | None,
) -> int:
    """Wait for the lock. Returns the process of the server that serves the connection.

    Raises:
        RunActive: another run still holds it after `timeout`.
        PoolerRefused: the connection holds the lock already: a pooler has given us one that another client has used.
    """
    started, told = time.monotonic(), None
    while True:
        row = connection.execute(_TAKE_IN_SESSION, {"key": lock.key, "name": name}).fetchone()
        assert row is not None
        backend, is_taken, *_ = row
        if is_taken is None:
            raise session.pooler_refused(database.engine.url)
        if is_taken:
            return int(backend)
        holder = holder_of(connection, lock)
        if timeout is not None and time.monotonic() - started >= timeout:
            raise RunActive(
                f"{lock.what} is being written by {holder or 'another run'}, and lock_timeout is {timeout:g} s. "
                f"Nothing was done. Run it again when that run has ended. If it hangs, stop its process, or: "
                f"{lock.free}"
            )
        if holder and holder != told:
            message = f"{lock.what}: waiting for {holder}. If it hangs, stop its process, or: {lock.free}"
            log.warning("%s", message)
            if tell is not None:
                tell(message)
            told = holder
        time.sleep(_POLL)


def _lost(lock: StageLock, how: str) -> ConnectionLost:
    return ConnectionLost(
        f"{how} of {lock.what}, so the lock is lost. Nothing was committed. Run it again: what was staged is reused."
    )


@dataclass(frozen=True)
class TransactionLock:
    """A lock that lasts until a transaction ends. `what` names it for people."""

    key: str
    what: str
    shared: bool = False

    def take(self, connection: sa.Connection) -> None:
        """Wait for the lock.

        It is never held for long. Anybody who may connect can take it, though, and so block us: a session that holds it
        for more than a few seconds is named in the log, with what an administrator can do.
        """
        mode, given = "_shared" if self.shared else "", {"key": self.key}
        if connection.scalar(sa.text(f"SELECT pg_try_advisory_xact_lock{mode}(hashtextextended(:key, 0))"), given):
            return
        wait = sa.text(f"SELECT pg_advisory_xact_lock{mode}(hashtextextended(:key, 0))")
        limit = connection.scalar(sa.text("SELECT current_setting('lock_timeout')"))
        while True:
            try:
                with connection.begin_nested():
                    connection.execute(_LIMIT, {"limit": f"{int(_LONG * 1000)}ms"})
                    connection.execute(wait, given)
                break
            except sa.exc.OperationalError as error:
                if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                    raise
            for row in connection.execute(sa.text(_HOLDER.replace("%s", ":key")), given).all():
                log.warning(
                    "Waiting for %s, which %s holds. If that is no run of yours, an administrator can end it: SELECT "
                    "pg_terminate_backend(%s)", self.what, Holder(*row), row[0]
                )  # fmt: skip
        connection.execute(_LIMIT, {"limit": limit})


def take_in_order(connection: sa.Connection, locks: Sequence[TransactionLock], *, before: str = "") -> None:
    """Wait for these locks, in this order. When they are free it is one message.

    Args:
        before: statements that are sent with it.
    """
    taken = "0"
    for number, lock in reversed(list(enumerate(locks))):
        mode = "_shared" if lock.shared else ""
        tried = f"pg_try_advisory_xact_lock{mode}(hashtextextended({literal(lock.key)}, 0))"
        # A CASE has an order; a list of expressions has none.
        taken = f"CASE WHEN {tried} THEN {taken if number + 1 < len(locks) else len(locks)} ELSE {number} END"
    cursor = driver_of(connection).execute(f"{before}SELECT {taken}".encode())
    while cursor.nextset():
        pass
    (count,) = cursor.fetchone() or (0,)
    for lock in locks[count:]:
        lock.take(connection)


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


_TAKE = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"

_LOCKS = """
    FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (l.classid::int8 << 32 | l.objid::int8) = hashtextextended(%s, 0)
"""
_IS_HELD = f"SELECT pg_backend_pid(), EXISTS (SELECT {_LOCKS} AND l.pid = pg_backend_pid())"

# The connection is idle for as long as the stage runs. A server that ends idle sessions must leave it alone; but when
# the machine at its other end is gone, the lock should be free within two minutes, not hours.
_TAKE_IN_SESSION = f"""
    SELECT pg_backend_pid(),
        CASE WHEN NOT EXISTS (SELECT {_LOCKS.replace("%s", "%(key)s")} AND l.pid = pg_backend_pid())
            THEN pg_try_advisory_lock(hashtextextended(%(key)s, 0)) END,
        set_config('application_name', %(name)s, false), set_config('idle_session_timeout', '0', false),
        set_config('tcp_keepalives_idle', '60', false), set_config('tcp_keepalives_interval', '10', false),
        set_config('tcp_keepalives_count', '6', false)
"""
_RELEASE = "SELECT pg_advisory_unlock_all(); RESET application_name; RESET idle_session_timeout"

# It has been idle since it took the lock.
_HOLDER = f"""
    SELECT h.pid, coalesce(a.application_name, 'a session'), coalesce(a.state_change, a.backend_start),
        nullif(a.usename, session_user)
    FROM (SELECT l.pid, l.mode {_LOCKS}) h LEFT JOIN pg_stat_activity a USING (pid)
"""
