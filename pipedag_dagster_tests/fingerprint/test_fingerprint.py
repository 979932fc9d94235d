"""What counts as another version of the code, and as other content of an argument."""

from __future__ import annotations

import ast
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import importlib
import operator
import os
import pathlib
import random
import re
import sqlite3
import subprocess
import sys
import threading
import zoneinfo
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings

from pipedag_dagster.errors import WiringError
from pipedag_dagster.fingerprint import code_source
from pipedag_dagster.fingerprint.fingerprint import (
    Fingerprint,
    code_text,
    code_version,
    content_hash,
    fingerprint,
    libraries,
)

CODE = '''
import helpers
import helpers.deep.inner as inner
from helpers import LIMITS, half as halve
from helpers.rules import *
import collections, dataclasses, datetime, enum, functools, operator, re
import pandas as pd
from pipedag_dagster import materialize

LIMIT = 10
UNUSED = 0
FLAGS = {"strict": [1, 2], "names": {"a", "b"}}
PATTERN = re.compile("a+", re.IGNORECASE)
FRAME = pd.DataFrame({"rate": [0.1, 0.2]})
DISPATCH = {"inc": lambda x: x + 1, "dec": lambda x: x - 1}
Point = collections.namedtuple("Point", ["x", "y"])
MISSING = object()

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

@dataclasses.dataclass(frozen=True)
class Window:
    """A span."""
    days: int
    closed: bool = True

WINDOW = Window(7)

def double(x):
    return 2 * x

def logged(times):
    def decorate(fn):
        @functools.wraps(fn)
        def wrapper(*args, **kwargs):
            return fn(*args, **kwargs) * 1 * times
        return wrapper
    return decorate

@logged(times=3)
def decorated(x):
    return x - 8

@functools.lru_cache(maxsize=None)
def cached(x):
    return x + 800

@functools.singledispatch
def generic(x):
    return 1

@generic.register
def _(x: str):
    return 900

class Base:
    shared = 5
    def inherited(self):
        return 55

class Rule(Base):
    """Says what is right."""
    bound = 3
    def holds(self, x):
        return x < LIMIT
    @classmethod
    def make(cls):
        return 31
    @staticmethod
    def fixed():
        return 32
    @property
    def prop(self):
        return 33
    @functools.cached_property
    def kept(self):
        return 34

class Scale:
    def __init__(self, by):
        self.by = by
    def __call__(self, x):
        return self.by * x * 1000

SCALE = Scale(70)
add_four = functools.partial(operator.add, 4)
twice = functools.partial(double)
one, two = lambda x: x + 11, lambda x: x + 22
pick = operator.itemgetter("key")

def make_adder(amount):
    def adder(x):
        return x + amount
    return adder

add_six = make_adder(6)

def even(n):
    return True if n == 0 else odd(n - 1)

def odd(n):
    return False if n == 0 else even(n - 10)

def factorial(n):
    return 1 if n < 2 else n * factorial(n - 12)

@materialize(version="9.9", outputs=["other"])
def other_task(x):
    return x + 4444

@materialize(outputs=["a", "b"], cache=lambda: UNUSED)
def task(x: int, y=1, *, z=(2, 3)):
    """What it does."""
    from helpers.late import at_last
    # how
    def nested(v):
        return v - 77
    local: int = 5
    return [
        double(x) + helpers.triple(y) if Rule().holds(x) else [i for i in range(x)],
        helpers.deep.inner.far(), inner.far(), halve(x), LIMITS, starred(),
        FLAGS["strict"], PATTERN.sub("", "a"), FRAME, DISPATCH["inc"](1), Point(1, 2), MISSING,
        Colour.RED, WINDOW, decorated(x), cached(x), generic(x), SCALE(x), add_four(1), twice(1), two(1), pick,
        add_six(1), even(4), factorial(5), other_task(1), nested(x), at_last(),
        (lambda v: v * 99)(x),
    ]
'''
HELPERS = {
    "__init__": "from . import deep\nfrom .late import LATE as AGAIN\nLIMITS = [1, 2]\n\n"
    "def triple(x):\n    return 3 * x + AGAIN\n\ndef half(x):\n    return x / 2\n\ndef unused():\n    return 0\n",
    "deep/__init__": "from . import inner\n",
    "deep/inner": "from ..late import LATE\n\ndef far():\n    return LATE + 123\n",
    "late": "LATE = 66\n\ndef at_last():\n    return 456\n",
    "rules": "STAR = 7\n\ndef starred():\n    return STAR\n",
}


