"""The pools of this process: one for each url. All instances in one database share it."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from weakref import WeakValueDictionary

import sqlalchemy as sa

from pipedag_dagster.data import adbc
from pipedag_dagster.postgres import session
from pipedag_dagster.postgres.users_engine import prepare_for_users

_LONG = 30.0
"""Seconds. A connection that was idle for longer is tried before it is used: a firewall may have forgotten it."""

_engines: WeakValueDictionary[tuple[sa.URL, str | None], sa.Engine] = WeakValueDictionary()
_engines_lock = threading.Lock()


def engine_of(url: sa.URL, role: str | None, users_path: str | None = None) -> sa.Engine:
    """The pool of this process for a url and role.

    Args:
        users_path: for the pool of users' own queries (see `users_engine`): their search path.
    """
    with _engines_lock:
        engine = _engines.get((url, users_path))
        if engine is None:
            # The connection that holds a lock is idle while a stage runs, for hours maybe: a firewall must not take it
            # for dead.
            arguments = {"keepalives_idle": 60}
            size = 10 if users_path is None else 2
            engine = sa.create_engine(url, pool_size=size, max_overflow=20, connect_args=arguments)
            sa.event.listen(engine, "connect", _preparation(url, role), insert=True)  # before SQLAlchemy's own
            sa.event.listen(engine, "checkin", _note_time)
            sa.event.listen(engine, "checkout", _refuse_dead)
            if users_path is not None:
                prepare_for_users(engine, users_path)  # after our own preparation
            _engines[url, users_path] = engine
        return engine


def _preparation(url: sa.URL, role: str | None) -> Callable[[session.Connection, object], None]:
    """Prepare each new connection of a pool."""
    checked = False

    def prepare(connection: session.Connection, record: object) -> None:
        nonlocal checked
        connection.autocommit = True
        behind_pooler = session.prepare(connection, url, role)
        connection.autocommit = False
        if behind_pooler and not checked:
            session.refuse_shared_backends(url)
            adbc.begin_with(session.libpq(url), session.settings_as_sql(role))
        checked = True

    return prepare


def _note_time(connection: session.Connection | None, record: sa.pool.ConnectionPoolEntry) -> None:
    record.info["idle since"] = time.time()


def _refuse_dead(
    connection: session.Connection, record: sa.pool.ConnectionPoolEntry, proxy: sa.pool.PoolProxiedConnection
) -> None:
    """Between the stages of a long run the server may have cut a connection, or was started again. Then there is
    something to read from its socket, so that connections that are well need not be tried with a statement.

    Raises:
        InvalidatePoolError: it is dead. The pool makes new connections.
    """
    idle = abs(time.time() - record.info.get("idle since", time.time()))
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if idle < _LONG and not poll.poll(0):
        return
    try:
        connection.autocommit = True
        connection.execute("")
        connection.autocommit = False
    except Exception as error:
        raise sa.exc.InvalidatePoolError from error


def _forget_connections() -> None:
    """In a forked process: drop the open connections, because they belong to the parent process."""
    global _engines_lock
    _engines_lock = threading.Lock()
    for engine in _engines.values():
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)
