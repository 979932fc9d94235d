"""What a table in the database holds, as a hash that is computed there.

Content is identity, not equality. To PostgreSQL `1 month` equals `30 days` and `1.0` equals `1.00`, and so do their
hashes; but a task gets different results from them. PostgreSQL's hash functions have two more traps:

- Those of bigint and timestamp fold 64 bits into 32, so 1 and 4294967296 have the same hash.
- That of a row is linear: when two rows swap their values of one column, the sum over all rows is often the same.

So each value is hashed by its bytes: those of its text, or those that PostgreSQL sends to a client in binary. All other
types are hashed by their text, under fixed settings of the session. The hash of a row is hashed once more, as a text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import psycopg

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.digest import digest
from pipedag_dagster.names import quote
from pipedag_dagster.postgres.session import settings_of_a_transaction

_EXACT = {"smallint", "integer", "boolean", "date", "uuid", "bytea"}
"""Types of which equal values are the same values, and whose hash is that of all their bits."""

_SENT = {
    "bigint": "int8send",
    "real": "float4send",
    "double precision": "float8send",
    "numeric": "numeric_send",
    "character": "bpcharsend",
    "bpchar": "bpcharsend",
    "time without time zone": "time_send",
    "time with time zone": "timetz_send",
    "timestamp without time zone": "timestamp_send",
    "timestamp with time zone": "timestamptz_send",
    "interval": "interval_send",
}
"""Types that are hashed by the bytes that this function gives: the same bytes on every server."""

_TEXTS = {"text", "character varying"}

_SUM = """
    SELECT concat(count(*), ':', coalesce(sum(hashtextextended(q.hash::text COLLATE "C", q.place)::numeric), 0))
    FROM (SELECT {hash} AS hash, {place} AS place FROM {table} AS t {where}) AS q
"""

# A sequential scan by one process gives the rows in the order in which they were written.
_IN_ORDER = "SET LOCAL synchronize_seqscans = off; SET LOCAL max_parallel_workers_per_gather = 0"

_COLLATIONS = """
    SELECT a.attname, c.collname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_collation c ON c.oid = a.attcollation
    WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attcollation <> t.typcollation
    ORDER BY a.attnum
"""


def content(
    connection: psycopg.Connection[tuple[Any, ...]],
    table: str,
    columns: Sequence[Column],
    *,
    ordered: bool = False,
    handles: str | None = None,
) -> str:
    """A hash of the names, types, collations and values of a table: the same on every server.

    Args:
        table: quoted, with its schema.
        ordered: the order in which the rows were written counts. Otherwise a table is a bag of rows.
        handles: a query of ctids: only these rows count.
    """
    connection.execute(settings_of_a_transaction().encode())  # a script may have set others
    if ordered:
        connection.execute(_IN_ORDER)
    order = "" if handles is None else "ORDER BY t.ctid"
    place = f"row_number() OVER ({order})" if ordered else "0"
    where = "" if handles is None else f"WHERE t.ctid = ANY (ARRAY({handles}))"
    query = _SUM.format(hash=_record_hash(columns, "t"), place=place, table=table, where=where)
    # A sum, not an xor, or equal rows would cancel out.
    (rows,) = connection.execute(query.encode()).fetchone() or ("",)
    collations = connection.execute(_COLLATIONS, (table,)).fetchall()
    shape = [part for column in columns for part in (column.name, column.type)]
    return digest("bytes", str(ordered), rows, *shape, *(part for row in collations for part in row))


def _record_hash(columns: Sequence[Column], table: str) -> str:
    values = ", ".join(exact_value(quote(table, column.name), column.type) for column in columns)
    return f"hash_record_extended(ROW({values}), 0)"


def exact_value(value: str, kind: str) -> str:
    """An expression whose hash tells apart all values of a type."""
    base = re.sub(r"\([^()]*\)", "", kind)  # numeric(10,2), timestamp(3) without time zone
    if base in _EXACT:
        return value
    if base in _TEXTS:
        return f'{value} COLLATE "C"'
    if base in _SENT:
        return f"{_SENT[base]}({value})"
    if (item := base.removesuffix("[]")) != base and item in _EXACT | _TEXTS | _SENT.keys():
        return f"array_send({value})"
    # As a part of a row, because a cast to text strips the spaces of a `character`, also within a domain.
    return f'ROW({value})::text COLLATE "C"'
