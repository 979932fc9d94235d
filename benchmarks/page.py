"""Writes docs/benchmarks.md: what was measured, how, on what, and where we lose."""

from __future__ import annotations

import datetime as dt
import os
import platform
from dataclasses import dataclass, field

import psycopg
from compare import steps
from compare.rounds import BARE, OURS, THEIRS, Samples
from curves import Curve
from memory import FRAME_AIM, KINDS, Memory
from overhead import STAGES, TABLES, Overhead

ADBC_AIM, DAGSTER_AIM = 1.3, 1.05

INTRODUCTION = """\
# Benchmarks

What a run costs, beside pydiverse.pipedag {version} on the same PostgreSQL, and whether the cost stays flat as the work
grows. This page is written by one command, from one run:

```bash
{command}
```

{when}, {machine}; {server}. {load}
"""

HOW = """\
## Beside pydiverse.pipedag

A ratio is our seconds divided by theirs: below 1 we are faster. "aim" is what we want to reach.

{table}

How it is measured:

- Both run the same code, `benchmarks/compare/flows.py`: only the name of the imported library differs. Both read the
  same `pipedag.yaml`.
- Each run is a process of its own. "ours" and "theirs" are the seconds of `flow.run()`, without wiring, and without
  importing libraries. The last column is the ratio of the whole processes, with everything.
- Each round begins with an empty database for each library, on one server. The two runs that are compared are next to
  each other, and the libraries take turns in being first. There are {rounds} rounds ({larger_rounds} with
  {larger_rows:,} rows); the best run counts.
- The server is the embedded one, with [its settings](why.md#the-settings-of-the-embedded-server).
- DataFrames are made before the clock starts. "ADBC alone" writes the DataFrame, reads it, and writes it again, in one
  process, and keeps no catalog.
"""

DAGSTER = """\
## Beside bare Dagster

{tables} tables in {stages} stages, all cached, launched as a process of its own, against a Dagster job that yields the
same assets and does nothing else (`python benchmarks/overhead.py`; Dagster's storage is SQLite).

{table}
"""

CURVES = """\
## As the work grows

Only ours, each run in a process of its own. Flat means that the last column stays the same.

{tables}
"""

MEMORY = """\
## Memory

What a process takes at most while it runs a task, beyond what it had before, without PostgreSQL
(`python benchmarks/memory.py`). A DataFrame takes a multiple of its size; the aim is {aim}. Streams and copies take the
same however large the table is.

{table}
"""

LOSE = """\
## Where we lose

{lines}
"""

MORE = """\
## Other measurements

Each prints its own table:

```bash
python benchmarks/frames.py          # DataFrames in and out, against pandas
python benchmarks/views.py           # what a view costs beyond its table
python benchmarks/content_hash.py    # what it costs to hash a table
python benchmarks/sampling.py        # samples of TPC-H
python benchmarks/rare_rows.py       # finding rare rows
python benchmarks/observation.py     # noting which functions run
python benchmarks/executors.py       # starting a process for each step
python benchmarks/scale.py           # a catalog of 10,000 tables: docs/scale.md
```
"""


@dataclass
class Results:
    """What one run of the benchmarks has found."""

    sizes: steps.Sizes
    options: str = ""
    samples: Samples = field(default_factory=Samples)
    processes: Samples = field(default_factory=Samples)
    server: str = ""
    dagster: Overhead | None = None
    curves: list[Curve] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    load: float = 0
    minutes: float = 0


