"""A new project runs at once; and the plugin for pytest, with which its tests choose their instance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipedag_dagster.cli.init import init, next_steps
from pipedag_dagster.errors import FilesInTheWay, InvalidName
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.helpers.terminal import Terminal

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """In the folder of a new project `web-shop`."""
    terminal = Terminal(tmp_path_factory.mktemp("new"))
    printed = terminal.type("pipedag-dagster init web-shop")
    assert printed.splitlines() == ["Now type:", *(f"  {command}" for command in next_steps(Path("web-shop")))]
    terminal.folder /= "web-shop"
    yield terminal
    terminal.type("pipedag-dagster stop")


def test_a_fresh_checkout_is_green_and_has_no_warnings(terminal: Terminal) -> None:
    """Nothing was run before: full is run first."""
    printed = terminal.type("pytest -W error --pipeline-instance mini")
    assert "4 passed" in printed
    assert "warning" not in printed


def test_what_it_says_to_type_next_works(terminal: Terminal) -> None:
    change, install, full, mini, tests, dev = next_steps(Path("web-shop"))
    assert (change, install) == ("cd web-shop", "pip install -e '.[dev]'")
    assert "of 4 tables ran" in terminal.type(full)
    assert "orders" in terminal.type(mini)
    assert "2 passed" in terminal.type(tests)
    # `dagster dev` does not end; what it would load is loaded.
    assert dev == "dagster dev -w workspace.yaml"
    terminal.type("dagster definitions validate -w workspace.yaml")
    assert "Everything is right." in terminal.type("pipedag-dagster check")


def test_a_new_project_is_formatted_and_ignores_what_is_made(terminal: Terminal) -> None:
    project = terminal.folder
    terminal.type("ruff format --check --line-length 120 .")
    assert (project / ".gitignore").read_text().splitlines()[0] == "__pycache__/"
    assert 'name = "web_shop"' in (project / "pyproject.toml").read_text()
    assert (project / "web_shop" / "flow.py").is_file()
    assert (project / ".github" / "workflows" / "pipeline.yaml").is_file()
    assert not [file for file in project.rglob("*.*") if "my_pipeline" in file.name]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FilesInTheWay, match=r"README\.md"):
        CliRunner().invoke(init, [str(tmp_path), "--name", "shop"], catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("name", ["2nd", "class", "pipedag_dagster", "a/b"])
def test_a_name_that_no_package_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidName, match="--name"):
        CliRunner().invoke(init, [str(tmp_path), "--name", name], catch_exceptions=False)


# ---- the plugin ------------------------------------------------------------------------------------------------

TEST = """
def test_it(pipeline_instance):
    print("instance", pipeline_instance.instance_id, "of", pipeline_instance.config.pipeline)
"""


@pytest.mark.parametrize(
    ("options", "ini", "expected"),
    [
        ([], "", "mini"),
        (["--pipeline-instance", "midi"], "pipeline_instance = full", "midi"),
        ([], "pipeline_instance = full", "full"),
    ],
)
def test_the_instance_is_that_of_the_option_or_of_the_configuration(
    pytester: pytest.Pytester,
    instances: Instances,
    options: list[str],
    ini: str,
    expected: str,
) -> None:
    pytester.makepyfile(TEST)
    pytester.makeini(f"[pytest]\npipeline_config = {instances().path}\n{ini}\n")
    result = pytester.runpytest("-s", *options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*instance {expected} of shop*"])


def test_an_unknown_instance_is_named(pytester: pytest.Pytester, instances: Instances) -> None:
    pytester.makepyfile(TEST)
    pytester.makeini(f"[pytest]\npipeline_config = {instances().path}\n")
    result = pytester.runpytest("--pipeline-instance", "mdi")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --pipeline-instance mdi: *has no instance 'mdi'. Did you mean 'midi'?"])
    result.stderr.no_fnmatch_line("*Traceback*")
