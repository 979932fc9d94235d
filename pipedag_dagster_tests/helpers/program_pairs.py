"""Pairs of small programs, from the files in `fingerprint/pairs`, and a place where they are run."""

from __future__ import annotations

import importlib
import pathlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pipedag_dagster.fingerprint.fingerprint import Fingerprint, fingerprint

PAIRS = pathlib.Path(__file__).parents[1] / "fingerprint" / "pairs"
KINDS = ["names", "modules", "functions", "classes", "libraries"]
MARK = re.compile("«([^|»]*)\\|([^»]*)»")


@dataclass(frozen=True)
class Program:
    """Files by their names. `task()` in shop.py is the task."""

    files: dict[str, str]

    @classmethod
    def read(cls, text: str, side: int) -> Program:
        parts = re.split(r"^-- (\S+)\n", MARK.sub(lambda mark: mark[side], text), flags=re.MULTILINE)
        return cls({"shop.py": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))})


def pairs(kind: str) -> Iterator[Any]:
    for block in re.split("^== ", (PAIRS / f"{kind}.txt").read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = block.partition("\n")
        yield pytest.param(Program.read(text, 1), Program.read(text, 2), id=f"{kind}: {title}")


class Computer:
    """A folder in which programs are run, each in a folder of its own."""

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._count = 0
        self._loaded: set[str] = set()

    def run(self, program: Program) -> tuple[Fingerprint, Any]:
        """The fingerprint of the task, and then its result."""
        self.forget()
        self._count += 1
        folder = self._folder / str(self._count)
        for name, text in program.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        self._loaded = {pathlib.PurePath(name).parts[0].removesuffix(".py") for name in program.files}
        self._monkeypatch.syspath_prepend(folder)
        task = importlib.import_module("shop").task
        found = fingerprint(task)
        return found, task()

    def forget(self) -> None:
        for name in list(sys.modules):
            if name.partition(".")[0] in self._loaded:
                del sys.modules[name]
