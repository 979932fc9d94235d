"""Connections of ADBC are kept for the next transaction, but not when something went wrong in them."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import adbc_driver_manager
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster.data import adbc


@pytest.fixture
def uri(database_url: sa.URL) -> Any:
    text = database_url.render_as_string(hide_password=False)
    yield text
    adbc.disconnect(text)


def backend(uri: str) -> int:
    with adbc.transaction(uri) as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def backends(uri: str) -> int:
    with psycopg.connect(uri) as connection:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def test_a_connection_is_used_again(uri: str) -> None:
    assert backend(uri) == backend(uri)


def test_threads_have_connections_of_their_own(uri: str) -> None:
    both = Barrier(2)

    def hold() -> int:
        with adbc.transaction(uri) as cursor:
            both.wait(30)
            cursor.execute("SELECT pg_backend_pid()")
            return int(cursor.fetchone()[0])

    with ThreadPoolExecutor(2) as pool:
        first, second = (each.result() for each in [pool.submit(hold), pool.submit(hold)])
    assert first != second


def test_a_transaction_is_committed(uri: str) -> None:
    with adbc.transaction(uri) as cursor:
        cursor.execute("CREATE TABLE public.t AS SELECT 1 AS x")
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT x FROM public.t").fetchall() == [(1,)]


def test_an_exception_rolls_back_and_closes_the_connection(uri: str) -> None:
    before = backend(uri)

    def fail() -> None:
        with adbc.transaction(uri) as cursor:
            cursor.execute("CREATE TABLE public.t AS SELECT 1 AS x")
            raise ValueError("of the caller")

    with pytest.raises(ValueError, match="of the caller"):
        fail()
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT to_regclass('public.t')").fetchone() == (None,)
    assert backend(uri) != before


def test_a_result_that_is_not_read_to_its_end_ends_the_connection(uri: str) -> None:

    def stop() -> None:
        with adbc.reading(uri) as cursor:
            cursor.execute("SELECT repeat('x', 1000) FROM generate_series(1, 200000)")
            next(iter(cursor.fetch_record_batch()))
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        stop()
    with adbc.reading(uri) as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_settings_of_a_transaction_end_with_it(uri: str) -> None:
    with adbc.reading(uri) as cursor:
        cursor.execute("SELECT 1")
    with adbc.transaction(uri) as cursor:
        cursor.execute("SELECT current_setting('transaction_read_only')")
        assert cursor.fetchone() == ("off",)


def test_a_connection_that_the_server_has_closed_is_replaced(uri: str) -> None:
    before = backend(uri)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    assert backend(uri) != before


def test_disconnect_closes_what_is_kept(uri: str) -> None:
    backend(uri)
    assert backends(uri) > 0
    adbc.disconnect(uri)
    until = time.monotonic() + 30  # a backend ends a moment after its connection
    while backends(uri) and time.monotonic() < until:
        time.sleep(0.01)
    assert backends(uri) == 0


def test_a_connection_that_is_used_is_closed_when_it_is_given_back(uri: str) -> None:
    with adbc.transaction(uri) as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        before = cursor.fetchone()[0]
        adbc.disconnect(uri)
    assert backend(uri) != before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded")
def test_a_forked_process_leaves_the_connections_of_its_parent_alone(uri: str) -> None:
    before = backend(uri)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if backend(uri) != before else 2
            adbc.disconnect(uri)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend(uri) == before


def test_the_first_statement_runs_on_each_new_connection(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(adbc._first, uri, "SELECT set_config('application_name', 'told', false)")
    for _ in range(2):
        with adbc.transaction(uri) as cursor:
            cursor.execute("SELECT current_setting('application_name')")
            assert cursor.fetchone() == ("told",)


def test_an_error_of_a_statement_is_passed_on(uri: str) -> None:
    with pytest.raises(adbc_driver_manager.Error, match="does not exist"), adbc.transaction(uri) as cursor:
        cursor.execute("SELECT * FROM public.nothing")
