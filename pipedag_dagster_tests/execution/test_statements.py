"""A run in which nothing changed sends as many statements for 100 tables as for 10."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa

from pipedag_dagster import Blob, Flow, Stage, Table, View, materialize
from pipedag_dagster_tests.torture.servers import Server, serve


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve() as server:
        server.execute("CREATE DATABASE counted", "ALTER DATABASE counted SET log_statement = 'all'")
        yield server


class Log:
    """The statements in the log of a server since the last look."""

    def __init__(self, file: Path) -> None:
        self.file, self.seen = file, 0

    def statements(self) -> list[str]:
        text = self.file.read_text()
        new, self.seen = text[self.seen :], len(text)
        return re.findall(r"LOG:  (?:statement|execute [^:]*): (.*)", new)


@materialize(version="1.0")
def load() -> Table:
    return Table(pd.DataFrame({"id": range(3), "x": 1.5}), primary_key="id")


@materialize(lazy=True, input_type=sa.Table)
def query(table: sa.Alias) -> Table:
    return Table(sa.select(table.c.id, table.c.x), primary_key="id")


@materialize(lazy=True, input_type=sa.Table)
def view(table: sa.Alias) -> View:
    return View(table)


@materialize(version="1.0", input_type=pd.DataFrame)
def pandas_frame(table: pd.DataFrame) -> pd.DataFrame:
    return table


@materialize(version="1.0", input_type=pa.Table)
def arrow_frame(table: pa.Table) -> pa.Table:
    return table


@materialize(version="1.0", input_type=pd.DataFrame)
def value(table: pd.DataFrame) -> int:
    return len(table)


@materialize(version="1.0", input_type=pd.DataFrame)
def blob(table: pd.DataFrame) -> Blob:
    return Blob(len(table), "size")


def wired(tasks: int) -> Flow:
    with Flow("counted") as flow:
        with Stage("first"):
            table = load()
            for _ in range(tasks - 1):
                query(table)
        with Stage("second"):
            for number in range(tasks - 1):
                (query, view, pandas_frame, arrow_frame, value)[number % 5](table)
            blob(table)
    return flow


def warm(server: Server, tasks: int) -> list[str]:
    """The statements of a run in which nothing changed."""
    flow, full = wired(tasks), server.files("counted").get("full")
    log = Log(server.data / "log")
    for _ in range(2):  # what is looked up once in a process is not counted
        assert flow.run(full).successful
    log.statements()
    result = flow.run(full)
    statements = log.statements()
    assert all(record.cached for record, _ in result.tables)
    return statements


def test_a_run_that_changes_nothing_sends_as_many_statements_for_many_tables_as_for_few(server: Server) -> None:
    few, many = warm(server, 10), warm(server, 100)
    assert len(few) == len(many)


def test_a_run_that_changes_nothing_sends_at_most_twelve_statements_for_each_stage(server: Server) -> None:
    statements = warm(server, 10)
    assert len(statements) <= 12 * len(wired(10).stages), "\n".join(statements)


def with_one_change(tables: int, number: int) -> Flow:
    """A flow of queries. Another `number` changes the first of them."""

    @materialize(lazy=True)
    def first() -> Table:
        return Table(sa.text(f"SELECT {number} AS id"))

    @materialize(lazy=True)
    def other() -> Table:
        return Table(sa.text("SELECT 1 AS id"))

    with Flow("changing") as flow, Stage("changing"):
        first()
        for _ in range(tables - 1):
            other()
    return flow


def after_a_change(server: Server, tables: int) -> list[str]:
    """The statements that clean up after a run in which one table of a stage has changed."""
    full = server.files("counted").get("full")
    log = Log(server.data / "log")
    for number in range(4):  # from the third on, an old version is dropped
        log.statements()
        assert with_one_change(tables, number).run(full).successful
    statements = log.statements()
    last = max(number for number, statement in enumerate(statements) if statement.startswith("ALTER SCHEMA"))
    return statements[last:]


def test_cleaning_up_after_a_change_takes_as_many_statements_for_many_tables_as_for_few(server: Server) -> None:
    few, many = after_a_change(server, 5), after_a_change(server, 50)
    assert len(few) == len(many)
    assert len(many) <= 45, "\n".join(many)
