"""The tutorial, typed by a reader: each command is run, each change is made, and what it promises is printed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from pipedag_dagster_tests.helpers.terminal import Terminal

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
NOT_TYPED = ("pip install", "cd ", "DAGSTER_HOME=")
"""What the test has done already, or what does not end."""


def without_times(text: str) -> list[list[str]]:
    return [re.sub(r"\d+\.\d\d(?!%)|\d+\.\d s", "", line).split() for line in text.splitlines() if line.strip()]


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    reader, printed = Terminal(tmp_path), ""
    try:
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
            if language == "diff":
                subprocess.run(["patch", "-p0"], input=block, cwd=reader.folder, text=True, check=True)
            elif language == "text":
                assert without_times(printed) == without_times(block)
            else:
                for command in block.splitlines():
                    if not command.startswith(NOT_TYPED):
                        printed = reader.type(command)
                    if command.startswith("cd "):
                        reader.folder /= command.removeprefix("cd ")
    finally:
        reader.type("pipedag-dagster stop")
