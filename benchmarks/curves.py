"""Does the cost stay flat? Seconds per task, per version, per table of a commit and per row, as the work grows.

Only ours. Each measured run is a process of its own; importing and wiring are not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from compare import rounds
from compare.rounds import OURS, Step


@dataclass(frozen=True)
class Sizes:
    tasks: tuple[int, ...] = (10, 100, 1_000, 3_000)
    stages: int = 100
    versions: tuple[int, ...] = (10, 100, 1_000)
    rows: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    frame_rows: tuple[int, ...] = (10_000, 100_000, 1_000_000, 3_000_000)
    repeat: int = 2
    """How often a short run is measured; the best one counts."""


FULL = Sizes()
SHORT = Sizes(
    tasks=(10, 100, 1_000),
    versions=(10, 100),
    rows=(10_000, 100_000, 1_000_000),
    frame_rows=(10_000, 100_000, 1_000_000),
)
QUICK = Sizes(tasks=(2,), stages=2, versions=(1,), rows=(10,), frame_rows=(10,), repeat=1)


@dataclass(frozen=True)
class Curve:
    """The seconds of a run at several sizes. `unit` is what they are divided by for the last column."""

    title: str
    size: str
    unit: str
    points: tuple[tuple[int, float], ...]
    per: float = 1


def measure(url: str, folder: Path, sizes: Sizes) -> list[Curve]:
    """All curves.

    Args:
        url: of a server on which databases may be created.
    """
    runner = _Runner(url, folder, sizes.repeat)
    warm, changed = _tasks(runner, sizes)
    spread = [
        (tasks, runner.warm({"flow": "small", "tables": tasks // sizes.stages, "stages": sizes.stages, "revision": 0}))
        for tasks in sizes.tasks
        if tasks >= sizes.stages
    ]
    return [
        Curve("Nothing changed, one stage", "tasks", "task", tuple(warm)),
        Curve(f"Nothing changed, {sizes.stages} stages", "tasks", "task", tuple(spread)),
        Curve("One table changed in a stage, which is committed", "tables", "table", tuple(changed)),
        Curve("Nothing changed, ten tables, after many versions", "versions", "run", tuple(_versions(runner, sizes))),
        Curve("One table by SQL, cold", "rows", "million rows", tuple(_rows(runner, sizes.rows, "large")), 1e6),
        Curve(
            "A DataFrame of eight columns through two tasks, cold",
            "rows",
            "million rows",
            tuple(_rows(runner, sizes.frame_rows, "frame")),
            1e6,
        ),
    ]


class _Runner:
    def __init__(self, url: str, folder: Path, repeat: int) -> None:
        self.url, self.folder, self.repeat = url, folder, repeat
        self.database = rounds.with_database(url, "bench_curve")

    def empty(self) -> None:
        rounds.new_database(self.url, "bench_curve")

    def seconds(self, sizes: dict[str, object]) -> float:
        seconds = rounds.one_run(Path(sys.executable), OURS, Step("", "full", sizes), self.database, self.folder)
        print(f"{sizes!s:80} {seconds:8.2f} s", flush=True)
        return seconds

    def warm(self, sizes: dict[str, object]) -> float:
        """A run where nothing changed: the best of some."""
        self.empty()
        self.seconds(sizes)
        return self.best(sizes)

    def best(self, sizes: dict[str, object]) -> float:
        return min(self.seconds(sizes) for _ in range(self.repeat))


def _tasks(runner: _Runner, sizes: Sizes) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    warm, changed = [], []
    for tasks in sizes.tasks:
        flow = {"flow": "small", "tables": tasks, "stages": 1, "revision": 0}
        warm.append((tasks, runner.warm(flow)))
        changed.append((tasks, min(runner.seconds(flow | {"revision": number + 1}) for number in range(sizes.repeat))))
    return warm, changed


def _versions(runner: _Runner, sizes: Sizes) -> Iterable[tuple[int, float]]:
    runner.empty()
    before = 0
    flow = {"flow": "small", "tables": 10, "stages": 1}
    for versions in sizes.versions:
        runner.seconds(flow | {"revision": versions, "before": list(range(before, versions))})
        before = versions
        yield versions, runner.best(flow | {"revision": versions})


def _rows(runner: _Runner, sizes: Iterable[int], flow: str) -> Iterable[tuple[int, float]]:
    for rows in sizes:
        runner.empty()
        yield (
            rows,
            runner.seconds(
                {"flow": "frame", "rows": rows}
                if flow == "frame"
                else {"flow": "large", "tables": 1, "rows": rows, "revision": 0}
            ),
        )
