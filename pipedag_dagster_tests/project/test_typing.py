"""A typed program of a user passes the strict type checkers: the public API says what goes in and out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent

PROGRAM = """\
from typing import Any

import pandas as pd
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Result, Stage, Table, build_definitions, materialize
from pipedag_dagster.checks import min_rows
from pipedag_dagster.errors import PipedagError


@materialize(input=True, outputs=["orders", "customers"], version="1.0", checks={"orders": [min_rows(1)]})
def load() -> tuple[Table, Table]:
    orders = pd.DataFrame({"id": [1, 2], "customer": [1, 1]})
    return Table(orders, primary_key="id"), Table(pd.DataFrame({"id": [1]}), name="customers")


@materialize(lazy=True, input_type=sa.Table)
def revenue(orders: sa.Alias) -> Any:
    return sa.select(orders.c.customer, sa.func.count().label("n")).group_by(orders.c.customer)


@materialize
def ranking(revenue: pd.DataFrame) -> pd.DataFrame:
    return revenue.sort_values("n")


def build(instance: ConfigContext) -> Flow:
    with Flow("shop") as flow:
        with Stage("raw"):
            orders, _customers = load()
        with Stage("report"):
            ranking(revenue(orders))
    return flow


def main() -> str:
    config = PipedagConfig("instances")
    instance: ConfigContext = config.get("full")
    try:
        result: Result = build(instance).run(config=instance)
    except PipedagError as error:
        return str(error)
    return "done" if result.successful else str(result.error)


full = build_definitions(build, "instances", instance="full")
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "user_program.py"
    file.write_text(PROGRAM)
    return file


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def check(cache: Path, program: Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "mypy", "--strict", "--cache-dir", cache, program]
    return subprocess.run(command, cwd=program.parent, capture_output=True, text=True)


def test_mypy_accepts_the_program_of_a_user(cache: Path, program: Path) -> None:
    done = check(cache, program)
    assert done.returncode == 0, done.stdout


def test_mypy_finds_a_mistake_in_it(cache: Path, program: Path) -> None:
    program.write_text(PROGRAM.replace('config.get("full")', "config.get(7)"))
    done = check(cache, program)
    assert 'Argument 1 to "get" of "PipedagConfig" has incompatible type "int"' in done.stdout


def test_pyright_accepts_the_program_of_a_user(program: Path) -> None:
    try:
        ready = subprocess.run([BIN / "pyright", "--version"], capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        ready = False
    if not ready:
        pytest.skip("pyright cannot run here: it needs Node.js, and the network once")
    command = [BIN / "pyright", "--pythonpath", sys.executable, program]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
