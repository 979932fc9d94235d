"""What people install: the wheel, in an environment where nothing else is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
UV = shutil.which("uv")  # with pip it takes a minute longer


def run(*command: str | Path, cwd: Path) -> str:
    left_out = ("DAGSTER", "PIPEDAG", "PYTHON", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(python: Path, folder: Path) -> Path:
    """The wheel of this repository."""
    if UV:
        run(UV, "build", "--wheel", "--out-dir", folder, cwd=REPOSITORY)
    else:
        run(python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, REPOSITORY, cwd=REPOSITORY)
    (wheel,) = folder.glob("pipedag_dagster-*.whl")
    return wheel


def install(python: Path, *what: str | Path) -> None:
    if UV:
        run(UV, "pip", "install", "--python", python, *what, cwd=REPOSITORY)
    else:
        run(python, "-m", "pip", "install", "--disable-pip-version-check", *what, cwd=REPOSITORY)


@pytest.mark.skipif(not os.environ.get("PIPEDAG_TEST_WHEEL"), reason="it downloads everything: make test-wheel")
def test_a_person_installs_the_wheel_makes_a_project_and_looks_at_its_data(tmp_path: Path) -> None:
    run(*([UV, "venv"] if UV else [sys.executable, "-m", "venv"]), tmp_path / "venv", cwd=tmp_path)
    python, dist = tmp_path / "venv" / "bin" / "python", tmp_path / "dist"
    pinned = ("-c", REPOSITORY / "constraints.txt")
    install(python, *pinned, f"{build(python, dist)}[embedded]")
    command, project = python.with_name("pipedag-dagster"), tmp_path / "my-shop"
    run(command, "init", "my-shop", cwd=tmp_path)
    install(python, *pinned, "--find-links", dist, "-e", f"{project}[dev]")
    try:
        assert " passed" in run(python, "-m", "pytest", cwd=project)
        assert "tables ran" in run(command, "run", "full", cwd=project)
        assert "tables ran" in run(command, "run", "midi", cwd=project)
        assert "revenue" in run(command, "show", "midi", "report.ranking", "--rows", "3", cwd=project)
        assert "report.ranking" in run(command, "diff", "full", "midi", cwd=project)
        where = run(python, "-c", "import pipedag_dagster; print(pipedag_dagster.__file__)", cwd=project)
        assert "site-packages" in where
    finally:
        run(command, "stop", cwd=project)
