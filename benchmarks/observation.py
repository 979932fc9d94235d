"""What noting the functions that run costs a task: `python benchmarks/observation.py`."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from pipedag_dagster.fingerprint.observation import observe

ROUNDS = 7


def pandas_task() -> None:
    numbers = np.random.default_rng(1).integers(0, 1000, (300_000, 4))
    frame = pd.DataFrame(numbers, columns=list("abcd"))
    for _ in range(3):
        joined = frame.merge(frame.groupby("a", as_index=False)["b"].sum(), on="a")
        joined.sort_values(["a", "c"]).groupby("d").agg({"c": "mean", "b_y": "max"})


def apply_task() -> None:
    frame = pd.DataFrame({"a": range(300_000)})
    frame["a"].map(add_one)


def add_one(number: int) -> int:
    return number + 1


def million_calls() -> None:
    total = 0
    for _ in range(1_000_000):
        total = add_one(total)


def loop_without_calls() -> None:
    total = 0
    for number in range(5_000_000):
        total += number & 7


def nothing() -> None:
    add_one(1)


def seconds(task: Callable[[], None]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def observed(task: Callable[[], None]) -> float:
    started = time.perf_counter()
    with observe():
        task()
    return time.perf_counter() - started


print(f"Python {sys.version.split()[0]}, the best of {ROUNDS}\n")
print("| task | alone | observed | more |\n|---|---|---|---|")
for task in (pandas_task, apply_task, million_calls, loop_without_calls, nothing):
    pairs = [(seconds(task), observed(task)) for _ in range(ROUNDS)]
    alone, with_it = (min(times) for times in zip(*pairs, strict=True))
    more = statistics.median(b / a - 1 for a, b in pairs)
    print(f"| {task.__name__.replace('_', ' ')} | {alone * 1e3:.2f} ms | {with_it * 1e3:.2f} ms | {more:+.1%} |")
