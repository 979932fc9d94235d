"""Small programs of several modules, made by chance: one change that changes the result changes the fingerprint."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from pipedag_dagster_tests.helpers.program_pairs import Computer, Program

# How a definition gets a number, from the number itself (`{n}`) or from a name (`{inner}`).
DEFINITIONS = [
    "{name} = {n}",
    "{name} = [{n}]",
    "{name} = {{'a': {n}}}",
    "def {name}(): return {n}",
    "def {name}(x={n}): return x",
    "{name} = lambda: {n}",
    "class {name}:\n    rate = {n}",
    "class {name}:\n    def __init__(self): self.rate = {n}",
    "def _make_{name}(x): return lambda: x\n{name} = _make_{name}({n})",
    "def {name}(): pass\n{name}.rate = {n}",
    "for {name} in range({n}): pass",
    "import functools\n{name} = functools.partial(max, {n}, -9)",
]
USES = [
    "def {name}(): return {inner}",
    "def {name}(): return [{inner} for _ in range(1)]",
    "def {name}():\n    class Local:\n        def get(self): return {inner}\n    return Local().get()",
    "def {name}(): return (lambda: {inner})()",
    "{name} = [{inner}]",
    "class {name}:\n    rate = {inner}",
    "def {name}(): return eval({inner!r})",
    "def {name}(): return globals()[{inner!r}]",
    "def {name}(): return f'{{{inner}}}'",
]
IMPORTS = ["from {module} import {name}", "from {module} import *", "import {module}; {name} = {module}.{name}"]

SHOW = """
def show(value, depth=0):
    if depth > 6: return "deep"
    if isinstance(value, type):
        names = {**vars(value), **vars(value())}
        return [show(part, depth + 1) for name, part in sorted(names.items()) if name[0] != "_"]
    if callable(value):
        return [show(value(), depth + 1), getattr(value, "rate", None)]
    if isinstance(value, list): return [show(one, depth + 1) for one in value]
    return repr(value)
"""


@st.composite
def programs(draw: st.DrawFn) -> tuple[Program, Program]:
    """The same program with two numbers at its end."""
    length = draw(st.integers(1, 4))
    first, imports = draw(st.sampled_from(DEFINITIONS)), [draw(st.sampled_from(IMPORTS)) for _ in range(length)]
    uses = [draw(st.sampled_from(USES)) for _ in range(length)]
    sides = []
    for number in (3, 5):
        files = {"m0.py": first.format(name="d0", n=number)}
        for step in range(1, length + 1):
            line = imports[step - 1].format(module=f"m{step - 1}", name=f"d{step - 1}")
            files[f"m{step}.py"] = f"{line}\n{uses[step - 1].format(name=f'd{step}', inner=f'd{step - 1}')}"
        last = f"from m{length} import d{length}"
        files["shop.py"] = f"{last}\n{SHOW}\ndef task(): return show(d{length})\n"
        sides.append(Program(files))
    return sides[0], sides[1]


@given(programs())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_change_at_the_end_of_a_chain_of_modules_is_noticed(pair: tuple[Program, Program]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.dont_write_bytecode", True)
        computer = Computer(Path(folder), patch)
        (first, result), (second, other) = (computer.run(program) for program in pair)
        computer.forget()
    assert result == other or first.version != second.version, pair
