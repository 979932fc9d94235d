"""The SQL text of a query that SQLAlchemy has built."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from pipedag_dagster.errors import UnstorableResult

# `named` leaves a % in a text alone, where the driver's own style would double it.
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]


def render(query: Any) -> str:
    """The SQL text of a query, with its parameters written out.

    Raises:
        UnstorableResult: a parameter has no literal form.
    """
    if isinstance(query, sa.FromClause) and not isinstance(query, sa.Select):
        query = sa.select(query)
    try:
        return str(query.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True})).strip().rstrip(";")
    except (sa.exc.CompileError, NotImplementedError) as error:
        raise UnstorableResult(f"The query cannot be written as SQL text: {error}") from error
