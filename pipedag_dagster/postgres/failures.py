"""Errors of PostgreSQL and its drivers that are about the database, not about a statement: what they mean to a user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import adbc_driver_manager
import psycopg
import sqlalchemy as sa

from pipedag_dagster.errors import (
    ConnectionLost,
    DatabaseError,
    DatabaseMissing,
    DatabaseUnreachable,
    DiskFull,
    LoginRefused,
    PoolerRefused,
    ReadOnlyServer,
    TimedOut,
    TooManyConnections,
)


@contextmanager
def explained(url: sa.URL) -> Iterator[None]:
    """Turn a failed connection into an error that says what to do.

    The password is in no message: libpq names only user, host, port and database, and `session.libpq` makes sure that
    it can read the url.
    """
    try:
        yield
    except (sa.exc.OperationalError, psycopg.OperationalError) as error:
        place, reason, state = _place(url), _first_line(error), _sqlstate(error)
        # The cause may hold connection parameters: it is quoted without its chain.
        if is_missing_database(error):
            raise DatabaseMissing(
                f"Database {url.database!r} does not exist at {place}. Create it, or set "
                "`create_database_if_not_exists: true` in the args of the table store."
            ) from None
        if state in ("28P01", "28000") or any(word in reason for word in _REFUSALS):
            raise LoginRefused(
                f"{place} refuses the login of user {url.username!r}: {reason}. Fix user name and password in the url."
            ) from None
        raise (_failure(error, url) or _unreachable(place, reason)) from None


@contextmanager
def mapped(url: sa.URL, *, read_only: bool = False) -> Iterator[None]:
    """Turn what happens to a connection in use (it is lost, the disk is full, a limit is reached) into an error that
    says what to do. Errors of statements pass.

    Args:
        read_only: the transaction itself is read-only. A refused write says nothing about the server then.
    """
    try:
        yield
    except sa.exc.TimeoutError:
        raise TooManyConnections(
            "All connections of this process are in use, and none became free. Lower `max_concurrent` of the instance."
        ) from None
    except (sa.exc.DBAPIError, psycopg.Error, adbc_driver_manager.Error) as error:
        failure = None if read_only and _sqlstate(error) == "25006" else _failure(error, url)
        if failure is None:
            raise
        raise failure from None


def as_sqlalchemy(error: BaseException | None) -> BaseException | None:
    """What SQLAlchemy raises for an error of a driver; other errors unchanged.

    >>> type(as_sqlalchemy(psycopg.errors.UndefinedTable("Table orders does not exist"))).__name__
    'ProgrammingError'
    """
    if isinstance(error, psycopg.Error | adbc_driver_manager.Error):
        # `Error` is the root of both drivers' classes, whose names are those of SQLAlchemy's.
        return sa.exc.DBAPIError.instance(None, None, error, type(error))
    return error


def is_about_the_database(error: Exception) -> bool:
    """Whether `mapped` has words of its own for the error: it is not the fault of the statement."""
    return _failure(error, sa.URL.create("postgresql")) is not None


_AS_BEFORE = "What people see is as it was before."
_AGAIN = "Run it again: what was staged is reused."


def _failure(error: Exception, url: sa.URL) -> DatabaseError | None:
    state, text = _sqlstate(error), str(getattr(error, "orig", None) or error)
    place, reason = _place(url), _first_line(error).removesuffix(".")
    if state == "53100" or "No space left on device" in text:
        return DiskFull(
            f"The disk of {place} is full: {reason}. {_AS_BEFORE} Make room (`pipedag-dagster "
            "gc` drops old versions), and run it again: what was staged is reused."
        )
    if state == "53300" or any(word in text for word in _TOO_MANY):
        return TooManyConnections(
            f"{place} accepts no more connections: {reason}. {_AS_BEFORE} Lower `max_concurrent` of the instance, or "
            "raise the limit (max_connections of the server, CONNECTION LIMIT of the database or role). Then run it "
            "again: what was staged is reused."
        )
    if state == "57014":
        return TimedOut(
            f"{place} ended a statement: {reason}. {_AS_BEFORE} If it was a limit, raise statement_timeout where it "
            "was set: in the options of the url, or in PGOPTIONS. If somebody cancelled it, run it again: what was "
            "staged is reused."
        )
    if state in _IDLE:
        return TimedOut(
            f"{place} ended a connection of ours: {reason}. {_AS_BEFORE} Raise {_IDLE[state]} where it was set: in "
            "the options of the url, in PGOPTIONS, or for the role or database. Then run it again: what was staged "
            "is reused."
        )
    if state == "25006":
        return ReadOnlyServer(
            f"{place} does not accept changes: {reason}. It may be a standby, or set to read-only. Nothing was "
            "changed. Name the primary server in the url."
        )
    if "unsupported startup parameter" in text:
        return PoolerRefused(
            f"{place} is a connection pooler that refuses our settings: {reason}. Connect to PostgreSQL itself. Or use "
            "the pooler in session mode: in pgbouncer.ini, set pool_mode = session and "
            "ignore_startup_parameters = options. We then set them by SQL."
        )
    if any(word in text for word in _CONNECTING) or state == "57P03":
        return _unreachable(place, reason)
    if (state is not None and (state.startswith("08") or state in _CUT)) or any(word in text for word in _LOST):
        return ConnectionLost(
            f"The connection to {place} was cut: {reason}. What people see is one whole version. {_AGAIN}"
        )
    return None


_CUT = ("57P01", "57P02")  # by an administrator, by a crash
_IDLE = {
    "25P03": "idle_in_transaction_session_timeout",
    "25P04": "transaction_timeout",
    "57P05": "idle_session_timeout",
}
# A connection that fails has no SQLSTATE. These words are those of libpq, or of a server that speaks English.
_REFUSALS = ("authentication failed", "no password supplied", "FATAL:  role ", "no pg_hba.conf entry")
_TOO_MANY = ("too many clients", "remaining connection slots", "too many connections", "no more connections allowed")
_CONNECTING = ("connection failed", "Connection refused", "connection to server")
_LOST = (
    "server closed the connection",
    "terminating connection",
    "connection is closed",
    "connection is lost",
    "consuming input failed",
    "no connection to the server",
    "SSL connection has been closed",
    "could not receive data from server",
    "could not send data to server",
    "Connection reset by peer",
)


def _unreachable(place: str, reason: str) -> DatabaseUnreachable:
    return DatabaseUnreachable(
        f"{place} cannot be reached: {reason}. Is the database running, and are host and port right?"
    )


def _place(url: sa.URL) -> str:
    """The url for people. What else is in its query may be a secret."""
    query = {key: value for key, value in url.query.items() if key in ("host", "port")}
    return url.set(drivername="postgresql", query=query).render_as_string(hide_password=True)


_PREFIX = re.compile(r"(?:[A-Z_]+: )?\[libpq\] (?:Failed to connect: )?|connection failed: ")  # of the drivers


def _first_line(error: Exception) -> str:
    line = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return _PREFIX.sub("", line)


def _sqlstate(error: Exception) -> str | None:
    original = getattr(error, "orig", None) or error
    return getattr(original, "sqlstate", None)


def is_missing_database(error: Exception) -> bool:
    """Whether a connection failed because there is no such database."""
    text = str(getattr(error, "orig", None) or error)
    return _sqlstate(error) == "3D000" or ('database "' in text and "does not exist" in text)
