"""How many messages a run sends to the database for each table that it makes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, Stage, Table, materialize
from pipedag_dagster_tests.helpers.server_log import Log
from pipedag_dagster_tests.torture.servers import Server, serve

FEW, MANY = 10, 40
PER_TABLE = 10
"""A transaction begins (1). The SQL of the user: its settings, itself, and what it has written to (3). Constraints,
statistics and columns (1). What the query reads (1). The locks for the record, the lock of the stage, and the record
(3). The transaction ends (1)."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


def instance(server: Server) -> ConfigContext:
    name = f"cold_{secrets.token_hex(4)}"
    server.execute(f"CREATE DATABASE {name}", f"ALTER DATABASE {name} SET log_statement = 'all'")
    return server.files(name).get("full")


def flow(tables: int, changed: int = 1) -> Flow:
    @materialize(lazy=True)
    def query(number: int) -> Table:
        return Table(sa.select(sa.literal(number).label("id")), primary_key="id", indexes=[["id"]])

    with Flow("cold") as made, Stage("raw"):
        for number in range(1, tables):
            query(number)
        query(-changed)
    return made


def test_a_table_of_a_query_takes_few_messages(server: Server) -> None:
    log, counts = Log(server.data / "log"), []
    flow(2).run(instance(server))  # what is looked up once in a process is not counted
    for tables in (FEW, MANY):
        full = instance(server)
        log.statements()
        flow(tables).run(full)
        counts.append(len(log.statements()))
    few, many = counts
    # Another connection may be opened, and the driver forgets prepared statements now and then.
    assert many - few < (PER_TABLE + 1) * (MANY - FEW)


def test_one_changed_table_takes_as_many_messages_beside_few_as_beside_many(server: Server) -> None:
    log, counts = Log(server.data / "log"), []
    for tables in (FEW, MANY):
        full = instance(server)
        for changed in (1, 2):
            flow(tables, changed).run(full)
        log.statements()
        flow(tables, changed=3).run(full)
        counts.append(len(log.statements()))
    few, many = counts
    assert many - few < FEW  # as above: nothing is sent for each table
