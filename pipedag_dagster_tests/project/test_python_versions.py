"""A result that one version of Python has made is found by the next: code and values have the same fingerprint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
OTHERS = [Path(path) for path in os.environ.get("PIPEDAG_TEST_PYTHONS", "").split(os.pathsep) if path]
OTHERS += [path for path in sorted(REPOSITORY.glob(".venv-3.*/bin/python")) if path not in OTHERS]
"""Environments of other versions of Python in which the package is installed."""

PROGRAM = """\
import datetime, decimal, pathlib, uuid
from pipedag_dagster.fingerprint.fingerprint import content_hash, fingerprint
import user

values = [
    1, 2.5, "text", b"bytes", None, True, [1, (2, 3)], {"a": 1, "b": {"x", "y"}}, frozenset({1, 2}),
    datetime.date(2026, 1, 1), datetime.timedelta(days=1), decimal.Decimal("1.00"), uuid.UUID(int=7),
    pathlib.PurePosixPath("a/b"), user.Colour.RED, user.Point(1, 2), user.Window(),
]
print(fingerprint(user.task).version, [content_hash(value) for value in values])
"""

USER = '''\
"""A module of a user, with what other versions of Python compile in another way."""
import collections
import dataclasses
import enum
import re

Point = collections.namedtuple("Point", "x y")
LIMIT = 10
PATTERN = re.compile("a+", re.IGNORECASE)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Window:
    days: int = 7

    def seconds(self) -> int:
        return self.days * 86_400


def helper(rows, *, least=LIMIT):
    total = sum(row for row in rows if row > least)
    return [total, *(row for row in rows)], {row: row for row in rows}, {row for row in rows}


def task(rows):
    def nested(x):
        return helper(x, least=1)

    try:
        match rows:
            case [first, *_] if PATTERN.search(f"{first!r:>{10}}"):
                out = nested(rows)
            case _:
                out = Window(3).seconds(), Colour.RED
    except* ValueError:
        out = lambda y: y + LIMIT
    finally:
        rows = None
    return out
'''


def answer(python: Path, folder: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}", "HOME": str(folder)}
    done = subprocess.run([python, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not OTHERS, reason="no environment of another Python: name some in PIPEDAG_TEST_PYTHONS")
@pytest.mark.parametrize("python", OTHERS, ids=str)
def test_a_fingerprint_is_the_same_in_every_version_of_python(python: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    assert answer(python, tmp_path) == answer(Path(sys.executable), tmp_path)
