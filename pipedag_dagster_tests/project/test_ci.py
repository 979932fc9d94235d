"""The pages about tests and CI: their files are put into a new project, and their commands are typed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"
BIN = Path(sys.executable).parent


long = pytest.mark.skipif(os.environ.get("PIPEDAG_TORTURE") != "long", reason="a minute: make torture")


def files(page: str) -> dict[str, str]:
    """The snippets of a page that name a file in their first line."""
    blocks = re.findall(r"```\w+\n# ([\w./-]+)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return dict(blocks)


def type_in(folder: Path, command: str, **variables: str) -> str:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), **variables}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def checkouts(tmp_path: Path) -> Iterator[Path]:
    """A folder with two checkouts of a new project: `base` and `change`."""
    type_in(tmp_path, "pipedag-dagster init base --name shop")
    shutil.copytree(tmp_path / "base", tmp_path / "change")
    yield tmp_path
    for checkout in ("base", "change"):
        type_in(tmp_path / checkout, "pipedag-dagster stop")


def steps(workflow: str, job: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = yaml.safe_load(files("ci.md")[f".github/workflows/{workflow}.yaml"])["jobs"][job][
        "steps"
    ]
    return [step for step in steps if "run" in step]


def lines(steps: list[dict[str, Any]]) -> list[str]:
    return [line for step in steps for line in step["run"].splitlines()]


@long
def test_a_pull_request_shows_what_it_does_to_the_data(checkouts: Path) -> None:
    flow = checkouts / "change" / "shop" / "flow.py"
    flow.write_text(flow.read_text().replace('"revenue"', '"turnover"'))
    summary = checkouts / "summary.md"
    for step in steps("data", "diff"):
        for command in step["run"].splitlines():
            if not command.startswith("pip install"):
                type_in(checkouts / step["working-directory"], command, GITHUB_STEP_SUMMARY=str(summary))
    assert "turnover" in summary.read_text()


@long
def test_the_commands_about_testing_run_in_a_new_checkout(checkouts: Path) -> None:
    project = checkouts / "base"
    for name, text in files("testing.md").items():
        (project / name).write_text(text)
    (block,) = re.findall(r"```bash\n(.*?)```", (DOCS / "testing.md").read_text(), re.DOTALL)
    for command in block.splitlines():
        assert " passed" in type_in(project, command)


def test_init_writes_the_workflow_of_the_page() -> None:
    template = resources.files("pipedag_dagster") / "template" / "github" / "workflows" / "pipeline.yaml"
    assert yaml.safe_load(template.read_text()) == yaml.safe_load(files("ci.md")[".github/workflows/pipeline.yaml"])


def test_gitlab_types_the_same_commands_as_github() -> None:
    gitlab = yaml.safe_load(files("ci.md")[".gitlab-ci.yml"])
    assert gitlab["test"]["script"] == lines(steps("pipeline", "test"))
    compared = [line for line in gitlab["data"]["script"] if not line.startswith(("cd ", "git "))]
    assert compared == [line.replace('>> "$GITHUB_STEP_SUMMARY"', "> data.md") for line in lines(steps("data", "diff"))]