def describe(url: str) -> str:
    """The version of the server."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    return f"PostgreSQL {row[0] if row else '?'}"


def text(results: Results) -> str:
    """The whole page."""
    load = (
        f"The run took {results.minutes:.0f} minutes. The load of the machine was up to {results.load:.1f}: other "
        "programs ran beside it, so that seconds vary and ratios are rough."
        if results.load > 2 * (os.cpu_count() or 1)
        else f"The run took {results.minutes:.0f} minutes."
    )
    parts = [
        INTRODUCTION.format(
            version="0.12.15",
            command=f"python benchmarks/bench.py{results.options} --page docs/benchmarks.md"
            if results.options
            else "make bench",
            when=f"{dt.date.today():%Y-%m-%d}",
            machine=f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}",
            server=results.server,
            load=load,
        )
    ]
    if results.samples.seconds:
        parts.append(
            HOW.format(
                table=_compared(results),
                rounds=results.sizes.rounds,
                larger_rounds=1,
                larger_rows=results.sizes.larger_rows,
            )
        )
    if results.dagster is not None:
        parts.append(DAGSTER.format(tables=TABLES, stages=STAGES, table=_dagster(results.dagster)))
    if results.curves:
        parts.append(CURVES.format(tables="\n".join(map(_curve, results.curves))))
    if results.memory:
        parts.append(MEMORY.format(aim=FRAME_AIM, table=_memory(results.memory)))
    losses = [*_losses(results)]
    parts.append(LOSE.format(lines="\n".join(losses) if losses else "In none of the lines above is an aim missed."))
    return "\n".join([*parts, MORE])


def _compared(results: Results) -> str:
    rows = []
    for what, aim in steps.lines(results.sizes).items():
        ours, theirs = (results.samples.best(what, library) for library in (OURS, THEIRS))
        ratio, process = (samples.ratio(what, THEIRS) for samples in (results.samples, results.processes))
        rows.append((what, _seconds(ours), _seconds(theirs), _ratio(ratio), f"{aim:g}", _ratio(process)))
    frame = steps.frame_line(results.sizes)
    ours, bare = results.samples.best(frame, OURS), results.samples.best(frame, BARE)
    ratio = results.samples.ratio(frame, BARE)
    rows.append((f"{frame}, against ADBC alone", _seconds(ours), _seconds(bare), _ratio(ratio), f"{ADBC_AIM}", ""))
    return _table(("work", "ours", "theirs", "ratio", "aim", "process"), rows)


def _dagster(done: Overhead) -> str:
    units = ("seconds on the clock", "seconds of the processor")
    rows = [
        (unit, f"{done.bare[n]:.2f}", f"{done.warm[n]:.2f}", f"{done.ratios[n]:.2f}", f"{DAGSTER_AIM}")
        for n, unit in enumerate(units)
    ]
    return _table(("", "bare", "warm run", "ratio", "aim"), rows)


def _curve(curve: Curve) -> str:
    rows = [
        (f"{size:,}", f"{seconds:.2f} s", _small(seconds * curve.per / (1 if curve.unit == "run" else size)))
        for size, seconds in curve.points
    ]
    return f"### {curve.title}\n\n{_table((curve.size, 'run', f'per {curve.unit}'), rows)}\n"


def _memory(measured: list[Memory]) -> str:
    rows = [
        (KINDS[one.kind], f"{one.rows:,}", _megabytes(one.size), _megabytes(one.peak), f"{one.peak / one.size:.2f}")
        for one in measured
    ]
    return _table(("task", "rows of 8 columns", "as a DataFrame", "peak", "ratio"), rows)


def _losses(results: Results) -> list[str]:
    """A line for each aim that is missed, the slower ones than the other library first."""
    missed = []
    for what, aim in steps.lines(results.sizes).items():
        ratio = results.samples.ratio(what, THEIRS)
        if ratio is not None and ratio > aim:
            missed.append((ratio, f"{what}: {ratio:.2f} of theirs; the aim is {aim:g}"))
        process = results.processes.ratio(what, THEIRS)
        if process is not None and process > 1:
            missed.append((process, f"{what}, the whole process: {process:.2f} of theirs"))
    ratio = results.samples.ratio(steps.frame_line(results.sizes), BARE)
    if ratio is not None and ratio > ADBC_AIM:
        missed.append((ratio, f"{steps.frame_line(results.sizes)}: {ratio:.2f} of ADBC alone; the aim is {ADBC_AIM}"))
    if results.dagster is not None and results.dagster.ratios[0] > DAGSTER_AIM:
        ratio = results.dagster.ratios[0]
        missed.append((ratio, f"a warm run in Dagster: {ratio:.2f} of the bare job; the aim is {DAGSTER_AIM}"))
    for one in results.memory:
        if one.kind == "frame" and one.peak / one.size > FRAME_AIM:
            missed.append((0, f"{KINDS[one.kind]}: {one.peak / one.size:.2f} of its memory; the aim is {FRAME_AIM}"))
    return [f"- {'**slower**: ' if ratio > 1 else ''}{line}." for ratio, line in sorted(missed, reverse=True)]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---", *("---:" for _ in head[1:])), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value >= 0.095 else f"{value:.3f}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _small(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
