"""What thousands of tables cost: the catalog, PostgreSQL's own catalog, locks, connections, commits. Tables are tiny.

    python benchmarks/scale.py [--stages 100] [--tables 100] [--instances 2] [--commits 5]

Prints the numbers of docs/scale.md, after each instance. On an embedded PostgreSQL that is thrown away.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from pipedag_dagster import ConfigContext, PipedagConfig
from pipedag_dagster.postgres import embedded, session

SYSTEM = ("pg_class", "pg_attribute", "pg_type", "pg_depend", "pg_rewrite", "pg_statistic", "pg_description")
SIZES = {
    "relations": "SELECT count(*) FROM pg_class",
    "tables": "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace >= 16384",
    "views": "SELECT count(*) FROM pg_class WHERE relkind = 'v' AND relnamespace >= 16384",
    "MB of PostgreSQL's catalog": "SELECT round(sum(pg_total_relation_size(oid)) / 1e6, 1) FROM pg_class "
    "WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'",
    "MB of our catalogs": "SELECT round(coalesce(sum(pg_total_relation_size(oid)), 0) / 1e6, 1) FROM pg_class "
    "WHERE relnamespace::regnamespace::text LIKE '%pipedag' AND relkind = 'r'",
    "rows of our catalogs": "SELECT sum(n_live_tup) FROM pg_stat_user_tables WHERE schemaname LIKE '%pipedag'",
    "dead rows of PostgreSQL's catalog": "SELECT sum(n_dead_tup) FROM pg_stat_sys_tables",
    "MB of the database": "SELECT round(pg_database_size(current_database()) / 1e6, 1)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=100)
    parser.add_argument("--tables", type=int, default=100, help="in each stage")
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--commits", type=int, default=5, help="runs in which one table of each stage changes")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="pdscale") as name:
        folder = Path(name)
        with psycopg.connect(session.libpq(embedded.start(folder).set(database="postgres")), autocommit=True) as admin:
            admin.execute("CREATE DATABASE pipedag")
        try:
            _simulate(folder, given)
        finally:
            embedded.stop(folder)


def _simulate(folder: Path, given: argparse.Namespace) -> None:
    (folder / "instances").mkdir()
    yaml = 'name: scale\ntable_store: {args: {url: embedded, schema_prefix: "{instance_id}_"}}\n'
    (folder / "instances" / "__any__.yaml").write_text(yaml)
    for number in range(given.instances):
        (folder / "instances" / f"i{number}.yaml").write_text("")
    os.environ["BENCH_LIBRARY"] = "pipedag_dagster"
    sys.path.insert(0, str(Path(__file__).parent / "compare"))
    config = PipedagConfig(folder / "instances")
    total = given.stages * given.tables
    for number in range(given.instances):
        instance = config.get(f"i{number}")
        url = session.libpq(embedded.start(folder))
        print(f"\ninstance {number + 1}: {total:,} tables in {given.stages} stages")
        _timed(instance, url, "cold", given, 0)
        _timed(instance, url, "nothing changed", given, 0)
        if number == 0:
            for revision in range(1, given.commits + 1):
                _timed(instance, url, "one table changed in each stage", given, revision)
        _print_sizes(url)


def _timed(instance: ConfigContext, url: str, what: str, given: argparse.Namespace, revision: int) -> None:
    import flows  # noqa: PLC0415

    flow = flows.small_flow(given.tables, revision, given.stages)
    with _peaks(url) as peaks:
        started = time.perf_counter()
        result = flow.run(instance, fail_fast=True)
        seconds = time.perf_counter() - started
    per_table = seconds / given.stages / given.tables * 1000
    print(
        f"  {what:32} {seconds:8.2f} s  {per_table:6.2f} ms a table  {seconds / given.stages:6.2f} s a stage"
        f"  at most {peaks.get('locks', 0):,} locks, {peaks.get('connections', 0)} connections",
        flush=True,
    )
    if not result.successful:
        sys.exit("the flow failed")


@contextmanager
def _peaks(url: str) -> Iterator[dict[str, int]]:
    """The most locks and connections that there are at one time."""
    peaks: dict[str, int] = {}
    ended = threading.Event()

    def watch() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not ended.wait(0.05):
                for name, query in (
                    ("locks", "SELECT count(*) FROM pg_locks WHERE locktype = 'relation'"),
                    ("connections", "SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"),
                ):
                    row = connection.execute(query.encode()).fetchone()
                    peaks[name] = max(peaks.get(name, 0), row[0] if row else 0)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _print_sizes(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for name, query in SIZES.items():
            row = connection.execute(query.encode()).fetchone()
            print(f"  {name:36} {row[0] if row else '':>12,}")
        started = time.perf_counter()
        connection.execute(f"VACUUM ANALYZE {', '.join(SYSTEM)}".encode())
        print(f"  {'seconds to vacuum its catalog':36} {time.perf_counter() - started:12.2f}")


if __name__ == "__main__":
    main()
