"""The workflow for GitHub Actions is valid, and runs what the project promises."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
WORKFLOW = REPOSITORY / ".github" / "workflows" / "ci.yaml"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
JOBS: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text())["jobs"]
COMMANDS = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]


def test_the_workflow_is_valid() -> None:
    command = [
        Path(sys.executable).with_name("check-jsonschema"),
        "--builtin-schema",
        "vendor.github-workflows",
        WORKFLOW,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_runs_every_python_that_the_package_names() -> None:
    named = {text.rsplit(" ")[-1] for text in PROJECT["classifiers"] if "Python :: 3." in text}
    assert set(JOBS["tests"]["strategy"]["matrix"]["python"]) == named


def test_it_runs_every_postgresql_that_is_supported() -> None:
    assert JOBS["postgres"]["strategy"]["matrix"]["postgres"] == ["14", "15", "16", "17", "18"]


@pytest.mark.parametrize("command", [text for text in COMMANDS if "make " in text or "pytest" in text])
def test_its_commands_are_there(command: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"make ([a-z-]+)", command):
        assert target in targets
    for path in re.findall(r"pipedag_dagster_tests/[\w/.]+", command):
        assert (REPOSITORY / path).exists()


def test_the_lowest_versions_are_those_of_the_package() -> None:
    pinned = dict(
        line.split("==") for line in (REPOSITORY / "constraints-lowest.txt").read_text().splitlines() if "==" in line
    )
    required = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["embedded"]]
    for name, lowest in (re.match(r"([\w-]+)[^>]*>=([\d.]+)", text).groups() for text in required):  # type: ignore[union-attr]
        assert f"{pinned[name]}.".startswith(f"{lowest}.") or pinned[name] > lowest, name