@dataclasses.dataclass
class Project:
    """The user's modules, which a test can write anew and load."""

    folder: pathlib.Path

    def write(self, code: str = CODE, **helpers: str) -> None:
        for name, text in (HELPERS | helpers).items():
            file = self.folder / "helpers" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (self.folder / "user.py").write_text(code)

    def task(self, code: str = CODE, **helpers: str) -> Any:
        """`task` of the module, in a new interpreter's eyes."""
        forget()
        self.write(code, **helpers)
        sys.path.insert(0, str(self.folder))
        importlib.invalidate_caches()
        try:
            return importlib.import_module("user").task
        finally:
            sys.path.remove(str(self.folder))

    def version(self, code: str = CODE, **helpers: str) -> str:
        return code_version(self.task(code, **helpers))

    def fingerprint(self, code: str) -> Fingerprint:
        return fingerprint(self.task(code))


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("user", "helpers")]:
        del sys.modules[name]


@pytest.fixture
def project(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files change within a second here
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # what a function imports itself
    yield Project(tmp_path)
    forget()


CHANGES = [
    ("a function", "2 * x", "3 * x"),
    ("its own text", "range(x)", "range(x + 1)"),
    ("a nested function", "v - 77", "v - 78"),
    ("a lambda in it", "v * 99", "v * 98"),
    ("a default", "y=1", "y=2"),
    ("a default of a keyword", "z=(2, 3)", "z=(2, 4)"),
    ("a class that it uses", "x < LIMIT", "x <= LIMIT"),
    ("an attribute of a class", "bound = 3", "bound = 4"),
    ("a class method", "return 31", "return 310"),
    ("a static method", "return 32", "return 320"),
    ("a property", "return 33", "return 330"),
    ("a cached property", "return 34", "return 340"),
    ("an inherited method", "return 55", "return 56"),
    ("an inherited attribute", "shared = 5", "shared = 6"),
    ("a constant that a method uses", "LIMIT = 10", "LIMIT = 11"),
    ("a list in a dict", "[1, 2]", "[1, 3]"),
    ("a set in a dict", '{"a", "b"}', '{"a", "c"}'),
    ("a regular expression", '"a+"', '"a*"'),
    ("its flags", "re.IGNORECASE", "re.MULTILINE"),
    ("a DataFrame", "[0.1, 0.2]", "[0.1, 0.3]"),
    ("a lambda in a dict", "lambda x: x + 1,", "lambda x: x + 3,"),
    ("a namedtuple", '["x", "y"]', '["x", "z"]'),
    ("a member of an enum", "RED = 1", "RED = 3"),
    ("a field of a dataclass", "    closed: bool = True\n", ""),
    ("the type of a field", "days: int", "days: float"),
    ("an instance of a dataclass", "Window(7)", "Window(8)"),
    ("the options of a decorator of a class", "frozen=True", "frozen=False"),
    ("the code of a decorator", "* 1 * times", "* 2 * times"),
    ("the arguments of a decorator", "times=3", "times=4"),
    ("what it decorates", "x - 8", "x - 9"),
    ("what a decorator of a library wraps", "x + 800", "x + 801"),
    ("what is registered with a generic function", "return 900", "return 901"),
    ("the annotation by which it is registered", "x: str", "x: bytes"),
    ("a callable object", "* 1000", "* 1001"),
    ("its state", "Scale(70)", "Scale(71)"),
    ("an argument of a partial", "operator.add, 4", "operator.add, 5"),
    ("the function of a partial", "operator.add, 4", "operator.sub, 4"),
    ("the second lambda of a line", "x + 22", "x + 23"),
    ("an item getter", '"key"', '"value"'),
    ("a closure", "make_adder(6)", "make_adder(7)"),
    ("the function of a closure", "x + amount", "x - amount"),
    ("mutual recursion", "even(n - 10)", "even(n - 100)"),
    ("recursion", "factorial(n - 12)", "factorial(n - 13)"),
    ("a task that it calls", "x + 4444", "x + 4445"),
]


@pytest.mark.parametrize(("what", "old", "new"), CHANGES, ids=[what for what, _, _ in CHANGES])
def test_a_change_of_what_it_reaches_is_another_version(project: Project, what: str, old: str, new: str) -> None:
    assert old in CODE
    assert project.version(CODE.replace(old, new)) != project.version(), what


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("__init__", "3 *", "4 *"),
        ("__init__", "x / 2", "x / 3"),
        ("__init__", "[1, 2]", "[1, 2, 3]"),
        ("deep/inner", "+ 123", "+ 124"),
        ("late", "66", "67"),
        ("late", "456", "457"),
        ("rules", "STAR = 7", "STAR = 8"),
    ],
)
def test_so_is_a_change_in_another_module_of_the_user(project: Project, module: str, old: str, new: str) -> None:
    assert old in HELPERS[module]
    assert project.version(**{module: HELPERS[module].replace(old, new)}) != project.version()


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("a comment", "# how", "# how it works"),
        ("the docstring", '"""What it does."""', '"""Something else."""'),
        ("no docstring", '    """What it does."""\n', ""),
        ("the docstring of a class", '"""Says what is right."""', '"""Another text."""'),
        ("formatting", "2 * x", "(2\n        * x)"),
        ("an annotation", "x: int,", "x: float,"),
        ("the annotation of a local name", "local: int", "local: float"),
        ("an annotation of what is returned", "def double(x):", "def double(x) -> int:"),
        ("a constant that it does not use", "UNUSED = 0", "UNUSED = 1"),
        ("the lambda beside the one that it uses", "x + 11", "x + 12"),
        ("the options of the task", 'outputs=["a", "b"]', 'outputs=["c"]'),
        ("the options of a task that it calls", '"9.9"', '"9.10"'),
        ("an import", "import pandas as pd", "import sys\nimport pandas as pd"),
        ("the order of a set", '{"a", "b"}', '{"b", "a"}'),
        ("pass", "return 55", "pass\n        return 55"),
    ],
)
def test_what_does_nothing_does_not_count(project: Project, what: str, old: str, new: str) -> None:
    assert old in CODE
    assert project.version(CODE.replace(old, new)) == project.version(), what


