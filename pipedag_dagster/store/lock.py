"""One run at a time writes a stage: a session-level advisory lock, which the database releases by itself when
the process that holds it dies."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import psycopg

from pipedag_dagster.errors import DatabaseError, RunActive
from pipedag_dagster.store.database import Database

log = logging.getLogger(__name__)

_POLL = 0.1  # seconds; a wait in the database could not be interrupted


@contextmanager
def stage_lock(database: Database, schema: str, run_id: str) -> Iterator[Callable[[], None]]:
    """Hold the lock of the stage whose tables are in `schema`. A waiting run says whom it waits for.

    Yields a check, to be called before something is made visible: it raises DatabaseError when the lock was lost
    together with its connection, because another run may write the stage by now.
    """
    name = f"pipedag run {run_id[:8]} on {socket.gethostname()}"[:63]
    with database.connect(name) as connection:
        told = None
        while connection.execute(_TAKE, (f"pipedag:{schema}",)).fetchone() != (True,):
            holder = _holder(connection.execute(_HOLDER, (f"pipedag:{schema}",)).fetchone())
            if holder != told:
                log.warning("stage %s: waiting for %s", schema, holder)
                told = holder
            time.sleep(_POLL)

        def check() -> None:
            try:
                connection.execute("SELECT 1")
            except psycopg.OperationalError as error:
                raise DatabaseError(
                    f"The connection that held the lock of {schema!r} was cut, and the lock is lost: {error}. "
                    "Nothing was committed. Run it again: what was staged is reused."
                ) from None

        yield check


def take_all(connection: psycopg.Connection[tuple[object, ...]], schemas: Iterable[str]) -> None:
    """Take the locks of all these stages, without waiting. They are held until the connection ends.

    Raises:
        RunActive: a run holds one of them; it is named.
    """
    for schema in schemas:
        if connection.execute(_TAKE, (f"pipedag:{schema}",)).fetchone() != (True,):
            holder = _holder(connection.execute(_HOLDER, (f"pipedag:{schema}",)).fetchone())
            raise RunActive(f"Nothing was done: {schema} is being written by {holder}. Wait for it, or stop it.")


_TAKE = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"

_HOLDER = """
    SELECT a.application_name, a.backend_start FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(%s, 0)
"""


def _holder(row: tuple[object, ...] | None) -> str:
    return f"{row[0]}, which holds its lock since {row[1]:%Y-%m-%d %H:%M:%S}" if row else "another run"
