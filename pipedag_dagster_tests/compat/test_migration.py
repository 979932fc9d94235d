"""The migration of a project, step by step, as docs/from_pipedag.md has it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "from_pipedag.md").read_text()
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files of the page: each block names its file in its first line."""
    folder = tmp_path_factory.mktemp("warehouse")
    for name, rest in re.findall(r"```(?:python|yaml)\n# ([\w.]+):[^\n]*\n(.*?)```", PAGE, re.DOTALL):
        (folder / name).write_text(rest)
    yield folder
    run(folder, "pipedag-dagster stop")


def run(folder: Path, command: str) -> str:
    """A command of the page, as a reader types it."""
    name, *arguments = command.replace('"', "").split()
    environment = {key: value for key, value in os.environ.items() if key not in ("PIPEDAG_CONFIG", "DAGSTER_HOME")}
    done = subprocess.run(
        [str(BIN / name), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def commands() -> list[str]:
    return re.findall(r"```bash\n(.*?)\n```", PAGE, re.DOTALL)


def test_the_page_has_these_commands() -> None:
    assert [command.split()[0] for command in commands()] == ["pipedag-dagster", "python", "dagster"]


def test_the_configuration_is_checked(project: Path) -> None:
    said = run(project, commands()[0])
    assert "instances.legacy" in said or "table_store_connections.old" in said
    assert "is for 'mssql', but only PostgreSQL is supported" in said
    assert "not needed: technical_setups.default.network_interface" in said
    assert "'full'" not in said


def test_the_flows_run_each_with_its_settings(project: Path) -> None:
    said = run(project, commands()[1])
    assert "orders True [2]" in said
    assert "sales True [1, 1]" in said


def test_dagster_shows_the_flow(project: Path) -> None:
    assert "RUN_SUCCESS" in run(project, commands()[2])
