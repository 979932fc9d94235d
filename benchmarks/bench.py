"""All measurements, from one run on one machine: `make bench`.

    python benchmarks/bench.py [--short | --quick] [--only compare,dagster,curves,memory] [--peer PYTHON] [--page FILE]

    --short   fewer rounds and sizes, in about ten minutes
    --quick   small sizes, in a minute or two: whether it works, not how fast it is
    --peer    the Python that has pydiverse.pipedag; by default that of .venv-pipedag, if it is there

Everything is on an embedded PostgreSQL that is thrown away. Prints the samples, and writes the page.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import curves
import memory
import overhead
import page
from compare import rounds, steps

from pipedag_dagster.postgres import embedded, session

ROOT = Path(__file__).parent.parent
PARTS = ("compare", "dagster", "curves", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts: {', '.join(PARTS)}")
    parser.add_argument("--peer", type=Path, default=ROOT / ".venv-pipedag" / "bin" / "python")
    parser.add_argument("--page", type=Path, help="by default docs/benchmarks.md, unless --quick or --only")
    given = parser.parse_args()
    parts = given.only.split(",")
    form = "QUICK" if given.quick else "SHORT" if given.short else "FULL"
    target = given.page or (None if given.quick or parts != list(PARTS) else ROOT / "docs" / "benchmarks.md")
    peer = given.peer if given.peer.exists() else None
    started = time.time()
    results = page.Results(getattr(steps, form), " --short" if given.short else "")
    with tempfile.TemporaryDirectory(prefix="pdbench") as name:
        folder = Path(name)
        url = session.libpq(embedded.start(folder).set(database="postgres"))
        try:
            results.server = page.describe(url)
            for part in parts:
                results.load = max(results.load, os.getloadavg()[0])
                if part == "compare":
                    _compare(results, results.sizes, url, folder, peer)
                elif part == "dagster":
                    results.dagster = overhead.measure(repeat={"QUICK": 1, "SHORT": 2, "FULL": 5}[form])
                elif part == "curves":
                    results.curves = curves.measure(url, folder, getattr(curves, form))
                elif part == "memory":
                    results.memory = memory.measure(getattr(memory, form))
                results.minutes = (time.time() - started) / 60
                if target is not None:  # after each part: a run that is interrupted leaves what it has
                    target.write_text(page.text(results))
        finally:
            embedded.stop(folder)
    print(page.text(results))


def _compare(results: page.Results, sizes: steps.Sizes, url: str, folder: Path, peer: Path | None) -> None:
    if peer is None:
        print("Without pydiverse.pipedag: make .venv-pipedag/.ready", file=sys.stderr)
    for program, number in steps.programs(sizes):
        rounds.run(program, number, results.samples, results.processes, url, folder, peer)
    rounds.bare(sizes.frame_rows, sizes.rounds, steps.frame_line(sizes), results.samples, url, folder)


if __name__ == "__main__":
    main()
