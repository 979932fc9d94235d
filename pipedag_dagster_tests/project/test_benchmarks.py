"""The benchmarks run: in small sizes, and only ours. Nothing is said of how long they take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_the_quick_form_measures_everything_and_writes_the_page(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "bench.py"), "--quick"]
    command += ["--only", "compare,curves,memory", "--peer", str(tmp_path / "none"), "--page", str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ") and " s |" in line]
    assert len(rows) == 11 + 6, text
    for part in (
        "copying a tenth of them, nothing changed",
        "against ADBC alone",
        "### A DataFrame of eight columns",
        "## Memory",
    ):
        assert part in text


def test_a_small_catalog_is_simulated() -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "scale.py")]
    command += ["--stages", "2", "--tables", "2", "--instances", "2", "--commits", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "relations" in done.stdout
    assert "one table changed" in done.stdout
