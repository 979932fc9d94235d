"""What it costs and brings to run the tasks of a stage elsewhere: `python benchmarks/tasks.py`.

- Eight Python tasks that need a processor each, and no other task: on threads, in processes and on Dask.
- Forty tasks that do nothing: what a task costs on workers that are warm, above what it costs on threads.
- A table of ten million rows that passes through a task in a process as a stream: the memory of that process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, Table, materialize

PLACES = ["threads", "processes", "dask"]
CPU_TASKS, EMPTY_TASKS, ROWS = 8, 40, 10_000_000


@materialize
def calculate(number: int, size: int) -> pd.DataFrame:
    total = 0
    for i in range(size):
        total = (total * 31 + i + number) % 1_000_003
    return pd.DataFrame({"total": [total]})


@materialize
def nothing(number: int) -> pd.DataFrame:
    return pd.DataFrame({"number": [number]})


@materialize(lazy=True)
def many(rows: int) -> Table:
    return Table(f"SELECT i AS id, i * 0.5 AS price, 'text ' || i AS name FROM generate_series(1, {rows}) AS i")


@materialize(input_type=pa.RecordBatchReader)
def streamed(many: pa.RecordBatchReader) -> Iterator[pd.DataFrame]:
    for batch in many:
        yield batch.to_pandas()


@materialize(input_type=Iterator[pd.DataFrame])
def memory(streamed: Iterator[pd.DataFrame]) -> pd.DataFrame:
    process, peak, start = psutil.Process(), 0, psutil.Process().memory_info().rss
    rows = 0
    for batch in streamed:
        rows += len(batch)
        peak = max(peak, process.memory_info().rss)
    return pd.DataFrame({"rows": [rows], "above": [peak - start]})


def calculations(size: int) -> Flow:
    with Flow("tasks") as flow, Stage("work"):
        for number in range(CPU_TASKS):
            calculate(number, size)
    return flow


def empty() -> Flow:
    with Flow("tasks") as flow, Stage("work"):
        for number in range(EMPTY_TASKS):
            nothing(number)
    return flow


def stream() -> Flow:
    with Flow("tasks") as flow, Stage("work"):
        memory(streamed(many(ROWS)))
    return flow


def seconds(flow: Flow, instance: ConfigContext) -> float:
    start = time.perf_counter()
    flow.run(config=instance, cache_validation_mode="force_cache_invalid", fail_fast=True)
    return time.perf_counter() - start


def main() -> None:
    workers = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "__any__.yaml").write_text(
            "name: bench\ntable_store: {args: {url: embedded, schema_prefix: '{instance_id}_'}}\n"
        )
        for place in PLACES:
            count = "max_concurrent: 8" if place == "threads" else ""
            tasks = place if place == "threads" else f"{{on: {place}, workers: {workers}}}"
            (folder / f"{place}.yaml").write_text(f"tasks: {tasks}\n{count}\n")
        instances = {place: PipedagConfig(folder).get(place) for place in PLACES}
        for instance in instances.values():
            seconds(calculations(1), instance)  # the server, the workers and their libraries
        size = 20_000_000
        print(
            f"{workers} processors\n\n| | {CPU_TASKS} tasks that calculate | a task that does nothing |\n|---|---|---|"
        )
        for place, instance in instances.items():
            calculating = min(seconds(calculations(size), instance) for _ in range(3))
            doing_nothing = min(seconds(empty(), instance) for _ in range(3)) / EMPTY_TASKS
            print(f"| {place} | {calculating:.1f} s | {1000 * doing_nothing:.0f} ms |", flush=True)
        if "--stream" in sys.argv:
            for place in ("processes", "dask"):
                result = stream().run(config=instances[place])
                ((rows, above),) = result.get("work.memory").itertuples(index=False)
                print(f"{place}: {rows:,} rows streamed with {above / 2**20:.0f} MiB above the start")


if __name__ == "__main__":
    main()
