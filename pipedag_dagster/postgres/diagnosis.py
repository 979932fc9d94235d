"""Statements by whichever driver, and what PostgreSQL says about one that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import adbc_driver_manager
import psycopg

StatementError: TypeAlias = psycopg.Error | adbc_driver_manager.Error
STATEMENT_ERRORS = (psycopg.Error, adbc_driver_manager.Error)


class Rows(Protocol):
    """The result of a statement."""

    def fetchone(self) -> tuple[Any, ...] | None: ...

    def fetchall(self) -> Sequence[tuple[Any, ...]]: ...


class Statements(Protocol):
    """What runs statements without parameters: a connection of psycopg, or a session of ADBC."""

    def execute(self, statement: bytes, /) -> Rows: ...


def last_result(connection: Statements, statements: Sequence[str]) -> Rows:
    """Run these statements, in one message where the driver can. Returns the result of the last one."""
    if not isinstance(connection, psycopg.Connection):
        return [connection.execute(statement.encode()) for statement in statements][-1]
    cursor = connection.execute("; ".join(statements).encode())
    while cursor.nextset():
        pass
    return cursor


_NO_FAULT = ("08", "53", "55", "57", "58")  # classes of SQLSTATE: connection, resources, locks, operators, system


@dataclass(frozen=True)
class Diagnosis:
    """The parts of an error of PostgreSQL.

    Attributes:
        sqlstate: its code; None when the error is of the driver, as when a connection was cut.
        message, detail: what PostgreSQL prints.
        column: the name of the column that it is about.
    """

    sqlstate: str | None
    message: str
    detail: str | None
    column: str | None

    @classmethod
    def of(cls, error: StatementError) -> Diagnosis:
        if isinstance(error, psycopg.Error):
            diag = error.diag
            return cls(error.sqlstate, diag.message_primary or str(error), diag.message_detail, diag.column_name)
        told = {_text(key): _text(value) for key, value in error.details or ()}
        message = told.get("PG_DIAG_MESSAGE_PRIMARY") or str(error)
        column = told.get("PG_DIAG_COLUMN_NAME")
        return cls(error.sqlstate, message, told.get("PG_DIAG_MESSAGE_DETAIL"), column)

    @property
    def is_about_a_connection(self) -> bool:
        """Whether the connection or the server is at fault, and not the statement."""
        return self.sqlstate is None or self.sqlstate[:2] in _NO_FAULT

    def has(self, *classes: type[psycopg.Error]) -> bool:
        """Whether it is one of these errors, as in `psycopg.errors.UniqueViolation`."""
        return self.sqlstate in [each.sqlstate for each in classes]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
