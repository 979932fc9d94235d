"""Every connection has our settings, whatever the environment, the role, the database or the url says."""

from __future__ import annotations

import uuid
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, RawSql, Stage, Table, materialize
from pipedag_dagster.data import frames
from pipedag_dagster.errors import DatabaseError
from pipedag_dagster.postgres.database import Database
from pipedag_dagster_tests.helpers import Connection, Instances
from pipedag_dagster_tests.helpers.session import OURS, SHOW

NAME = "Müller – 名前 👍"
ODD_SETTINGS = {
    "client_encoding": "LATIN1",
    "search_path": "public",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kolkata",
    "extra_float_digits": "-10",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "idle_session_timeout": "1",
}


@materialize(input=True)
def people() -> Table:
    return Table(pd.DataFrame({"id": [1], "name": [NAME]}), primary_key="id")


@materialize(lazy=True, input_type=sa.Table)
def query(people: sa.Alias) -> Any:
    return sa.select(people.c.id, people.c.name, sa.literal_column("'a\\b'").label("text"))


@materialize(input_type=sa.Table)
def script(people: sa.Alias) -> RawSql:
    return RawSql(f"CREATE TABLE scripted AS SELECT id, name, '{NAME}'::text AS mine FROM {{people}}")


@materialize(input_type=pd.DataFrame)
def frame(query: pd.DataFrame) -> pd.DataFrame:
    return query


def flow() -> Flow:
    with Flow("shop") as made:
        with Stage("raw"):
            loaded = people()
        with Stage("report"):
            frame(query(loaded))
            script(loaded)
    return made


def everything_is_right(instance: ConfigContext, connection: Connection) -> None:
    flow().run(config=instance, fail_fast=True)
    assert connection.execute("SELECT id, name FROM full_raw.people").fetchall() == [(1, NAME)]
    for table in ("query", "frame"):
        found = connection.execute(f"SELECT id, name, text FROM full_report.{table}".encode()).fetchall()
        assert found == [(1, NAME, "a\\b")]
    assert connection.execute("SELECT id, name, mine FROM full_report.scripted").fetchall() == [(1, NAME, NAME)]


@pytest.mark.parametrize(
    "variables",
    [
        {"PGCLIENTENCODING": "LATIN1"},
        {"PGDATESTYLE": "German", "PGTZ": "Asia/Kolkata"},
        {"PGOPTIONS": " ".join(f"-c {k}={v.replace(' ', chr(92) + ' ')}" for k, v in list(ODD_SETTINGS.items())[:13])},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_the_environment_changes_nothing(
    instances: Instances, connection: Connection, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    instance = instances().get("full")
    instance.store.table_store.close()
    everything_is_right(instance, connection)


@pytest.mark.parametrize("name", ODD_SETTINGS)
def test_a_default_of_the_database_changes_nothing(
    instances: Instances, connection: Connection, database_url: sa.URL, name: str
) -> None:
    connection.execute(
        f"ALTER DATABASE {database_url.database} SET {name} = "
        f"{', '.join(repr(part.strip()) for part in ODD_SETTINGS[name].split(','))}".encode()
    )
    everything_is_right(instances().get("full"), connection)


def test_every_driver_has_the_same_settings(database_url: sa.URL, connection: Connection, tmp_path: Any) -> None:
    for name, value in ODD_SETTINGS.items():
        parts = ", ".join(repr(part.strip()) for part in value.split(","))
        connection.execute(f"ALTER DATABASE {database_url.database} SET {name} = {parts}".encode())
    database = Database(database_url, tmp_path)
    with database.begin() as connection:
        assert list(connection.execute(sa.text(SHOW)).one()) == OURS
    with database.connect("a lock") as connection:
        assert list(connection.execute(SHOW).fetchone() or ()) == OURS
    arrow = frames.read(database.uri, SHOW)
    assert [column[0].as_py() for column in arrow.columns][:-1] == OURS[:-1]  # ADBC is read-only here


def test_the_url_may_set_a_limit(database_url: sa.URL, tmp_path: Any) -> None:
    url = database_url.update_query_dict({"options": "-c statement_timeout=7s -c work_mem=7MB -c DateStyle=German"})
    with Database(url, tmp_path).read() as connection:
        shown = [connection.scalar(sa.text(f"SHOW {name}")) for name in ("statement_timeout", "work_mem", "DateStyle")]
    assert shown == ["7s", "7MB", "ISO, MDY"]


def test_sql_of_users_sees_the_search_path_of_its_login(
    instances: Instances, connection: Connection, database_url: sa.URL
) -> None:
    connection.execute("CREATE SCHEMA tools")
    connection.execute("CREATE FUNCTION tools.twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n'")
    connection.execute("CREATE FUNCTION public.thrice(n int) RETURNS int LANGUAGE sql AS 'SELECT 3 * n'")
    connection.execute(f"ALTER DATABASE {database_url.database} SET search_path = tools, public".encode())

    @materialize(lazy=True)
    def numbers() -> Any:
        return sa.text("SELECT twice(2) AS twice, thrice(2) AS thrice")

    @materialize()
    def scripted() -> RawSql:
        return RawSql("CREATE TABLE also AS SELECT twice(2) AS twice, thrice(2) AS thrice")

    with Flow("shop") as made, Stage("raw"):
        numbers()
        scripted()
    made.run(config=instances().get("full"), fail_fast=True)
    for table in ("numbers", "also"):
        assert connection.execute(f"SELECT twice, thrice FROM full_raw.{table}".encode()).fetchall() == [(4, 6)]


def test_types_of_users_are_copied_between_databases(instances: Instances, connection: Connection) -> None:
    connection.execute("CREATE TYPE public.mood AS ENUM ('sad', 'ok')")

    @materialize(input=True, lazy=True)
    def moods() -> Any:
        return sa.text("SELECT 'ok'::mood AS mood")

    with Flow("shop") as made, Stage("raw"):
        moods()
    for instance in ("full", "midi"):
        made.run(config=instances().get(instance), fail_fast=True)
        assert connection.execute(f"SELECT mood::text FROM {instance}_raw.moods".encode()).fetchall() == [("ok",)]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_does_not_store_utf8_is_refused(server_url: sa.URL, tmp_path: Any, encoding: str) -> None:
    name = f"odd_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server_url.render_as_string(hide_password=False), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
        try:
            with pytest.raises(DatabaseError, match=rf"'{name}' stores text as {encoding}.*ENCODING 'UTF8'"):
                Database(server_url.set(database=name), tmp_path).engine  # noqa: B018
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
