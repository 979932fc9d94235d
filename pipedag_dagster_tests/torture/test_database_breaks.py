"""Nothing half-done: whatever happens to the database in the middle of a run, people see one whole version. The error
says what to do, and the next run resumes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import Flow, PipedagConfig, Result, Stage, materialize
from pipedag_dagster.errors import ConnectionLost, DatabaseError, DatabaseUnreachable, DiskFull, SeveralFailed
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.torture import Count, count, servers, victim
from pipedag_dagster_tests.torture.servers import Server
from pipedag_dagster_tests.torture.ward import Ward

CUT = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with servers.serve() as server:
        yield server


@pytest.fixture
def files(server: Server) -> Iterator[PipedagConfig]:
    """An empty database of its own on the server."""
    server.execute("CREATE DATABASE torn")
    yield server.files("torn")
    server.execute("DROP DATABASE torn WITH (FORCE)")


def breaks(ward: Ward, step: str, act: Callable[[], object]) -> Result:
    """A run of the next generation, to which `act` happens at `step`. What it leaves is looked at, and finished."""
    generation = next(ward.generations)
    with victim.at(step, act):
        result = victim.run(ward.path, generation, fail_fast=False)
    ward.counted.tries += 1
    try:
        assert result.successful or explained(result.error)
        assert ward.shown() in ({generation}, set() if result.successful else {ward.visible})
        assert [found.message for found in differences(ward.store) if not found.harmless] == []
        ward.visible = ward.finish(generation)
        assert differences(ward.store) == []
    except AssertionError:
        ward.counted.violations += 1
        raise
    return result


def explained(error: BaseException | None) -> bool:
    """Whether it is an error of ours, in words of ours. Several tasks may each tell what has happened to them."""
    for one in error.failures if isinstance(error, SeveralFailed) else [error]:
        assert isinstance(one, DatabaseError), repr(error)
        assert not any(word in str(one) for word in ("psycopg", "sqlalche", "adbc", "hush-hush", "SQL:"))
        assert "run it again" in str(one).lower() or "cannot be reached" in str(one)
    return True


@pytest.fixture(scope="module")
def cut() -> Count:
    return count("nothing half-done: all connections terminated by the server, at each step")


@pytest.mark.parametrize("step", victim.STEPS)
def test_connections_terminated_by_the_server(
    instances: Instances, database_url: sa.URL, cut: Count, step: str
) -> None:
    def terminate() -> None:
        with psycopg.connect(database_url.render_as_string(hide_password=False), autocommit=True) as connection:
            connection.execute(CUT)

    breaks(Ward(instances(), cut), step, terminate)


RESTARTS = ("before an upload", "between tables", "inside the commit, after the catalog", "after the commit")


@pytest.fixture(scope="module")
def restarts() -> Count:
    return count("nothing half-done: server crashed and restarted in the middle")


@pytest.mark.parametrize("step", RESTARTS)
def test_the_server_crashes_and_comes_back(server: Server, files: PipedagConfig, restarts: Count, step: str) -> None:
    breaks(Ward(files, restarts), step, server.restart)


def test_the_server_is_gone_until_somebody_starts_it(server: Server, files: PipedagConfig) -> None:
    ward = Ward(files, count("nothing half-done: server gone in the middle"))
    ward.counted.tries = 1
    generation = next(ward.generations)
    with victim.at("between tables", server.stop):
        result = victim.run(ward.path, generation, fail_fast=False)
    server.start()
    # Each task that ran then has its own.
    failures = result.error.failures if isinstance(result.error, SeveralFailed) else [result.error]
    assert all(isinstance(failure, DatabaseUnreachable | ConnectionLost) for failure in failures)
    assert all(map(explained, failures))
    assert ward.shown() == {ward.visible}
    ward.finish(generation)


@pytest.mark.parametrize("fault", ["terminated", "crashed"])
def test_in_the_middle_of_a_statement(server: Server, files: PipedagConfig, fault: str) -> None:
    """A query of a task that takes long, and is cut off."""
    seconds = 60.0

    @materialize(lazy=True, input_type=sa.Table)
    def slow() -> Any:
        return sa.text(f"SELECT 1 AS one FROM pg_sleep({seconds})")

    def flow() -> Flow:
        with Flow("shop") as made, Stage("work"):
            slow()
        return made

    def break_it() -> None:
        with psycopg.connect(server.uri("torn"), autocommit=True) as connection:
            until = time.monotonic() + 30
            while not connection.execute(RUNS).fetchone() and time.monotonic() < until:
                time.sleep(0.05)
            if fault == "terminated":
                connection.execute(CUT)
        if fault == "crashed":
            server.restart()

    breaker = threading.Thread(target=break_it)
    breaker.start()
    result = flow().run(files.get("full"), fail_fast=False)
    breaker.join()
    assert isinstance(result.error, ConnectionLost)
    assert explained(result.error)
    seconds = 0.0
    assert flow().run(files.get("full"), fail_fast=False).successful


RUNS = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CREATE TABLE%pg_sleep%'"


@pytest.mark.parametrize("kind", ["frame", "query"])
def test_a_disk_that_is_full(server: Server, files: PipedagConfig, kind: str) -> None:
    """What was there is there, what was staged is reused, and what did not fit takes no room."""
    ran: list[str] = []
    size = 1

    @materialize(version="1")
    def small() -> pd.DataFrame:
        ran.append("small")
        return pd.DataFrame({"n": [1]})

    @materialize()
    def large(small: pd.DataFrame, size: int) -> Any:
        ran.append("large")
        if kind == "query":
            return sa.text(
                f"SELECT repeat(md5(i::text), 30) AS text FROM generate_series(1, {size}) i".replace(":", r"\:")
            )
        return pd.DataFrame({"text": [f"{i:1000}" for i in range(size)]})

    def run() -> Result:
        with Flow("shop") as flow, Stage("work"):
            large(small(), size)
        return flow.run(files.get("full"), fail_fast=False)

    counted = count(f"nothing half-done: disk full while a {kind} is stored")
    counted.tries = 1
    store = files.get("full").store.table_store
    try:
        with servers.small_disk(server, megabytes=24) as space:
            server.execute(
                f"CREATE TABLESPACE small LOCATION '{space}'", "ALTER DATABASE torn SET default_tablespace = small"
            )
            try:
                size = 2
                assert run().successful
                ran.clear()
                size = 60_000
                result = run()
                assert isinstance(result.error, DiskFull), result.error
                assert "Make room" in str(result.error)
                assert explained(result.error)
                assert store.current(["work"])["work"].number == 1
                assert [one for one in differences(store) if not one.harmless] == []
                size = 10_000  # 10 MB: they fit, if what did not fit is gone
                ran.clear()
                assert run().successful
                assert ran == ["large"]
                assert differences(store) == []
            finally:
                store.close()
                server.execute("DROP DATABASE torn WITH (FORCE)", "DROP TABLESPACE small", "CREATE DATABASE torn")
    except OSError as error:
        pytest.skip(f"no small file system can be mounted here: {error}")
