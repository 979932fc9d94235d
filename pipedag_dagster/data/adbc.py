"""Connections of ADBC, the driver that moves whole tables between PostgreSQL and Arrow by binary COPY."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_kept: dict[str, Any] = {}
_first: dict[str, str] = {}
_lock = threading.Lock()


def _new_lock() -> None:
    """After a fork, a thread that does not exist in this process may have held the lock."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)


def connect(uri: str) -> Any:
    """A new connection. It shares what the first connection to `uri` read of PostgreSQL's catalog of types, because
    reading it takes ten times as long as connecting."""
    with _lock:
        if uri not in _kept:
            # Imported here: it takes 0.4 s (with polars, if that is installed), and a run that finds everything in
            # the cache does not need it.
            import adbc_driver_postgresql.dbapi as driver  # noqa: PLC0415

            _kept[uri] = driver.connect(uri)
            atexit.register(disconnect, uri)  # before Python takes the module apart
        connection = _kept[uri].adbc_clone()
    if uri in _first:
        with connection.cursor() as cursor:
            cursor.execute(_first[uri])
            cursor.fetchall()
        connection.commit()  # a caller may choose the isolation level, which only the first statement can
    return connection


def begin_with(uri: str, statement: str) -> None:
    """From now on, run this statement first on each connection to `uri`."""
    _first[uri] = statement


def disconnect(uri: str) -> None:
    """Close the connection that is kept for `uri`; the next use opens another one."""
    with _lock:
        kept = _kept.pop(uri, None)
        if kept is not None:
            kept.close()


@contextmanager
def reading(uri: str, *, one_state: bool = False) -> Iterator[Any]:
    """A cursor in a READ ONLY transaction. A plain SELECT gets rows in the order in which they were written.

    Args:
        one_state: all statements see one state of the database.
    """
    with connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET TRANSACTION {'ISOLATION LEVEL REPEATABLE READ ' if one_state else ''}READ ONLY")
        # Both would let rows arrive in another order each time: a task must see the same frame again.
        cursor.execute("SET LOCAL synchronize_seqscans = off")
        cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        yield cursor