def test_nor_does_a_function_of_another_module_that_it_does_not_use(project: Project) -> None:
    other = HELPERS["__init__"].replace("return 0", "return 1")
    assert other != HELPERS["__init__"]
    assert project.version(__init__=other) == project.version()


def test_which_name_means_what_counts(project: Project) -> None:
    code = "def a():\n    return 1\n\ndef b():\n    return 2\n\nfirst, second = {}\n\n"
    code += "def task():\n    return first() - second()\n"
    assert project.version(code.format("a, b")) != project.version(code.format("b, a"))


def test_a_module_that_is_used_as_a_value_counts_as_a_whole(project: Project) -> None:
    code = "import helpers\n\ndef task(name):\n    return getattr(helpers, name)()\n"
    other = HELPERS["__init__"].replace("return 0", "return 1")
    assert project.version(code, __init__=other) != project.version(code)


def test_a_module_that_makes_its_names_counts_by_the_code_that_makes_them(project: Project) -> None:
    code = "import helpers\n\ndef task():\n    return helpers.MADE\n"
    made = (
        HELPERS["__init__"]
        + "\ndef __getattr__(name):\n    if name[0] != 'M': raise AttributeError(name)\n    return {}\n"
    )
    assert project.version(code, __init__=made.format(1)) != project.version(code, __init__=made.format(2))


@pytest.mark.parametrize(
    ("code", "old", "new"),
    [
        ("try:\n    from nothing import f\nexcept ImportError:\n    from helpers import half as f", "x / 2", "x / 3"),
        (
            "import abc\nclass B(abc.ABC):\n    def g(self): return 1\nclass A(B): pass\nf = A().g",
            "return 1",
            "return 2",
        ),
        ("class M(type):\n    def g(cls): return 1\nclass A(metaclass=M): pass\nf = A.g", "return 1", "return 2"),
        ("class D:\n    def __get__(self, o, t): return 1\nclass A: x = D()\ndef f(): return A().x", "urn 1", "urn 2"),
        ("class A: pass\nA.g = lambda self: 1\ndef f(): return A().g()", "self: 1", "self: 2"),
        (
            "class B:\n    def __init_subclass__(cls): cls.v = 1\nclass A(B): pass\ndef f(): return A.v",
            "v = 1",
            "v = 2",
        ),
        (
            "FOUND = {}\ndef add(g):\n    FOUND[1] = g\n@add\ndef g(): return 1\ndef f(): return FOUND[1]()",
            "rn 1",
            "rn 2",
        ),
        ("X = [1]\nX += [2]\ndef f(): return X", "[2]", "[3]"),
        ("f = (lambda x: (lambda y: y + 1))(0)", "y + 1", "y + 2"),
        ("D = 1\nclass A:\n    def g(self, x=D): return x\ndef f(): return A().g()", "D = 1", "D = 2"),
        ("import enum\nE = enum.Enum('E', 'A B')\ndef f(): return E.A", "'A B'", "'B A'"),
        (
            "import enum\nclass E(enum.Enum):\n    A = 1\n    def g(self): return 1\ndef f(): return E.A.g()",
            "urn 1",
            "urn 2",
        ),
        ("from typing import NamedTuple\nclass P(NamedTuple):\n    x: int = 1\ndef f(): return P()", "= 1", "= 2"),
        ("import collections\nP = collections.namedtuple('P', 'x', defaults=[1])\ndef f(): return P()", "[1]", "[2]"),
        ("def f():\n    n = 0\n    def g():\n        nonlocal n\n        n += 1\n    return g()", "+= 1", "+= 2"),
        ("def f(x=0):\n    match x:\n        case [a, *b]: return a\n    return f'{x:.2f}'", ".2f", ".3f"),
        ("def f(x=0):\n    match x:\n        case [a, *b]: return a\n    return x", "*b", "_"),
        ("len = lambda x: 1\ndef f(): return len([])", "x: 1", "x: 2"),
    ],
)
def test_so_does_code_that_is_reached_in_less_usual_ways(project: Project, code: str, old: str, new: str) -> None:
    code += "\n\ndef task():\n    return f()\n"
    before = project.version(code)
    other = HELPERS["__init__"].replace(old, new)
    assert (code + HELPERS["__init__"]).count(old)
    assert project.version(code.replace(old, new), __init__=other) != before


