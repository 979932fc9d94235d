"""Functions in conditions whose results may change, as the database knows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

from pipedag_dagster.sql_condition import condition


def changing_functions(connection: psycopg.Connection[Any], conditions: Iterable[str]) -> list[str]:
    """The functions in these conditions that are not known to return the same for the same row every time.

    Functions of PostgreSQL may depend on settings, which are the same for all samples. The user's own functions may
    read anything, unless they are IMMUTABLE.
    """
    names = sorted({name for text in conditions for name in condition(text).functions})
    if not names:
        return []
    rows = connection.execute(
        "SELECT DISTINCT proname FROM pg_proc WHERE proname = ANY(%s) AND (provolatile = 'v' "
        "OR (provolatile = 's' AND pronamespace <> 'pg_catalog'::regnamespace)) ORDER BY proname",
        [names],
    )
    return [row[0] for row in rows]
