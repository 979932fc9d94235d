"""Runs both libraries in turns, each run in a process of its own, on the same PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

HERE = Path(__file__).parent
OURS, THEIRS, BARE = "pipedag_dagster", "pydiverse.pipedag", "ADBC"
_YAML = """\
name: bench
table_store_connections:
  postgres:
    args: {{url: "{url}", schema_prefix: "{{instance_id}}_"}}
blob_store_connections:
  file: {{args: {{base_path: "{folder}/blobs"}}}}
technical_setups:
  default:
    network_interface: "127.0.0.1"
    auto_table: [pandas.DataFrame, sqlalchemy.sql.expression.TextClause, sqlalchemy.sql.expression.Selectable]
    fail_fast: true
    disable_kroki: true
    table_store:
      class: pydiverse.pipedag.backend.table.SQLTableStore
      table_store_connection: postgres
      args: {{create_database_if_not_exists: false, print_materialize: false, print_sql: false}}
    blob_store: {{class: pydiverse.pipedag.backend.blob.FileBlobStore, blob_store_connection: file}}
    lock_manager: {{class: pydiverse.pipedag.backend.lock.DatabaseLockManager}}
    orchestration: {{class: pydiverse.pipedag.engine.SequentialEngine}}
instances:
  __any__: {{technical_setup: default}}
  full: {{instance_id: full}}
  midi: {{instance_id: midi}}
"""


@dataclass(frozen=True)
class Step:
    """One measured run: `what` is its line in the table. With the same name, later steps are more samples of it."""

    what: str
    instance: str
    sizes: dict[str, Any]


@dataclass
class Samples:
    """The seconds of all runs, by what was measured and by library."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def add(self, what: str, library: str, seconds: float) -> None:
        self.seconds[what][library].append(seconds)

    def best(self, what: str, library: str) -> float | None:
        """The shortest run; None if there was none."""
        return min(self.seconds[what][library], default=None)

    def ratio(self, what: str, over: str) -> float | None:
        """How long we take, as a part of what another one takes: the best of each."""
        ours, theirs = self.best(what, OURS), self.best(what, over)
        return None if ours is None or theirs is None else ours / theirs


def run(
    steps: list[Step], rounds: int, samples: Samples, processes: Samples, url: str, folder: Path, peer: Path | None
) -> None:
    """Run the steps with each library, `rounds` times, each time on an empty database. The libraries take turns in
    being first.

    Args:
        samples, processes: get the seconds of `flow.run()` and of the whole process.
        url: of a server on which databases may be created.
        peer: the Python that has pydiverse.pipedag; None to measure only ours.
    """
    pythons = {OURS: Path(sys.executable)} | ({} if peer is None else {THEIRS: peer})
    for number in range(rounds):
        order = list(pythons) if number % 2 == 0 else list(reversed(pythons))
        databases = {library: f"bench_{order.index(library)}" for library in order}
        for database in databases.values():
            new_database(url, database)
        for step in steps:  # the two runs that are compared are next to each other
            for library in order:
                started = time.perf_counter()
                seconds = one_run(pythons[library], library, step, with_database(url, databases[library]), folder)
                samples.add(step.what, library, seconds)
                processes.add(step.what, library, time.perf_counter() - started)
                print(f"{step.what:70} {library:18} {seconds:8.2f} s", flush=True)
        for database in databases.values():
            drop_database(url, database)


def bare(rows: int, rounds: int, what: str, samples: Samples, url: str, folder: Path) -> None:
    """Move the same DataFrame with ADBC alone."""
    for _ in range(rounds):
        given = {"flow": "bare", "rows": rows, "url": url}
        samples.add(what, BARE, _seconds(Path(sys.executable), OURS, given, folder))


def one_run(python: Path, library: str, step: Step, url: str, folder: Path) -> float:
    """Seconds that one run takes, in a process of its own."""
    (folder / "pipedag.yaml").write_text(_YAML.format(url=url, folder=folder))
    return _seconds(python, library, {"instance": step.instance, **step.sizes}, folder)


def _seconds(python: Path, library: str, given: dict[str, Any], folder: Path) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    done = subprocess.run(
        [str(python), str(HERE / "worker.py"), json.dumps(given)],
        env={**environment, "BENCH_LIBRARY": library},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{library}: {given}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def with_database(url: str, database: str) -> str:
    server, _, query = url.partition("?")
    return f"{server.rpartition('/')[0]}/{database}" + (f"?{query}" if query else "")


def new_database(url: str, name: str) -> None:
    drop_database(url, name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())


def drop_database(url: str, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute("CHECKPOINT")  # what one run has left to write is not paid by the next one