def test_a_name_of_a_library_is_not_looked_into(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from os import environ\nimport os\n\ndef task():\n    return environ, os.environ\n"
    monkeypatch.setenv("HOME", "/here")
    before = project.fingerprint(code)
    monkeypatch.setenv("HOME", "/there")
    assert project.fingerprint(code) == before
    assert not before.unstable


def test_a_module_of_the_user_with_the_name_of_one_of_python_counts(project: Project) -> None:
    (project.folder / "xdrlib.py").write_text("def clean():\n    return 1\n")
    code = "import xdrlib\n\ndef task():\n    return xdrlib.clean()\n"
    before = project.version(code)
    del sys.modules["xdrlib"]
    (project.folder / "xdrlib.py").write_text("def clean():\n    return 2\n")
    assert project.version(code) != before
    del sys.modules["xdrlib"]


def test_an_object_that_has_every_attribute_has_an_end(project: Project) -> None:
    code = "class Any:\n    def __getattr__(self, name):\n        return Any()\n"
    code += "    def __call__(self):\n        return 1\n\n"
    assert project.version(f"{code}THING = Any()\n\ndef task():\n    return THING\n")


def test_a_thousand_functions_in_a_row_have_one(project: Project) -> None:
    calls = "".join(f"def f{i}():\n    return f{i + 1}()\n\n" for i in range(1000))
    code = calls + "def f1000():\n    return 5\n\ndef task():\n    return f0()\n"
    assert project.version(code) != project.version(code.replace("return 5", "return 6"))


# Stability

PROGRAM = (
    "import sys, user\n"
    "from pipedag_dagster.fingerprint.fingerprint import fingerprint, content_hash\n"
    "found = fingerprint(user.task)\n"
    "print(found.version, dict(found.unstable), content_hash({'b': {'x', 'y', 'z'}, 'a': [1, 2.5, None, 'text']}))"
)


def in_another_process(folder: pathlib.Path, seed: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_in_every_process_and_folder(project: Project, tmp_path: pathlib.Path) -> None:
    code = CODE.replace(
        "LIMIT = 10", "import pathlib\nHERE = pathlib.Path(__file__).parent\nLIMIT = len(str(HERE)) * 0"
    )
    code = code.replace("MISSING,", "MISSING, HERE, UP, str(HERE / 'x'),").replace(
        "UNUSED = 0", "UNUSED = 0\nUP = None"
    )
    code = code.replace("MISSING = object()", "MISSING = object()\nUP = [str(HERE.parent / 'data'), HERE / 'sql']")
    found = set()
    for folder, seed in (("one", "1"), ("another/place", "2"), ("one", "3")):
        place = Project(tmp_path / folder / "src")
        place.write(code)
        found.add(in_another_process(place.folder, seed))
    assert len(found) == 1
    assert " {} " in found.pop()  # and nothing was left out


def test_where_a_path_leads_counts_all_the_same(project: Project) -> None:
    code = "import pathlib\nDATA = pathlib.Path(__file__).parent / 'a.csv'\n\ndef task():\n    return DATA\n"
    assert project.version(code.replace("a.csv", "b.csv")) != project.version(code)
    code = (
        "import pathlib\nSQL = (pathlib.Path(__file__).parent / 'a.sql').read_text()\n\ndef task():\n    return SQL\n"
    )
    (project.folder / "a.sql").write_text("SELECT 1")
    before = project.version(code)
    (project.folder / "a.sql").write_text("SELECT 2")
    assert project.version(code) != before


OTHER_PYTHONS = sorted(pathlib.Path.home().glob(".pyenv/versions/3.1[1-9].*/bin/python"))


@pytest.mark.skipif(not OTHER_PYTHONS, reason="no other Python is installed")
def test_source_is_read_the_same_way_by_other_versions_of_python(tmp_path: pathlib.Path) -> None:
    (tmp_path / "code.py").write_text(CODE)
    program = (
        "import sys, types, hashlib\n"
        f"for name in ('pipedag_dagster', 'pipedag_dagster.fingerprint'):\n"
        f"    sys.modules[name] = types.ModuleType(name)\n"
        f"sys.modules['pipedag_dagster.fingerprint'].__path__ = [{str(pathlib.Path(code_source.__file__).parent)!r}]\n"
        "from pipedag_dagster.fingerprint.code_source import code_file\n"
        f"file = code_file({str(tmp_path / 'code.py')!r}, {{}})\n"
        "whole = file.read(file.tree)\n"
        "print(hashlib.sha256(repr((whole.plain, whole.chains)).encode()).hexdigest())"
    )
    pythons = [sys.executable, *map(str, OTHER_PYTHONS)]
    assert len({subprocess.run([one, "-c", program], capture_output=True, check=True).stdout for one in pythons}) == 1


def test_what_python_puts_into_classes_does_not_count(project: Project) -> None:
    """Each version of Python puts other things into enums, dataclasses and namedtuples."""
    task = project.task()
    before = fingerprint(task).version
    user = sys.modules["user"]
    for kind in (user.Colour, user.Window, user.Point):
        type.__setattr__(kind, "__replace__", dataclasses.replace)
        type.__setattr__(kind, "_helper", functools.singledispatchmethod.register)
    type.__setattr__(user.Colour, "_unhashable_values_map_", {})
    assert fingerprint(task).version == before


def test_the_main_program_is_no_other_version(project: Project) -> None:
    project.write(
        "def double(x):\n    return x\n\ndef task():\n    return double(1)\n\n"
        + (
            "if __name__ == '__main__':\n    from pipedag_dagster.fingerprint.fingerprint import code_version\n"
            "    print(code_version(task))\n"
        )
    )
    done = subprocess.run([sys.executable, "user.py"], cwd=project.folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == project.version((project.folder / "user.py").read_text())


SMALL = """
LIMIT = 3
RATES = [0.5, 1.5]

def helper(a, b=2):
    if a > b and not b == 7:
        return a * b + 10
    return [a // 4, 'text', -b]

class Rule:
    bound: int = 6
    def holds(self, x):
        return x < self.bound or x in (8, 9)

def task(x):
    total = 0
    for i in range(x):
        total += helper(i) if Rule().holds(i) else LIMIT
    return {'total': total, 'rates': RATES}
"""


@st.composite
def reformatted(draw: st.DrawFn) -> str:
    """The same program in another form: unparsed or not, with blank lines, comments and docstrings."""
    text = ast.unparse(ast.parse(SMALL)) if draw(st.booleans()) else SMALL
    lines = []
    for line in text.splitlines():
        lines += [""] * draw(st.integers(0, 2)) + ["    # a remark"] * draw(st.integers(0, 1))
        lines.append(line + draw(st.sampled_from(["", "  ", "  # why"])))
        if line.lstrip().startswith(("def ", "class ")) and draw(st.booleans()):
            indent = " " * (len(line) - len(line.lstrip()) + 4)
            lines.append(f'{indent}"""{draw(st.sampled_from(["Says", "what it is"]))}"""')
    return "\n".join(lines) + "\n"


@given(code=reformatted())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_form_of_the_same_code_is_the_same_version(project: Project, code: str) -> None:
    assert project.version(code) == project.version(SMALL)


OPERATORS = {
    **{ast.Gt: ast.GtE, ast.Lt: ast.LtE, ast.Eq: ast.NotEq, ast.In: ast.NotIn, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Mult: ast.Add, ast.Add: ast.Sub, ast.FloorDiv: ast.Div, ast.Not: ast.UAdd, ast.USub: ast.UAdd},
}


def places(tree: ast.AST) -> list[ast.AST]:
    """The constants and operators of a program."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.Constant) or type(node) in OPERATORS]


@pytest.mark.parametrize("number", range(len(places(ast.parse(SMALL)))))
def test_any_other_constant_or_operator_is_another_version(project: Project, number: int) -> None:
    tree = ast.parse(SMALL)
    node = places(tree)[number]
    if isinstance(node, ast.Constant):
        node.value = f"{node.value}!" if isinstance(node.value, str) else node.value + 1  # type: ignore[operator]
    else:
        other = OPERATORS[type(node)]

        class Swap(ast.NodeTransformer):
            def generic_visit(self, visited: ast.AST) -> ast.AST:
                super().generic_visit(visited)
                return other() if visited is node else visited

        # `ast` shares one object between all uses of an operator: each of them changes.
        tree = Swap().visit(tree)
    changed = ast.unparse(ast.fix_missing_locations(tree))
    assert project.version(changed) != project.version(SMALL), changed


# What cannot be fingerprinted

UNSTABLE = [
    ("a connection", "import sqlite3\nTHING = sqlite3.connect(':memory:')", "user.THING", "a sqlite3.Connection"),
    (
        "an engine",
        "import sqlalchemy\nTHING = sqlalchemy.create_engine('sqlite://')",
        "user.THING",
        "an open connection",
    ),
    ("a generator", "THING = (i for i in range(3))", "user.THING", "a generator"),
    ("the text of an object", "THING = str(object())", "user.THING", "the address of an object in memory"),
    ("a salted hash", "THING = hash('text')", "user.THING", r"made by hash\(\)"),
    (
        "a time",
        "import datetime\nTHING = datetime.datetime.now()",
        "user.THING",
        r"made by datetime\.datetime\.now\(\)",
    ),
    ("code without source", "exec('def THING(): return 1')", "user.THING", "code without source"),
    (
        "a class without source",
        "exec('class THING:\\n    def one(self): return 1')",
        "user.THING.one",
        "code without source",
    ),
]


@pytest.mark.parametrize(("what", "code", "name", "says"), UNSTABLE, ids=[one[0] for one in UNSTABLE])
def test_what_cannot_be_fingerprinted_is_named(project: Project, what: str, code: str, name: str, says: str) -> None:
    found = project.fingerprint(f"{code}\n\ndef task():\n    return THING\n")
    assert list(found.unstable) == [name]
    assert re.search(says, found.unstable[name])


@pytest.mark.parametrize("made_by", ["hash('text')", "uuid.uuid4()", "object()", "str(object())"])
def test_and_does_not_change_the_version_from_process_to_process(project: Project, made_by: str) -> None:
    project.write(f"import uuid\nTHING = {made_by}\n\ndef task():\n    return THING\n")
    versions = {in_another_process(project.folder, seed).split()[0] for seed in ("1", "2")}
    assert len(versions) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import logging\nTHING = logging.getLogger(__name__)",
        "import threading\nTHING = threading.Lock()",
        "import contextvars\nTHING = contextvars.ContextVar('x')",
        "THING = object()",
        "from collections import namedtuple\nTHING = namedtuple('THING', 'a b')",
        "import zoneinfo\nTHING = zoneinfo.ZoneInfo('Europe/Berlin')",
        "from typing import Optional\nTHING = dict[str, Optional[int]]",
        "import itertools\nTHING = itertools.chain.from_iterable",
        "import numpy as np\nTHING = np.vectorize(lambda x: x + 1)",
        "import sqlalchemy as sa\nTHING = sa.Table('t', sa.MetaData(), sa.Column('x', sa.Integer))",
        "import sqlalchemy as sa\nTHING = sa.select(sa.func.count()).where(sa.literal(1) == 2)",
        "import sqlalchemy.orm as o\nclass Base(o.DeclarativeBase): pass\n"
        "class THING(Base):\n    __tablename__ = 't'\n    x: o.Mapped[int] = o.mapped_column(primary_key=True)",
        "import pydantic\nclass THING(pydantic.BaseModel):\n    x: int = 1\nTHING = THING()",
    ],
)
def test_what_usual_code_has_is_no_reason_for_a_warning(project: Project, code: str) -> None:
    assert not project.fingerprint(f"{code}\n\ndef task():\n    return THING\n").unstable


def test_the_numbers_in_a_vectorized_lambda_count(project: Project) -> None:
    code = "import numpy as np\nTHING = np.vectorize(lambda x: x + 1)\n\ndef task():\n    return THING\n"
    assert project.version(code.replace("+ 1", "+ 2")) != project.version(code)


def test_a_file_that_has_changed_since_it_was_imported_says_nothing_about_the_code_that_runs(project: Project) -> None:
    """Or the result of the old code would be kept under the version of the new one."""
    code = "def task():\n    return {}\n"
    task = project.task(code.format("1111"))
    project.write(code.format("222"))
    found = fingerprint(task)
    assert "has changed since it was imported" in found.unstable["user.task"]
    assert found.version not in (project.version(code.format("222")), project.version(code.format("1111")))


def test_ninety_tasks_that_reach_a_hundred_functions_differ(project: Project) -> None:
    helpers = "".join(f"def h{i}(x):\n    return h{max(i - 1, 0)}(x) + LIMIT\n\n" for i in range(100))
    tasks = "".join(f"def t{i}(x):\n    return h{i}(x)\n\n" for i in range(90))
    project.task(f"LIMIT = 1\n\n{helpers}{tasks}def task(x):\n    return x\n")
    assert len({code_version(getattr(sys.modules["user"], f"t{i}")) for i in range(90)}) == 90


# Closures, for which no module is needed


def test_closures_count() -> None:
    def make(factor: int) -> Callable[[int], int]:
        return lambda x: factor * x

    assert code_version(make(1)) != code_version(make(2))
    assert code_version(make(1)) == code_version(make(1))


def test_a_method_counts_with_the_object_that_it_is_of() -> None:
    assert code_version(Window(dt.date(2026, 1, 1), 3).end) != code_version(Window(dt.date(2026, 1, 1), 4).end)


def test_libraries_count_by_name_only() -> None:
    assert code_version(pd.read_csv) == code_version(pd.read_csv)
    assert code_version(pd.read_csv) != code_version(pd.read_json)


# Libraries, and the text for people


def test_the_libraries_that_the_code_reaches_are_listed_with_their_versions(project: Project) -> None:
    code = (
        "import pandas as pd\nimport numpy as np\nimport sqlalchemy as sa\nimport json, pyarrow\nimport helpers\n"
        "from pipedag_dagster import materialize\n"
        "def frame():\n    return pd.DataFrame()\n\n"
        "@materialize(input_type=sa.Table)\ndef task(x: np.ndarray):\n    import xxhash\n"
        "    return frame(), json.dumps(1), xxhash.xxh3_64\n"
    )
    names = ("SQLAlchemy", "numpy", "pandas", "xxhash")
    task = project.task(code)
    found = libraries(task, fingerprint(task))
    assert {name.lower(): version for name, version in found.items()} == {
        name.lower(): metadata.version(name) for name in names
    }


def test_a_task_that_says_nothing_gets_pandas(project: Project) -> None:
    code = "from pipedag_dagster import materialize\n@materialize\ndef task(x):\n    return x.head()\n"
    task = project.task(code)
    assert libraries(task, fingerprint(task)) == {"pandas": pd.__version__}


def test_the_text_of_the_code_is_the_function_then_what_it_reaches_then_the_constants(project: Project) -> None:
    code = (
        "import os\nimport helpers\nfrom helpers import LIMITS\nRATE = 0.5\nTOKEN = os.environ['HOME'] + 'x'\n\n"
        "class Rule:\n    def holds(self, x):\n        return x < RATE\n\n"
        "def zero():\n    return 0\n\n"
        "def task(x):\n    # how\n    return Rule().holds(x), zero(), LIMITS, TOKEN, helpers.half(x)\n"
    )
    text = code_text(project.task(code))
    assert re.sub(r"# [0-9a-f]{6}\b", "# hash", text) == (
        "def task(x):\n    # how\n    return Rule().holds(x), zero(), LIMITS, TOKEN, helpers.half(x)\n\n"
        "# helpers.half\ndef half(x):\n    return x / 2\n\n"
        "# user.Rule\nclass Rule:\n    def holds(self, x):\n        return x < RATE\n\n"
        "# user.zero\ndef zero():\n    return 0\n\n"
        "helpers.LIMITS = [1, 2]\nuser.RATE = 0.5\nuser.TOKEN = os.environ['HOME'] + 'x'  # hash\n"
    )
    assert os.environ["HOME"] + "x" not in text


def test_of_a_decorated_task_its_own_text_comes_first(project: Project) -> None:
    assert code_text(project.task()).startswith("@materialize(outputs=")
    decorated = code_text(project.task(CODE + "\ntask = decorated\n"))
    assert decorated.startswith("@logged(times=3)\ndef decorated(x):")
    assert "def wrapper(" in decorated


# The content of values


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Window:
    start: dt.date
    days: int

    def end(self) -> dt.date:
        return self.start + dt.timedelta(self.days)


class Plain:
    def __init__(self, x: int) -> None:
        self.x = x


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: int) -> None:
        self.x = x


VALUES: list[Any] = [
    *(None, True, 1, 1.0, "1", b"1", decimal.Decimal("1.10"), dt.date(2026, 1, 1), dt.timedelta(1)),
    *(dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1, tzinfo=dt.UTC), zoneinfo.ZoneInfo("Europe/Berlin")),
    *(pathlib.PurePosixPath("a/b"), Colour.RED, Window(dt.date(2026, 1, 1), 3), range(3), slice(1, 2), ...),
    *([1, 2], [1, [2]], [[1], 2], {1, 2}, {"a": 1}, {"a": [1]}, {"a": {"b": 1}}, "12", ["12"], ["1", "2"]),
    *(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}), pd.DataFrame({"a": [2]}), pd.DataFrame({"a": [[1]]})),
    *(
        pd.DataFrame({"a": [1]}, index=[7]),
        pd.DataFrame({"a": [1.0]}),
        pd.Series([1]),
        pd.Index([1, 2]),
        pd.DataFrame(),
    ),
    *(
        np.array([1, 2]),
        np.array([1.0, 2.0]),
        np.array([[1, 2]]),
        np.array([1, None]),
        np.datetime64("2026-01-01", "D"),
    ),
    *(pa.table({"a": [1]}), pa.table({"a": [2]}), pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [2]})),
    *(sa.text("SELECT 1"), sa.text("SELECT 2"), sa.select(sa.literal(1)), sa.select(sa.literal(2)), sa.Integer()),
    *(Plain(1), Plain(2), Slotted(1), Slotted(2), re.compile("a"), re.compile("a", re.I), collections.Counter("aa")),
    *(functools.partial(int, base=2), functools.partial(int, base=3), operator.itemgetter(1), operator.itemgetter(2)),
    *(lambda: 1, lambda: 2, random.Random),
]


def test_different_values_have_different_hashes() -> None:
    hashes = [content_hash(value) for value in VALUES]
    twice = [VALUES[i] for i, one in enumerate(hashes) if hashes.count(one) > 1]
    assert not twice
    assert hashes == [content_hash(value) for value in VALUES]


def test_a_numpy_scalar_is_another_value_than_the_number() -> None:
    """It overflows, and divides by zero."""
    assert content_hash(np.int64(3)) != content_hash(3)


def test_a_value_that_holds_itself_has_an_end() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert content_hash(loop) != content_hash([1])


@given(st.dictionaries(st.text(), st.integers()))
def test_the_order_of_a_dictionary_counts(value: dict[str, int]) -> None:
    """The first match wins, and columns come in that order."""
    same = list(reversed(value.items())) == list(value.items())
    assert (content_hash(dict(reversed(value.items()))) == content_hash(value)) == same


def test_the_code_of_the_class_of_an_argument_counts(project: Project) -> None:
    code = "class Rule:\n    def holds(self):\n        return 1\n\ntask = Rule()\n"
    before, after = project.task(code), project.task(code.replace("return 1", "return 2"))
    assert content_hash(before) != content_hash(after)
    assert content_hash(before, code=False) == content_hash(after, code=False)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (object(), "a object"),
        ([1, {"x": threading.Lock()}], "a _thread.lock"),
        (sqlite3.connect(":memory:"), "a sqlite3.Connection"),
        (sa.create_engine("sqlite://"), "an open connection"),
        (iter("abc" for _ in "x"), "a generator"),
        (f"{object()}", "a text with the address of an object in memory (<object object at 0x"),
        (pl.LazyFrame({"a": [1]}), "a LazyFrame"),
    ],
    ids=["object", "lock", "connection", "engine", "generator", "address", "lazy frame"],
)
def test_a_value_without_stable_content_is_refused_by_name(value: Any, what: str) -> None:
    with pytest.raises(WiringError) as error:
        content_hash(value, "argument 'x'")
    assert what in str(error.value)
    assert str(error.value).startswith("argument 'x'")
    assert "has no content that is the same in every process" in str(error.value)


# Modules that count as a whole


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("def task():\n    return globals()['x']\n", "globals() in line 2"),
        ("import importlib\ndef task():\n    return importlib.import_module('x')\n", "importlib.import_module"),
        ("def task(frame, name):\n    return frame.query(f'a > @{name}')\n", "query() of a text that is put together"),
    ],
)
def test_why_a_module_counts_as_a_whole_is_said(project: Project, code: str, why: str) -> None:
    found = project.fingerprint(code)
    assert why in found.coarse["user"]
    assert f"# and all of module user, because of {found.coarse['user']}" in str(found.code)
    assert not found.unstable


def test_then_a_change_anywhere_in_it_is_another_version(project: Project) -> None:
    code = "import helpers\nOTHER = 1\n\ndef task(text):\n    return eval(text)\n"
    before = project.version(code)
    assert project.version(code.replace("OTHER = 1", "OTHER = 2")) != before
    assert project.version(code, __init__=HELPERS["__init__"].replace("return 0", "return 1")) != before
