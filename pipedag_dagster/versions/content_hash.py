"""What a table in the database holds, as a hash that is computed there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.names import quote

# Independent of the order of rows: a table has none. A sum, not an xor, or equal rows would cancel out.
CONTENT = "SELECT concat(count(*), ':', coalesce(sum({hash}::numeric), 0)) FROM {table} AS t"

# Hashed as what they are, which is fast and the same everywhere. All others are hashed as text: some have no hash
# function, that of an enum counts from the server's own numbers.
_HASHABLE = re.compile(
    r"(smallint|integer|bigint|real|double precision|numeric|boolean|text|character|date|time|timestamp|interval|uuid"
    r"|bytea)\b"
)


def row_hash(columns: Sequence[Column], table: str = "t") -> str:
    """An SQL expression: the hash of a row as bigint, the same for the same values on every server."""
    values = ", ".join(
        quote(table, column.name) + ("" if _HASHABLE.match(column.type) else "::text") for column in columns
    )
    return f"hash_record_extended(ROW({values}), 0)"
