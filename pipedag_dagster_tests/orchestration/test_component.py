"""The component for `dg`, with Dagster's own command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from dagster.components.testing import create_defs_folder_sandbox

from pipedag_dagster import PipedagConfig, PipelineComponent
from pipedag_dagster.cli.main import cli
from pipedag_dagster.errors import ConfigError, UnknownInstance
from pipedag_dagster_tests.helpers import Query

QUICKSTART = "pipedag_dagster.examples.quickstart.flow:build"


def definitions(config: PipedagConfig, **attributes: Any) -> dg.Definitions:
    given = {"flow": QUICKSTART, "instance": "midi", "config": str(config.path)} | attributes
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            component_cls=PipelineComponent,
            defs_yaml_contents={"type": "pipedag_dagster.PipelineComponent", "attributes": given},
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (_, built):
            return built


def test_a_component_is_one_instance(config: PipedagConfig) -> None:
    built = definitions(config)
    keys = {key.to_user_string() for key in built.resolve_asset_graph().materializable_asset_keys}
    assert "midi/stage_1/dfa" in keys
    assert {"instance", "io_manager"} <= set(built.resources or {})


@pytest.mark.parametrize(
    ("attributes", "kind", "said"),
    [
        ({"flow": "pipedag_dagster.examples.quickstart.flow"}, ConfigError, "module:function"),
        ({"flow": "pipedag_dagster.examples.quickstart.flow:biuld"}, ConfigError, "Did you mean 'build'?"),
        ({"flow": "pipedag_dagster.examples.nowhere:build"}, ConfigError, "no module"),
        ({"instance": "mdi"}, UnknownInstance, "Did you mean 'midi'?"),
    ],
)
def test_a_mistake_is_explained(config: PipedagConfig, attributes: Any, kind: type, said: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Dagster puts its own error around ours
        definitions(config, **attributes)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    assert said in str(error)


@pytest.fixture
def project(config: PipedagConfig, tmp_path: Path) -> Path:
    """A project of `dg` with one component, which finds `instances/` above it."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "1"\n'
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "shop"\n'
        'registry_modules = ["shop.components.*"]\n'
    )
    package = tmp_path / "shop"
    component = package / "defs" / "pipeline"
    component.mkdir(parents=True)
    for folder in (package, package / "defs", package / "components"):
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text("")
    (package / "definitions.py").write_text(
        "from pathlib import Path\nimport dagster as dg\n\n"
        "@dg.definitions\ndef defs():\n    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    (component / "defs.yaml").write_text(
        f"type: pipedag_dagster.PipelineComponent\nattributes:\n  flow: {QUICKSTART}\n"
        '  instance: "{{ env.PIPELINE_INSTANCE }}"\n'
    )
    return tmp_path


def test_our_own_commands_know_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.setenv("PIPELINE_INSTANCE", "mini")
    listed = CliRunner().invoke(cli, ["list", "-m", "shop.definitions"])
    assert "stage_1" in listed.output, listed.output


def dg_command(project: Path, *arguments: str, instance: str = "mini") -> subprocess.CompletedProcess[str]:
    """`dg`, with the environment of these tests."""
    bin = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(bin.parent),
        "PYTHONPATH": str(project),
        "PIPELINE_INSTANCE": instance,
    }
    return subprocess.run(
        [bin / "dg", *arguments], cwd=project, env=environment, capture_output=True, text=True, timeout=300
    )


def test_dg_checks_and_lists_it(project: Path) -> None:
    checked = dg_command(project, "check", "yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    listed = dg_command(project, "list", "defs", "--json")
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "mini/stage_1/dfa" in listed.stdout
    file = project / "shop" / "defs" / "pipeline" / "defs.yaml"
    written = yaml.safe_load(file.read_text())
    shutil.rmtree(file.parent)
    scaffolded = dg_command(
        project, "scaffold", "defs", "pipedag_dagster.PipelineComponent", "pipeline", "--flow", QUICKSTART
    )
    assert scaffolded.returncode == 0, scaffolded.stdout + scaffolded.stderr
    assert yaml.safe_load(file.read_text()) == written
    file.write_text(file.read_text() + "  instanse: midi\n")
    checked = dg_command(project, "check", "yaml")
    assert checked.returncode != 0
    assert "instanse" in checked.stdout + checked.stderr


def test_dg_launches_it(project: Path, query: Query) -> None:
    launched = dg_command(project, "launch", "--assets", "*", instance="full")
    assert launched.returncode == 0, launched.stdout + launched.stderr
    assert query("SELECT count(*) FROM full_stage_1.dfa") == [(4,)]
