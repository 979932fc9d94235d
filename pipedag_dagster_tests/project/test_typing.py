"""A typed program of a user passes the strict type checkers: the public API says what goes in and out."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
Checker = Callable[[Path, Path], "subprocess.CompletedProcess[str]"]

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
    ranked: pd.DataFrame = result.get("report.ranking", pd.DataFrame)
    return f"{len(ranked)} rows" if result.successful else str(result.error)


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


def mypy(program: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "mypy", "--strict", "--cache-dir", cache, program]
    return subprocess.run(command, cwd=program.parent, capture_output=True, text=True)


def pyright(program: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    try:
        ready = subprocess.run([BIN / "pyright", "--version"], capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        ready = False
    if not ready:
        pytest.skip("pyright cannot run here: it needs the network once")
    command = [BIN / "pyright", "--pythonpath", sys.executable, program]
    return subprocess.run(command, cwd=program.parent, capture_output=True, text=True)


MISTAKES = """\


@materialize(lasy=True)  # wrong: no such option
def copy(orders: pd.DataFrame) -> pd.DataFrame:
    return orders


def misuse(config: PipedagConfig, result: Result) -> None:
    config.get(7)  # wrong: the type of an argument
    ranking()  # wrong: an argument of a task is missing
    ranking(revenues=revenue(None))  # wrong: the name of an argument of a task
    text: str = result.get("report.ranking", pd.DataFrame)  # wrong: the type of a result
    print(text)
"""


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_typed_program_passes(checker: Checker, program: Path, cache: Path) -> None:
    done = checker(program, cache)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_each_mistake_is_found_in_its_line(checker: Checker, program: Path, cache: Path) -> None:
    program.write_text(PROGRAM + MISTAKES)
    wrong = {number for number, line in enumerate(program.read_text().splitlines(), 1) if "# wrong:" in line}
    lines = re.findall(rf"{program.name}:(\d+):.*error", checker(program, cache).stdout)
    assert {int(line) for line in lines} == wrong
