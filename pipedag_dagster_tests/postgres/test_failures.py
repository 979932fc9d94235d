"""What the database may do to us, in one sentence that says what to do: for two frames, a query and a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import Flow, PipedagConfig, RawSql, Result, Stage, materialize
from pipedag_dagster.errors import (
    PipedagError,
    ReadOnlyServer,
    SeveralFailed,
    TimedOut,
    TooManyConnections,
)
from pipedag_dagster_tests.helpers import Instances

DRIVERS = ("psycopg", "sqlalche", "adbc", "SQL:", "Background on", "[libpq]")


def frames() -> Flow:
    @materialize()
    def one() -> pd.DataFrame:
        return pd.DataFrame({"a": range(1000)})

    @materialize()
    def two() -> pd.DataFrame:
        return pd.DataFrame({"a": range(1000)})

    with Flow("shop") as flow, Stage("raw"):
        one()
        two()
    return flow


def query() -> Flow:
    @materialize(lazy=True)
    def slow() -> Any:
        return sa.text("SELECT 1 AS a FROM pg_sleep(0.4)")

    with Flow("shop") as flow, Stage("raw"):
        slow()
    return flow


def script() -> Flow:
    @materialize()
    def made() -> RawSql:
        return RawSql("CREATE TABLE scripted AS SELECT 1 AS a FROM pg_sleep(0.4)")

    with Flow("shop") as flow, Stage("raw"):
        made()
    return flow


FLOWS: dict[str, Callable[[], Flow]] = {"two frames": frames, "a query": query, "a script": script}


def explained(result: Result) -> list[PipedagError]:
    """The errors of a run, each in words of ours."""
    error = result.error
    errors = list(error.failures) if isinstance(error, SeveralFailed) else [error]
    for each in errors:
        assert isinstance(each, PipedagError), repr(error)
        assert not any(word in str(each) for word in DRIVERS), str(each)
    return [each for each in errors if isinstance(each, PipedagError)]


@pytest.fixture
def admin(server_url: sa.URL) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server_url.render_as_string(hide_password=False), autocommit=True) as connection:
        yield connection


def with_options(instances: Instances, url: sa.URL, options: str) -> PipedagConfig:
    text = json.dumps(url.update_query_dict({"options": options}).render_as_string(hide_password=False))
    return instances(full=f"table_store: {{args: {{url: {text}}}}}\n")


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_too_many_connections(
    instances: Instances, database_url: sa.URL, admin: psycopg.Connection[Any], flow: str, limit: int
) -> None:
    """CONNECTION LIMIT does not count for superusers: a login of its own."""
    role = f"{database_url.database}_login"
    admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT {limit}".encode())
    admin.execute(f"GRANT CREATE ON DATABASE {database_url.database} TO {role}".encode())
    text = json.dumps(database_url.set(username=role).render_as_string(hide_password=False))
    config = instances(full=f"table_store: {{args: {{url: {text}}}}}\n")
    try:
        result = FLOWS[flow]().run(config=config.get("full"), fail_fast=False)
        if not result.successful:
            assert all(isinstance(each, TooManyConnections) for each in explained(result)), result.error
            assert "Lower `max_concurrent`" in str(result.error)
        assert limit > 1 or not result.successful
        config.get("full").store.table_store.close()
    finally:
        admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1".encode())
        assert FLOWS[flow]().run(config=config.get("full"), fail_fast=False).successful
        config.get("full").store.table_store.close()
        url = database_url.render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP OWNED BY {role} CASCADE".encode())
        admin.execute(f"DROP ROLE {role}".encode())


@pytest.mark.parametrize("flow", ["a query", "a script"])
def test_a_statement_that_takes_longer_than_its_limit(instances: Instances, database_url: sa.URL, flow: str) -> None:
    config = with_options(instances, database_url, "-c statement_timeout=300ms")
    result = FLOWS[flow]().run(config=config.get("full"), fail_fast=False)
    assert [type(each) for each in explained(result)] == [TimedOut]
    assert "statement_timeout where it was set" in str(result.error)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("limit", ["idle_in_transaction_session_timeout", "idle_session_timeout", "lock_timeout"])
def test_a_limit_that_the_database_sets_for_others_does_not_reach_us(
    instances: Instances, database_url: sa.URL, admin: psycopg.Connection[Any], flow: str, limit: str
) -> None:
    admin.execute(f"ALTER DATABASE {database_url.database} SET {limit} = '1ms'".encode())
    assert FLOWS[flow]().run(config=instances().get("full"), fail_fast=False).successful


@pytest.mark.parametrize("flow", FLOWS)
def test_a_server_that_is_read_only(instances: Instances, flow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a standby answers: each transaction is read-only, whatever we set."""
    config = instances()
    database = config.get("full").store.table_store.database

    @sa.event.listens_for(database.engine, "begin")
    def as_a_standby_does(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")

    try:
        result = FLOWS[flow]().run(config=config.get("full"), fail_fast=False)
    finally:
        sa.event.remove(database.engine, "begin", as_a_standby_does)
    assert [type(each) for each in explained(result)] == [ReadOnlyServer]
    assert "Name the primary server" in str(result.error)


def test_an_interruption_in_a_task_is_an_interruption(instances: Instances) -> None:
    @materialize()
    def interrupted() -> pd.DataFrame:
        raise KeyboardInterrupt

    with Flow("shop") as flow, Stage("raw"):
        interrupted()
    with pytest.raises(KeyboardInterrupt):
        flow.run(config=instances().get("full"), fail_fast=True)
