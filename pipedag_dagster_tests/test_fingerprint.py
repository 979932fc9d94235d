"""What counts as another version of the code, and as other content of an argument."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import importlib.util
import itertools
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from pipedag_dagster.errors import WiringError
from pipedag_dagster.fingerprint import code_version, content_hash

CODE = '''
import helpers

LIMIT = 10

def double(x):
    return 2 * x

class Rule:
    """Says what is right."""
    bound = 3
    def holds(self, x):
        return x < LIMIT

def task(x: int, y=1):
    """What it does."""
    # how
    return double(x) + helpers.triple(y) if Rule().holds(x) else [i for i in range(x)]
'''
HELPERS = "def triple(x):\n    return 3 * x\n\ndef unused():\n    return 0\n"

_numbers = itertools.count()


@pytest.fixture
def version(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The code version of `task` when these texts are the user's modules."""

    def compute(code: str = CODE, helpers: str = HELPERS) -> str:
        for name, text in (("helpers", helpers), ("user", code)):
            # Python and linecache know modules by file: each text gets one of its own.
            file = tmp_path / f"{name}_{next(_numbers)}.py"
            file.write_text(text)
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
        task: Callable[..., Any] = module.task
        return code_version(task)

    return compute


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("the function", "2 * x", "3 * x"),
        ("its own text", "range(x)", "range(x + 1)"),
        ("a default", "y=1", "y=2"),
        ("a method of a class that it uses", "x < LIMIT", "x <= LIMIT"),
        ("an attribute of a class that it uses", "bound = 3", "bound = 4"),
        ("a constant that a method uses", "LIMIT = 10", "LIMIT = 11"),
    ],
)
def test_a_change_of_what_it_reaches_is_another_version(
    version: Callable[..., str], what: str, old: str, new: str
) -> None:
    assert old in CODE
    assert version(CODE.replace(old, new)) != version(), what


def test_so_is_a_change_in_another_module_of_the_user(version: Callable[..., str]) -> None:
    assert version(helpers=HELPERS.replace("3 *", "4 *")) != version()


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("a comment", "# how", "# how it works"),
        ("the docstring", '"""What it does."""', '"""Something else."""'),
        ("no docstring", '    """What it does."""\n', ""),
        ("the docstring of a class", '"""Says what is right."""', '"""Another text."""'),
        ("formatting", "2 * x", "(2\n        * x)"),
        ("an annotation", "x: int", "x: float"),
        ("what it does not use", "LIMIT = 10", "OTHER = 5\nLIMIT = 10"),
    ],
)
def test_what_does_nothing_does_not_count(version: Callable[..., str], what: str, old: str, new: str) -> None:
    assert old in CODE
    assert version(CODE.replace(old, new)) == version(), what


def test_nor_does_a_function_of_another_module_that_it_does_not_use(version: Callable[..., str]) -> None:
    assert version(helpers=HELPERS.replace("return 0", "return 1")) == version()


def test_closures_count() -> None:
    def make(factor: int) -> Callable[[int], int]:
        return lambda x: factor * x

    assert code_version(make(1)) != code_version(make(2))
    assert code_version(make(1)) == code_version(make(1))


def test_libraries_count_by_name_only() -> None:
    assert code_version(pd.read_csv) == code_version(pd.read_csv)


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Window:
    start: dt.date
    days: int


VALUES: list[Any] = [
    *(None, True, 1, 1.0, "1", b"1", decimal.Decimal("1.10"), dt.date(2026, 1, 1), dt.timedelta(1)),
    *(pathlib.PurePosixPath("a/b"), Colour.RED, Window(dt.date(2026, 1, 1), 3), range(3)),
    *([1, 2], [1, [2]], [[1], 2], {1, 2}, {"a": 1}, {"a": [1]}, {"a": {"b": 1}}, "12", ["12"], ["1", "2"]),
    *(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}), pd.DataFrame({"a": [2]})),
]


def test_different_values_have_different_hashes() -> None:
    hashes = [content_hash(value) for value in VALUES]
    assert len(set(hashes)) == len(hashes)


def test_the_hash_is_the_same_in_every_process() -> None:
    program = (
        "from pipedag_dagster.fingerprint import content_hash\n"
        "print(content_hash({'b': {'x', 'y', 'z'}, 'a': [1, 2.5, None, 'text']}))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_numpy_scalars_are_the_numbers_that_they_are() -> None:
    assert content_hash(np.int64(3)) == content_hash(3)


@given(st.dictionaries(st.text(), st.integers()))
def test_the_order_of_a_dictionary_does_not_count(value: dict[str, int]) -> None:
    assert content_hash(dict(reversed(value.items()))) == content_hash(value)


def test_a_value_without_stable_content_is_refused_by_name() -> None:
    with pytest.raises(WiringError, match="argument 'x': a object has no content that is the same in every process"):
        content_hash(object(), "argument 'x'")
