"""A plugin for pytest that runs tests of a pipeline on one of its instances: `pytest --pipeline-instance midi`.

Example:
    def test_the_pipeline_runs(pipeline_instance):
        assert build(pipeline_instance).run(config=pipeline_instance).successful
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipedag_dagster.context import ConfigContext


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pipedag_dagster")
    group.addoption("--pipeline-instance", metavar="NAME", help="Instance for the tests of pipelines (default: mini).")
    parser.addini("pipeline_instance", "Instance for the tests of pipelines.", default="mini")
    parser.addini("pipeline_config", "The configuration. Default: the one that PipedagConfig finds.", type="string")


@pytest.fixture(scope="session")
def pipeline_instance(request: pytest.FixtureRequest) -> ConfigContext:
    """The instance that `--pipeline-instance` names, or the key `pipeline_instance` of pytest's configuration, or
    `mini`."""
    # Imported late: otherwise pytest would import this package in every project of the environment.
    from pipedag_dagster.context import PipedagConfig, find_config  # noqa: PLC0415
    from pipedag_dagster.errors import ConfigError  # noqa: PLC0415

    settings = request.config
    config = settings.getini("pipeline_config")
    name = settings.getoption("--pipeline-instance") or settings.getini("pipeline_instance")
    try:
        return PipedagConfig(settings.rootpath / config if config else find_config(settings.rootpath)).get(name)
    except ConfigError as error:
        pytest.fail(f"--pipeline-instance {name}: {error}", pytrace=False)
