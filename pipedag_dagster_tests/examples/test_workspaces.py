"""Each example has a workspace of its own, and `make demo` and `make ui` one history of Dagster."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pipedag_dagster.orchestration.workspace import locations, refuse_shared_keys

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "pipedag_dagster" / "examples"
WORKSPACES = {
    "flights": REPOSITORY / "workspace.yaml",
    "quickstart": EXAMPLES / "quickstart" / "workspace.yaml",
    "fresh_and_stable": EXAMPLES / "fresh_and_stable" / "workspace.yaml",
}


def test_each_example_has_one() -> None:
    assert set(WORKSPACES) == {file.parent.name for file in EXAMPLES.glob("*/definitions.py")}


@pytest.mark.parametrize("example", WORKSPACES)
def test_it_loads_that_example_only(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("SHOP_DB", "postgresql://nobody@localhost/none")  # loading connects to nothing
    loaded = locations(workspace=WORKSPACES[example])
    refuse_shared_keys(loaded)
    assert {location.name.partition(":")[0] for location in loaded} == {
        f"pipedag_dagster.examples.{example}.definitions"
    }
    assert {"full", "midi", "mini"} <= {location.instance.config.name for location in loaded}


def test_the_ui_shows_the_runs_of_the_demo() -> None:
    commands = subprocess.run(
        ["make", "--dry-run", "demo", "ui"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    homes = re.findall(r"^DAGSTER_HOME=(\S+) \S+/(\S+)", commands, re.MULTILINE)
    assert [program for _, program in homes] == ["python", "dagster"]
    assert len({home for home, _ in homes}) == 1
