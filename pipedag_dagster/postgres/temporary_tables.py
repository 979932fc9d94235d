"""The right to make temporary tables."""

from __future__ import annotations

from typing import Any

import psycopg

from pipedag_dagster.errors import DatabaseError
from pipedag_dagster.names import quote

_MAY = "SELECT has_database_privilege(current_database(), 'TEMPORARY'), current_database(), current_user"


def require(connection: psycopg.Connection[tuple[Any, ...]], purpose: str) -> None:
    """Make sure that this connection may make temporary tables.

    Args:
        purpose: what needs them, for people.

    Raises:
        DatabaseError: it may not. The message has the GRANT to type.
    """
    allowed, database, role = connection.execute(_MAY).fetchone() or (True, "", "")
    if not allowed:
        raise DatabaseError(
            f"{purpose} needs temporary tables in database {database!r}, and role {role!r} may not make any. Let the "
            f"owner of the database type: GRANT TEMPORARY ON DATABASE {quote(database)} TO {quote(role)};"
        )
