"""A command typed in a subfolder of the project works on the project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipedag_dagster_tests.helpers.command_line import WORKSPACE, Command

PROGRAM = Path(sys.executable).with_name("pipedag-dagster")


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = project / "notebooks" / "drafts"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_a_program_finds_modules_and_relative_paths_of_the_project(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    done = subprocess.run([PROGRAM, "list", "mini"], cwd=inside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ranking" in done.stdout


def test_a_path_that_is_typed_is_relative_to_the_folder_of_the_command(
    inside: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for instance in ("full", "midi"):
        monkeypatch.chdir(inside)  # each command changes it, and they share this process
        assert command("run", instance).code == 0
    monkeypatch.chdir(inside)
    assert command("diff", "full", "midi", "--html", "page.html").code == 0
    assert (inside / "page.html").exists()


def test_the_path_in_pipedag_config_is_relative_to_the_folder_of_the_command(
    inside: Path, project: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions = project / "shop_definitions.py"
    definitions.write_text(definitions.read_text().replace("build, folder,", "build,"))
    (project / "instances").rename(inside / "sizes")
    monkeypatch.setenv("PIPEDAG_CONFIG", "sizes")
    assert command("list", "full").code == 0


def test_the_nearest_workspace_counts(inside: Path, command: Command) -> None:
    first = WORKSPACE.splitlines()[:2]
    (inside.parent / "workspace.yaml").write_text("\n".join(first))
    assert "There is no instance 'mini'" in command("list", "mini").err


def test_a_workspace_that_is_named_is_not_looked_for(inside: Path, command: Command) -> None:
    done = command("list", "full", "-w", "other.yaml")
    assert "There is no other.yaml. Name the module" in done.err


def test_without_any_workspace_the_command_says_where_it_looked(tmp_path: Path, command: Command, inside: Path) -> None:
    (tmp_path / "workspace.yaml").unlink()
    assert "There is no workspace.yaml here or in a folder above. Name the module" in command("list", "full").err
