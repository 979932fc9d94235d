"""A plugin for pytest: `pytest --pipeline-instance midi` runs each stage of midi as a test. Tests get fixtures for an
instance.

Example:
    def test_the_best_customer_is_first(pipeline):
        pipeline.run("report")
        assert pipeline.table("report.ranking")["revenue"].is_monotonic_decreasing
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# pytest loads this file in every project of the environment. Late imports keep the package out of the others.
if TYPE_CHECKING:
    import sqlalchemy as sa

    from pipedag_dagster.context import ConfigContext, PipedagConfig
    from pipedag_dagster.looking.open_instance import OpenInstance
    from pipedag_dagster.testing.fresh import FreshInstance


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pipedag_dagster")
    text = "Test each stage of this instance, and use it for the tests of pipelines (default: mini)."
    group.addoption("--pipeline-instance", metavar="NAME", help=text)
    parser.addini("pipeline_instance", "Instance for the tests of pipelines.", default="mini")
    parser.addini("pipeline_config", "The configuration. Default: the one that PipedagConfig finds.", type="string")
    parser.addini("pipeline_workspace", "Names the definitions.", type="string", default="workspace.yaml")


def pytest_configure(config: pytest.Config) -> None:
    """Find the instances whose stages are tests, and make markers of their names and tags.

    Raises:
        pytest.UsageError: there is no such instance, or the configuration has mistakes.
    """
    named, expression = config.getoption("--pipeline-instance"), config.getoption("markexpr", "")
    if not (named or (expression and _workspace(config).is_file())):
        return
    from pipedag_dagster.errors import ConfigError, NoConfig  # noqa: PLC0415

    try:
        files = _files(config)
        wanted = [files.get(named)] if named else _marked(files, expression)
    except NoConfig:
        return  # the fixtures report it to the tests that use them
    except ConfigError as error:
        option = f"--pipeline-instance {named}" if named else f"-m {expression!r}"
        raise pytest.UsageError(f"{option}: {error}") from None
    for instance in wanted:
        marks = {instance.config.name, *instance.config.tags}
        for mark in marks.union(*instance.config.stage_tags.values()):
            config.addinivalue_line("markers", f"{mark}: tests of pipeline instances that have this name or tag")
    config.stash[_WANTED] = wanted


_WANTED = pytest.StashKey["list[ConfigContext]"]()


def _marked(files: PipedagConfig, expression: str) -> list[ConfigContext]:
    """The instances whose name or tags the expression of `-m` asks for. `not slow` asks for none."""
    from pipedag_dagster.errors import ConfigError  # noqa: PLC0415

    words = set(re.findall(r"\w+", re.sub(r"\bnot\s*(\([^()]*\)|\w+)", "", expression)))
    instances = [files.get(name) for name in files.instance_names if name in words]
    if instances:
        return instances
    tagged = []
    for name in files.instance_names:
        try:
            instance = files.get(name)
        except ConfigError:  # nobody has asked for this instance
            continue
        stage_tags = {tag for tags in instance.config.stage_tags.values() for tag in tags}
        if words & {*instance.config.tags, *stage_tags}:
            tagged.append(instance)
    return tagged


def pytest_report_header(config: pytest.Config) -> str | None:
    wanted = config.stash.get(_WANTED, [])
    if not wanted:
        return None
    names = ", ".join(instance.config.name for instance in wanted)
    workspace = _workspace(config)
    missing = "" if workspace.is_file() else f", without tests of stages, because there is no {workspace}"
    return f"pipeline: {names} of {wanted[0].files.path}{missing}"


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the tests of stages, unless files were named on the command line."""
    workspace = _workspace(config)
    named_files = config.args_source is pytest.Config.ArgsSource.ARGS
    if not config.stash.get(_WANTED, []) or named_files or not workspace.is_file():
        return
    from pipedag_dagster.errors import PipedagError  # noqa: PLC0415
    from pipedag_dagster.testing.stage_tests import stage_tests  # noqa: PLC0415

    try:
        tests = [test for instance in config.stash[_WANTED] for test in stage_tests(session, instance, workspace)]
    except PipedagError as error:
        raise pytest.UsageError(str(error)) from None
    items[:0] = tests


def _files(config: pytest.Config) -> PipedagConfig:
    from pipedag_dagster.context import PipedagConfig, find_config  # noqa: PLC0415

    path = config.getini("pipeline_config")
    return PipedagConfig(config.rootpath / path if path else find_config(config.rootpath))


def _workspace(config: pytest.Config) -> Path:
    return config.rootpath / str(config.getini("pipeline_workspace"))


@pytest.fixture(scope="session")
def pipeline_instance(request: pytest.FixtureRequest) -> ConfigContext:
    """The instance that `--pipeline-instance` names, or the key `pipeline_instance` of pytest's configuration, or
    `mini`."""
    from pipedag_dagster.errors import ConfigError  # noqa: PLC0415

    name = request.config.getoption("--pipeline-instance") or request.config.getini("pipeline_instance")
    try:
        return _files(request.config).get(name)
    except ConfigError as error:
        pytest.fail(f"--pipeline-instance {name}: {error}", pytrace=False)


@pytest.fixture(scope="session")
def pipeline(pipeline_instance: ConfigContext, request: pytest.FixtureRequest) -> OpenInstance:
    """The instance of `pipeline_instance`, open: `.run()`, `.table()`, `.query()`, `.diff()`. If its source was never
    run, the source runs first."""
    from pipedag_dagster.looking.open_instance import OpenInstance  # noqa: PLC0415
    from pipedag_dagster.testing.fresh import run_source  # noqa: PLC0415

    workspace = _workspace(request.config)
    run_source(pipeline_instance, workspace)
    return OpenInstance(pipeline_instance, workspace)


@pytest.fixture
def fresh_instance(pipeline_instance: ConfigContext, request: pytest.FixtureRequest) -> Iterator[FreshInstance]:
    """An instance like `pipeline_instance`, with its own schemas. They are dropped after the test. Tests that run side
    by side do not share it."""
    from pipedag_dagster.testing.fresh import FreshInstance  # noqa: PLC0415

    fresh = FreshInstance(pipeline_instance, _workspace(request.config))
    yield fresh
    fresh.drop()


@pytest.fixture(scope="session")
def embedded_postgres() -> Iterator[sa.URL]:
    """The url of an empty PostgreSQL for this test session. It is deleted at the end."""
    from pipedag_dagster.postgres import embedded  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        try:
            yield embedded.start(Path(folder)).set(database="postgres")
        finally:
            embedded.stop(Path(folder))
