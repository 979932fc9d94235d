"""The tutorial, typed by a reader: each command is run, each change is made, and what it promises is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BIN = Path(sys.executable).parent
NOT_TYPED = ("pip install", "cd ", "DAGSTER_HOME=")
"""What the test has done already, or what does not end."""


class Reader:
    """A person at a terminal, in the folder of the project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "COLUMNS": "100", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        self.environment.pop("DAGSTER_HOME", None)

    def type(self, command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        fails = command.endswith("# fails")
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout

    def enter(self, folder: str) -> None:
        self.folder /= folder
        self.environment["PYTHONPATH"] = str(self.folder)  # as `pip install -e .` would have it

    def change(self, diff: str) -> None:
        subprocess.run(["patch", "-p0"], input=diff, cwd=self.folder, text=True, check=True)


def without_times(text: str) -> list[list[str]]:
    return [re.sub(r"\d+\.\d\d(?!%)|\d+\.\d s", "", line).split() for line in text.splitlines() if line.strip()]


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    reader, printed = Reader(tmp_path), ""
    try:
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
            if language == "diff":
                reader.change(block)
            elif language == "text":
                assert without_times(printed) == without_times(block)
            else:
                for command in block.splitlines():
                    if not command.startswith(NOT_TYPED):
                        printed = reader.type(command)
                    if command.startswith("cd "):
                        reader.enter(command.removeprefix("cd "))
    finally:
        subprocess.run([BIN / "pipedag-dagster", "stop"], cwd=reader.folder, check=True)
