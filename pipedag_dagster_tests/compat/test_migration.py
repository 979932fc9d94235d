"""The migration of a project, step by step, as docs/from_pipedag.md has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipedag_dagster_tests.helpers.terminal import Terminal

PAGE = (Path(__file__).parents[2] / "docs" / "from_pipedag.md").read_text()


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """In a folder with the files of the page: each block names its file in its first line."""
    folder = tmp_path_factory.mktemp("warehouse")
    for name, rest in re.findall(r"```(?:python|yaml)\n# ([\w.]+):[^\n]*\n(.*?)```", PAGE, re.DOTALL):
        (folder / name).write_text(rest)
    terminal = Terminal(folder)
    yield terminal
    terminal.type("pipedag-dagster stop")


def commands() -> list[str]:
    return re.findall(r"```bash\n(.*?)\n```", PAGE, re.DOTALL)


def test_the_page_has_these_commands() -> None:
    assert [command.split()[0] for command in commands()] == ["pipedag-dagster", "python", "dagster"]


def test_the_configuration_is_checked(terminal: Terminal) -> None:
    done = terminal.run(commands()[0])
    said = done.out + done.err
    assert "instances.legacy" in said or "table_store_connections.old" in said
    assert "is for 'mssql', but only PostgreSQL is supported" in said
    assert "not needed: technical_setups.default.network_interface" in said
    assert "'full'" not in said


def test_the_flows_run_each_with_its_settings(terminal: Terminal) -> None:
    said = terminal.type(commands()[1])
    assert "orders True [2]" in said
    assert "sales True [1, 1]" in said


def test_dagster_shows_the_flow(terminal: Terminal) -> None:
    assert "RUN_SUCCESS" in terminal.run(commands()[2]).err
