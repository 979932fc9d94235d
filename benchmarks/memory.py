"""How much memory tasks take while tables pass through them: DataFrames in multiples of their own size, streams in MB.

    python benchmarks/memory.py [rows of the frame] [rows of the streams]

Each task runs in a process of its own, on embedded servers that are thrown away. What is counted is the peak of the
process above what it has before the task, without PostgreSQL. A frame task reads a DataFrame and returns it; a stream
task does the same batch by batch; a copy goes from one server to another.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, materialize
from pipedag_dagster.postgres import embedded, session

CONFIG = """\
name: memory
instances:
  __any__: {table_store: {args: {schema_prefix: "{instance_id}_", create_database_if_not_exists: true}}}
  full: {table_store: {args: {url: "%s"}}}
  midi: {table_store: {args: {url: "%s"}}, attrs: {copy_filtered_input: true, copy_source: full}}
"""
KINDS = {
    "frame": "a DataFrame through a task",
    "write": "a generator of DataFrames",
    "iterator": "a stream of DataFrames through a task",
    "reader": "a stream of Arrow through a task",
    "copy": "an input copied to another server",
}
FRAME_AIM = 2.5
"""A task that reads a DataFrame and returns it takes at most so many times its size."""

BATCH = 100_000
FULL, SHORT, QUICK = (1_000_000, 10_000_000), (1_000_000, 2_000_000), (100_000, 100_000)


@dataclass(frozen=True)
class Memory:
    """What one task took: the peak of its process, and the size of its rows as a DataFrame, both in bytes."""

    kind: str
    rows: int
    size: int
    peak: int


def measure(sizes: tuple[int, int]) -> list[Memory]:
    """Measure all kinds.

    Args:
        sizes: the rows of the DataFrame, and those of the streams.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="pdmemory") as name:
        folders = [Path(name) / server for server in ("1", "2")]
        for folder in folders:
            folder.mkdir()
        try:
            servers = [embedded.start(folder) for folder in folders]
            for rows, kinds in ((sizes[0], ("frame",)), (sizes[1], ("write", "iterator", "reader", "copy"))):
                config = Path(name) / "pipedag.yaml"
                config.write_text(CONFIG % tuple(session.libpq(server.set(database=kinds[0])) for server in servers))
                if "write" not in kinds:
                    _child(config, rows, "write")
                found += [_child(config, rows, kind) for kind in kinds]
        finally:
            for folder in folders:
                embedded.stop(folder)
    return found


def _child(config: Path, rows: int, kind: str) -> Memory:
    command = [sys.executable, __file__, str(config), str(rows), kind]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    memory = Memory(**json.loads(done.stdout.splitlines()[-1]))
    print(f"{KINDS[kind]:40} {rows:12,} rows {memory.peak / 1e6:8.0f} MB", flush=True)
    return memory


def batch(start: int, rows: int) -> pd.DataFrame:
    """Eight columns: three of integers, two of floats, text, a time and a truth value."""
    ids = np.arange(start, start + rows)
    return pd.DataFrame(
        {
            "id": ids,
            "a": ids % 1000,
            "b": ids * 7919,
            "x": ids / 3.0,
            "y": np.sqrt(ids),
            "name": np.array(["ab", "cde", "fghi"])[ids % 3],
            "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(ids % 10**6, unit="s"),
            "flag": ids % 2 == 0,
        }
    )


def stream(rows: int) -> Iterator[pd.DataFrame]:
    for start in range(0, rows, BATCH):
        yield batch(start, min(BATCH, rows - start))


def tasks(rows: int, kind: str, stage: str) -> Flow:
    """A flow: a stage that makes a table by a stream, and one that passes it through a task."""
    types: dict[str, Any] = {"iterator": Iterator[pd.DataFrame], "reader": pa.RecordBatchReader}

    @materialize(version="1", input=True)
    def table() -> Iterator[pd.DataFrame]:
        return stream(rows)

    @materialize(version="1", name=f"passed_{kind}", input_type=types.get(kind, pd.DataFrame))
    def passed(given: Any) -> Any:
        return (each for each in given) if kind == "iterator" else given

    with Flow("memory") as flow:
        with Stage(stage):
            made = table()
        with Stage(f"{stage}_{kind}"):
            passed(made)
    return flow


def child(config: Path, rows: int, kind: str) -> Memory:
    """One measurement, in this process."""
    instances = PipedagConfig(config)
    source, instance = instances.get("full"), instances.get("midi" if kind == "copy" else "full")

    def run(rows: int, stage: str) -> None:
        step = stage if kind in ("write", "copy") else f"{stage}_{kind}"
        tasks(rows, kind, stage).run(instance, step, fail_fast=True)

    _prepare(source, kind)
    run(BATCH // 10, f"first_{kind}")  # what is imported and connected first belongs to no task
    gc.collect()
    peak = peak_of(lambda: run(rows, "raw"))
    written = instance.store.table_store.current(["raw"])["raw"].tables["table"]
    if written.rows != rows:
        sys.exit(f"{kind}: {written.rows:,} rows were written, not {rows:,}")
    size = int(batch(0, BATCH).memory_usage(deep=True).sum() / BATCH * rows)
    return Memory(kind, rows, size, peak)


def _prepare(source: ConfigContext, kind: str) -> None:
    """Make the small table that the first run reads."""
    if kind != "write":
        tasks(BATCH // 10, kind, f"first_{kind}").run(source, f"first_{kind}", fail_fast=True)


def peak_of(action: Callable[[], Any]) -> int:
    """The peak of this process while `action` runs, in bytes above what it has now."""
    now = _resident()
    peak, done = [now], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], _resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    action()
    done.set()
    watcher.join()
    return peak[0] - now


def _resident() -> int:
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    if len(sys.argv) == 4:
        print(json.dumps(asdict(child(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))))
        return
    given = [int(argument) for argument in sys.argv[1:]]
    for one in measure((*given, *FULL[len(given) :])[:2]):
        print(f"{KINDS[one.kind]}: {one.peak / one.size:.2f} of {one.size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
