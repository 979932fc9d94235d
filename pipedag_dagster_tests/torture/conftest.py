"""Prints the table of promises after the tests."""

from __future__ import annotations

from typing import Any

from pipedag_dagster_tests.torture import COUNTS


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not COUNTS:
        return
    width = max(len(count.promise) for count in COUNTS)
    terminalreporter.section("promises")
    terminalreporter.write_line(f"{'promise':{width}}  {'tries':>8}  {'violations':>10}")
    for count in COUNTS:
        line = f"{count.promise:{width}}  {count.tries:8,}  {count.violations:10,}  {count.note}"
        terminalreporter.write_line(line.rstrip())
