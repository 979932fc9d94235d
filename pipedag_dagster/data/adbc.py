"""Connections of ADBC, the driver that moves whole tables between PostgreSQL and Arrow by binary COPY.

A connection is kept after use for the next transaction, because opening one takes as long as writing a small table.
After an error it is closed instead, and with it whatever was left unfinished.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import adbc_driver_manager

_KEPT = 8  # of one database, while nobody uses them

_pools: dict[str, _Pool] = {}
_of_parents: list[dict[str, _Pool]] = []  # closing a connection in a forked process would end it for its owner, too
_first: dict[str, str] = {}
_lock = threading.Lock()


class _Pool:
    """The connections of this process to one database."""

    def __init__(self, uri: str) -> None:
        # Imported here: it takes 0.4 s (with polars, if that is installed), and a run that finds everything in the
        # cache does not need it.
        import adbc_driver_postgresql.dbapi as driver  # noqa: PLC0415

        self._uri = uri
        # Its clones share what it has read of PostgreSQL's catalog of types, which takes ten times as long as
        # connecting.
        self._first = driver.connect(uri)
        self._idle: list[Any] = []
        self._closed = False

    def take(self) -> Any:
        """A connection outside of a transaction. One that was kept is tried first: the server may have restarted."""
        while True:
            with _lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._open()
            if _answers(connection):
                return connection
            _close(connection)

    def give_back(self, connection: Any) -> None:
        """Keep a connection that has ended its transaction."""
        with _lock:
            if not self._closed and len(self._idle) < _KEPT:
                self._idle.append(connection)
                return
        _close(connection)

    def close(self) -> None:
        """Close the connections that nobody uses. The others are closed when they are given back."""
        with _lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in (*idle, self._first):
            _close(connection)

    def _open(self) -> Any:
        with _lock:
            connection = self._first.adbc_clone()
        if self._uri in _first:
            with connection.cursor() as cursor:
                cursor.execute(_first[self._uri])
                cursor.fetchall()
            connection.commit()  # a caller may choose the isolation level, which only the first statement can
        return connection


@contextmanager
def transaction(uri: str) -> Iterator[Any]:
    """A cursor in a transaction: committed at the end, rolled back on an exception.

    Raises:
        adbc_driver_manager.Error: from the database, for example when it cannot be reached.

    Example:
        with transaction(uri) as cursor:
            cursor.adbc_ingest("orders", table, mode="append", db_schema_name="raw")
    """
    with _lock:
        if uri not in _pools:
            _pools[uri] = _Pool(uri)
            atexit.register(disconnect, uri)  # before Python takes the module apart
        pool = _pools[uri]
    connection = pool.take()
    try:
        with connection.cursor() as cursor:
            yield cursor
        connection.commit()
    except BaseException:
        _close(connection)
        raise
    pool.give_back(connection)


class Session:
    """Runs single statements in the transaction of a cursor, as a connection of psycopg does."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def execute(self, statement: bytes, /) -> Any:
        self._cursor.execute(statement.decode())
        return self._cursor


@contextmanager
def reading(uri: str, *, one_state: bool = False) -> Iterator[Any]:
    """A cursor in a READ ONLY transaction. A plain SELECT gets rows in the order in which they were written.

    Args:
        one_state: all statements see one state of the database.
    """
    with transaction(uri) as cursor:
        cursor.execute(f"SET TRANSACTION {'ISOLATION LEVEL REPEATABLE READ ' if one_state else ''}READ ONLY")
        # Both would let rows arrive in another order each time: a task must see the same frame again.
        cursor.execute("SET LOCAL synchronize_seqscans = off")
        cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        yield cursor


def begin_with(uri: str, statement: str) -> None:
    """From now on, run this statement first on each new connection to `uri`."""
    _first[uri] = statement


def disconnect(uri: str) -> None:
    """Close the connections that are kept for `uri`; the next use opens others."""
    with _lock:
        pool = _pools.pop(uri, None)
    if pool is not None:
        pool.close()


def _answers(connection: Any) -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.rollback()
    except adbc_driver_manager.Error:
        return False
    return True


def _close(connection: Any) -> None:
    with suppress(adbc_driver_manager.Error):  # the server is gone
        connection.close()


def _forget() -> None:
    """In a forked process: the connections belong to its parent, and a thread that is not here may hold the lock."""
    global _lock
    _lock = threading.Lock()
    _of_parents.append(dict(_pools))
    _pools.clear()


os.register_at_fork(after_in_child=_forget)
