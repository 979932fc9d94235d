"""A newcomer understands a file in one sitting: no long files, no long functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pipedag_dagster

PACKAGE = Path(pipedag_dagster.__file__).parent
FILE, FUNCTION = 400, 60
"""The most lines that a file and a function have."""


def test_no_file_is_too_long() -> None:
    lengths = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > FILE} == {}


def test_no_function_is_too_long() -> None:
    functions = {
        f"{file.relative_to(PACKAGE)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in functions.items() if length > FUNCTION} == {}


def test_tests_import_from_no_test_file() -> None:
    tests = Path(__file__).parents[1]
    for file in tests.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipedag_dagster_tests."):
                last = (node.module or "").rsplit(".", 1)[-1]
                assert not last.startswith(("test_", "conftest")), f"{file.relative_to(tests)} imports {node.module}"
