"""What the errors of PostgreSQL and its drivers mean, where they are about the database and not about a statement."""

from __future__ import annotations

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
)


@contextmanager
def explained(url: sa.URL) -> Iterator[None]:
    """Turn a failed connection into an error that says what to do. No password is ever part of it."""
    try:
        yield
    except (sa.exc.OperationalError, psycopg.OperationalError) as error:
        place = _place(url)
        # The cause may hold connection parameters: it is quoted without its chain.
        reason = _first_line(error, url)
        state = _sqlstate(error)
        if is_missing_database(error):
            raise DatabaseMissing(
                f"Database {url.database!r} does not exist at {place}. Create it, or set "
                "`create_database_if_not_exists: true` in the args of the table store."
            ) from None
        if state in ("28P01", "28000") or any(word in reason for word in _REFUSALS):
            raise LoginRefused(
                f"{place} refuses the login of user {url.username!r}: {reason}. Fix user name and password in the url."
            ) from None
        raise _unreachable(place, reason) from None


# A connection that fails has no SQLSTATE.
_REFUSALS = ("authentication failed", "no password supplied", "FATAL:  role ", "no pg_hba.conf entry")


@contextmanager
def mapped(url: sa.URL) -> Iterator[None]:
    """Turn the loss of a connection in use, and a full disk, into errors that say what to do. Other errors pass."""
    try:
        yield
    except (sa.exc.DBAPIError, psycopg.Error, adbc_driver_manager.Error) as error:
        failure = _failure(error, url)
        if failure is None:
            raise
        raise failure from None


def _failure(error: Exception, url: sa.URL) -> DatabaseError | None:
    state, text = _sqlstate(error), str(getattr(error, "orig", None) or error)
    place, reason = _place(url), _first_line(error, url).removesuffix(".")
    if state == "53100" or "No space left on device" in text:
        return DiskFull(
            f"The disk of {place} is full: {reason}. What people see is as it was before. Make room (`pipedag-dagster "
            "gc` drops old versions), and run it again: what was staged is reused."
        )
    if any(word in text for word in _CONNECTING) or state == "57P03":
        return _unreachable(place, reason)
    if (state is not None and (state.startswith("08") or state in _CUT)) or any(word in text for word in _LOST):
        return ConnectionLost(
            f"The connection to {place} was cut: {reason}. What people see is one whole version. Run it again: what "
            "was staged is reused."
        )
    return None


_CUT = ("57P01", "57P02", "57P05", "25P03")  # an administrator, a crash, a timeout of idle sessions
# These have no SQLSTATE: they are of the client.
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


def _first_line(error: Exception, url: sa.URL) -> str:
    reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return reason.replace(url.password, "***") if url.password else reason


def _sqlstate(error: Exception) -> str | None:
    original = getattr(error, "orig", None) or error
    return getattr(original, "sqlstate", None)


def is_missing_database(error: Exception) -> bool:
    text = str(getattr(error, "orig", None) or error)
    return _sqlstate(error) == "3D000" or ('database "' in text and "does not exist" in text)
