"""Behind a pooler: session mode works, every other mode is refused before anything is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import Flow, PipedagConfig, RawSql, Stage, Table, materialize
from pipedag_dagster.data import frames
from pipedag_dagster.errors import ConnectionLost, PoolerRefused
from pipedag_dagster.postgres import advisory_lock, session
from pipedag_dagster.postgres.advisory_lock import StageLock
from pipedag_dagster.postgres.database import Database
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.helpers.session import OURS, SHOW
from pipedag_dagster_tests.postgres.pgbouncer import IGNORE, direct, pgbouncer

LOCK = StageLock("full_raw", "stage 'raw' of instance 'full'", "pipedag-dagster unlock full raw")


def shop() -> Flow:
    @materialize(input=True)
    def people() -> Table:
        return Table(pd.DataFrame({"id": [1, 2], "name": ["Müller", None]}), primary_key="id")

    @materialize(lazy=True, input_type=sa.Table)
    def query(people: sa.Alias) -> sa.Select[tuple[object]]:
        return sa.select(people.c.id).where(people.c.name.is_(None))

    @materialize(input_type=sa.Table)
    def script(people: sa.Alias) -> RawSql:
        return RawSql("CREATE TABLE scripted AS SELECT id, name FROM {people}")

    with Flow("shop") as flow:
        with Stage("raw"):
            loaded = people()
        with Stage("report"):
            query(loaded)
            script(loaded)
    return flow


def through(instances: Instances, url: sa.URL, more: str = "") -> PipedagConfig:
    """full, by this url."""
    args = f"url: {json.dumps(url.render_as_string(hide_password=False))}{more}"
    return instances(full=f"table_store: {{args: {{{args}}}}}\n")


@pytest.mark.parametrize("role", ["", ", role: shop_full"])
def test_in_session_mode_everything_works(
    instances: Instances, database_url: sa.URL, tmp_path: Path, role: str
) -> None:
    with pgbouncer(database_url, tmp_path, "session", IGNORE) as url, direct(database_url) as outsider:
        if role:
            outsider.execute("CREATE ROLE shop_full")
            outsider.execute(f"GRANT CREATE ON DATABASE {database_url.database} TO shop_full".encode())
        try:
            instance = through(instances, url.set(database=database_url.database), role).get("full")
            for _ in range(2):
                shop().run(config=instance, fail_fast=True, cache_validation_mode="force_cache_invalid")
            assert outsider.execute("SELECT * FROM full_report.scripted").fetchall() == [(1, "Müller"), (2, None)]
            owners = outsider.execute("SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname ~ '^people'")
            assert owners.fetchall() == [("shop_full" if role else "postgres",)]
            instance.store.table_store.close()
        finally:
            if role:
                outsider.execute("DROP OWNED BY shop_full CASCADE")
                outsider.execute("DROP ROLE shop_full")


def test_in_session_mode_every_driver_has_our_settings(database_url: sa.URL, tmp_path: Path) -> None:
    with direct(database_url) as outsider:
        outsider.execute(f"ALTER DATABASE {database_url.database} SET TimeZone = 'Asia/Kolkata'".encode())
    with pgbouncer(database_url, tmp_path, "session", IGNORE) as url:
        database = Database(url.set(database=database_url.database), tmp_path)
        with database.begin() as connection:
            assert list(connection.execute(sa.text(SHOW)).one()) == OURS
        with database.connect("a lock") as connection:
            assert list(connection.execute(SHOW).fetchone() or ()) == OURS
        arrow = frames.read(database.uri, SHOW)
        assert [column[0].as_py() for column in arrow.columns][:-1] == OURS[:-1]
        database.close()


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("more", ["", "server_round_robin = 1"])
@pytest.mark.parametrize("others", [0, 1, 3])
def test_other_modes_are_refused_before_anything_is_done(
    instances: Instances, database_url: sa.URL, tmp_path: Path, mode: str, more: str, others: int
) -> None:
    with pgbouncer(database_url, tmp_path, mode, f"{IGNORE}\n{more}") as pooler, direct(database_url) as outsider:
        url = pooler.set(database=database_url.database)
        busy = [direct(url) for _ in range(others)]
        for connection in busy if mode == "transaction" else []:  # so that the pool has several backends
            connection.execute("BEGIN")
        for connection in busy if mode == "transaction" else []:
            connection.execute("COMMIT")
        with pytest.raises(PoolerRefused, match=r"is a pooler .*pool_mode = session"):
            shop().run(config=through(instances, url).get("full"), fail_fast=True)
        assert not outsider.execute("SELECT FROM pg_namespace WHERE nspname LIKE 'full%'").fetchall()
        for connection in busy:
            connection.close()


def test_a_pooler_that_refuses_our_settings_is_explained(
    instances: Instances, database_url: sa.URL, tmp_path: Path
) -> None:
    with pgbouncer(database_url, tmp_path, "session") as pooler:
        config = through(instances, pooler.set(database=database_url.database))
        with pytest.raises(PoolerRefused, match="ignore_startup_parameters = options"):
            shop().run(config=config.get("full"), fail_fast=True)


def test_a_pooler_that_changes_to_transaction_mode_is_noticed_before_a_commit(
    database_url: sa.URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was in session mode when the process looked at it."""
    monkeypatch.setattr(session, "refuse_shared_backends", lambda url: None)
    with pgbouncer(database_url, tmp_path, "transaction", IGNORE) as pooler:
        url = pooler.set(database=database_url.database)
        database = Database(url, tmp_path)
        with advisory_lock.hold(database, LOCK, "a run") as check:
            check()
            with psycopg.connect(session.libpq(url)) as other:
                other.execute("SELECT 1")  # this transaction has the backend that took the lock
                with pytest.raises(PoolerRefused):
                    check()
        database.close()


def test_a_second_run_behind_the_same_backend_does_not_get_the_lock(
    database_url: sa.URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "refuse_shared_backends", lambda url: None)
    with pgbouncer(database_url, tmp_path, "transaction", IGNORE) as pooler:
        url = pooler.set(database=database_url.database)
        first, second = Database(url, tmp_path), Database(url, tmp_path)
        with (
            advisory_lock.hold(first, LOCK, "a run"),
            pytest.raises(PoolerRefused),
            advisory_lock.hold(second, LOCK, "another run"),
        ):
            pass
        first.close()
        second.close()


def test_a_lock_that_was_released_behind_our_back_is_noticed(
    database_url: sa.URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(database_url, tmp_path)
    held: list[sa.Connection] = []
    look = database.look

    @contextmanager
    def remembered() -> Iterator[sa.Connection]:
        with look() as connection:
            held.append(connection)
            yield connection

    monkeypatch.setattr(database, "look", remembered)
    with advisory_lock.hold(database, LOCK, "a run") as check:
        held[0].execute(sa.text("SELECT pg_advisory_unlock_all()"))
        with pytest.raises(ConnectionLost, match="no longer holds the lock"):
            check()
    database.close()
