"""What it costs to read a stage by its views, which refuse transactions that are too old, as a ratio to the same query
on the physical tables.

    python benchmarks/views.py [rows]

Everything is measured in one run, on an embedded PostgreSQL that is thrown away.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psycopg
import sqlalchemy as sa

from pipedag_dagster import Flow, PipedagConfig, Stage, Table, materialize

TABLES = 30
QUERIES = {
    "count(*) of the large table": "SELECT count(*) FROM {large}",
    "sums by group of the large table": "SELECT k, count(*), sum(id) FROM {large} GROUP BY k",
    "one row by primary key": "SELECT * FROM {large} WHERE id = 4711",
    f"one statement on {TABLES} tables": " UNION ALL ".join(f"SELECT id FROM {{t{n}}}" for n in range(TABLES)),
}


@materialize(lazy=True)
def large(rows: int) -> Table:
    query = f"SELECT id, id % 1000 AS k, md5(id::text) AS label FROM generate_series(1::bigint, {rows}) AS id"
    return Table(sa.text(query), "large", primary_key="id")


@materialize(outputs=[f"t{number}" for number in range(TABLES)])
def small() -> tuple[pd.DataFrame, ...]:
    return (pd.DataFrame({"id": [1, 2, 3]}),) * TABLES


def seconds(connection: psycopg.Connection[tuple[object, ...]], queries: list[str]) -> list[float]:
    """The best time of each query, taken in turn."""
    best = [float("inf")] * len(queries)
    for _ in range(25):
        for number, query in enumerate(queries):
            start = time.perf_counter()
            connection.execute(query.encode(), prepare=False).fetchall()
            best[number] = min(best[number], time.perf_counter() - start)
    return best


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "pipedag.yaml"
        config.write_text("name: benchmark\ninstances: {full: {table_store: {args: {url: embedded}}}}\n")
        full = PipedagConfig(config).get("full")
        with Flow("benchmark") as flow, Stage("work"):
            large(rows)
            small()
        assert flow.run(full).successful
        store = full.store.table_store
        tables = store.current(["work"])["work"].tables.values()
        views = {table.name: f"work.{table.name}" for table in tables}
        physical = {table.name: f"{store.schemas('work').versions}.{table.physical}" for table in tables}
        with psycopg.connect(store.database.uri, autocommit=True) as connection:
            print(f"{'query':40}{'physical':>12}{'view':>12}{'ratio':>8}")
            for name, query in QUERIES.items():
                one, two = seconds(connection, [query.format(**physical), query.format(**views)])
                print(f"{name:40}{one * 1000:9.2f} ms{two * 1000:9.2f} ms{two / one:8.2f}")


if __name__ == "__main__":
    main()
