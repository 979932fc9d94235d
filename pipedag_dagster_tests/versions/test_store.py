"""The table store on a real PostgreSQL: what others see of commits, and what is kept, locked and owned."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import adbc_driver_manager
import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import StageVersion
from pipedag_dagster.catalog.schema import FORMAT
from pipedag_dagster.errors import (
    ConnectionLost,
    DatabaseError,
    DatabaseMissing,
    DatabaseUnreachable,
    LoginRefused,
    NotMaterialized,
    NotOwned,
    UnstorableResult,
)
from pipedag_dagster.names import quote
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.versions import commit as commit_module
from pipedag_dagster.versions import schema_objects
from pipedag_dagster.versions.ownership import Owner, owner_of
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.write_table import Constraints
from pipedag_dagster_tests.helpers import Connection, Instances, libpq
from pipedag_dagster_tests.helpers.stage import Stage, table_version

Frames = dict[str, pd.DataFrame]
SECONDS = 30
"""For what must happen at all: nothing here depends on how long it takes."""


NAMES = ["Orders", 'say "hi"', "two words", "50%", "%s", ":a", "a;b", "it's", "Größe", "名前", "select", "a.b"]
NAMES += ["x" * 63, "é" * 31]


def frame(*values: int, column: str = "a") -> pd.DataFrame:
    return pd.DataFrame({column: values})


@pytest.fixture
def store(instances: Instances) -> Iterator[TableStore]:
    store = instances().get("full").store.table_store
    yield store
    store.close()


@pytest.fixture
def raw(store: TableStore) -> Stage:
    return Stage(store)


@contextmanager
def session(url: sa.URL) -> Iterator[Connection]:
    """A session in the middle of a transaction."""
    with psycopg.connect(libpq(url)) as connection:
        yield connection
        connection.rollback()


# Commits


def test_before_the_first_commit_a_stage_has_version_0_without_tables(raw: Stage) -> None:
    assert raw.version == StageVersion("raw", 0, {})
    raw.store.prepare(["raw"])
    assert raw.version == StageVersion("raw", 0, {})


def test_what_people_query_is_one_view_per_table(raw: Stage, connection: Connection) -> None:
    version = raw.commit(orders=frame(1, 2), customers=frame(3))
    assert version.number == 1
    assert raw.seen() == raw.catalog_rows() == {"orders": [(1,), (2,)], "customers": [(3,)]}
    kinds = connection.execute("SELECT relkind FROM pg_class WHERE relnamespace = 'full_raw'::regnamespace").fetchall()
    assert kinds == [(b"v",)] * 2 or kinds == [("v",)] * 2
    assert connection.execute("SELECT a FROM full_raw.orders").fetchall() == [(1,), (2,)]


def test_a_commit_replaces_adds_and_removes_tables_and_changes_columns(raw: Stage) -> None:
    raw.commit(orders=frame(1), gone=frame(7))
    version = raw.commit(orders=frame(2, column="b"), added=frame(8))
    assert version.number == 2
    assert raw.seen() == {"orders": [(2,)], "added": [(8,)]}
    assert [column.name for column in version.tables["orders"].columns] == ["b"]
    raw.put([])
    assert raw.seen() == raw.catalog_rows() == {}
    assert raw.version.number == 3


def test_an_unchanged_table_is_not_rewritten(raw: Stage, connection: Connection) -> None:
    kept = raw.commit(orders=frame(1), customers=frame(2)).tables["orders"]
    file = "SELECT pg_relation_filenode(%s::regclass)"
    physical = quote("full_raw__versions", kept.physical)
    before = connection.execute(file, (physical,)).fetchone()
    version = raw.put([kept, raw.stage("customers", frame(3))])
    assert version.tables["orders"] == kept
    assert connection.execute(file, (physical,)).fetchone() == before
    assert raw.seen() == {"orders": [(1,)], "customers": [(3,)]}


def test_going_back_is_a_commit_of_older_tables(raw: Stage) -> None:
    first = raw.commit(orders=frame(1), gone=frame(7))
    raw.commit(orders=frame(2), added=frame(8))
    version = raw.put(first.tables.values())
    assert version.number == 3
    assert version.tables == first.tables
    assert raw.seen() == raw.catalog_rows() == {"orders": [(1,)], "gone": [(7,)]}


def test_two_commits_of_one_number_cannot_both_be(raw: Stage) -> None:
    table = raw.commit(orders=frame(1)).tables["orders"]
    with raw.store.lock("raw", "late") as held, pytest.raises(DatabaseError, match="another run has made it"):
        held.commit(1, {})
    assert raw.seen() == {"orders": [(1,)]}
    assert raw.version.tables == {"orders": table}


@pytest.mark.parametrize("name", NAMES)
def test_a_table_may_have_any_name(raw: Stage, name: str) -> None:
    limits = {"primary_key": (name,), "indexes": ((name,),)}
    raw.store.prepare(["raw"])
    raw.put([raw.stage(name, frame(1, 2, column=name), **limits)])
    assert raw.seen() == raw.catalog_rows() == {name: [(1,), (2,)]}
    query = f"SELECT {quote(name)}, '%s :a 100%'::text AS text FROM {quote(raw.schema, name)}"
    raw.put([raw.stage(name, query, **limits)])
    assert raw.seen() == {name: [(1, "%s :a 100%"), (2, "%s :a 100%")]}
    assert raw.store.reader.reflect(raw.version.tables[name]).primary_key.columns.keys() == [name]


def test_a_stage_of_300_tables_commits_and_is_cleaned(raw: Stage, connection: Connection) -> None:
    raw.store.prepare(["raw"])
    for value in range(4):
        raw.put([raw.stage(f"t{i}", f"SELECT {value} AS a") for i in range(300)])
    assert len(raw.physical()) == 600
    assert len(raw.seen()) == 300
    assert raw.seen()["t299"] == [(3,)]
    assert raw.schemas() == {"", "__versions"}


# Failing half-way


FAULTS = {
    "the first statement": ("ddl_command_start", "CREATE SCHEMA", 1),
    "the second view": ("ddl_command_start", "CREATE VIEW", 2),
    "the first rename": ("ddl_command_start", "ALTER SCHEMA", 1),
    "the second rename": ("ddl_command_start", "ALTER SCHEMA", 2),
    "after the last rename": ("ddl_command_end", "ALTER SCHEMA", 2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_commit_that_fails_leaves_the_old_version_whole(raw: Stage, connection: Connection, fault: str) -> None:
    event, tag, count = FAULTS[fault]
    raw.commit(orders=frame(1), customers=frame(1))
    connection.execute("CREATE SEQUENCE public.seen")
    connection.execute(
        f"""
        CREATE FUNCTION public.fail() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('public.seen') = {count} THEN RAISE EXCEPTION 'the fault'; END IF;
        END $$"""
    )
    new = [raw.stage("orders", frame(2)), raw.stage("added", frame(2))]
    connection.execute(f"CREATE EVENT TRIGGER fault ON {event} WHEN TAG IN ('{tag}') EXECUTE FUNCTION public.fail()")
    with pytest.raises(sa.exc.DBAPIError, match="the fault"):
        raw.put(new)
    connection.execute("DROP EVENT TRIGGER fault")
    assert raw.version.number == 1
    assert raw.seen() == raw.catalog_rows() == {"orders": [(1,)], "customers": [(1,)]}
    raw.put(new)
    assert raw.version.number == 2
    assert raw.seen() == raw.catalog_rows() == {"orders": [(2,)], "added": [(2,)]}
    assert raw.schemas() == {"", "__versions"}


@pytest.mark.parametrize(
    ("module", "step"),
    [(commit_module, "_wait_for_readers"), (schema_objects, "replaced_schemas"), (schema_objects, "drop")],
)
def test_a_process_killed_at_a_step_leaves_one_whole_version(
    raw: Stage, monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: str
) -> None:
    raw.commit(orders=frame(1), gone=frame(1))
    raw.commit(orders=frame(2), gone=frame(1))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, die)
        with pytest.raises(KeyboardInterrupt):
            raw.commit(orders=frame(3))
    assert raw.seen() == raw.catalog_rows()
    assert raw.seen() in ({"orders": [(2,)], "gone": [(1,)]}, {"orders": [(3,)]})
    raw.commit(orders=frame(4))
    assert raw.seen() == raw.catalog_rows() == {"orders": [(4,)]}
    assert raw.schemas() == {"", "__versions"}


def test_a_table_that_breaks_a_constraint_is_refused_and_leaves_nothing_behind(raw: Stage) -> None:
    raw.store.prepare(["raw"])
    with pytest.raises(UnstorableResult, match=r"raw\.orders.*unique.*\(a\)=\(1\)"):
        raw.stage("orders", "SELECT 1 AS a UNION ALL SELECT 1", primary_key=("a",))
    assert raw.physical() == set()
    with pytest.raises(UnstorableResult, match=r"raw\.orders.*unique"):
        raw.stage("orders", frame(1, 1), primary_key=("a",))
    raw.commit(orders=frame(1))
    assert len(raw.physical()) == 1


# Readers


def test_a_long_reader_of_a_view_does_not_stop_a_commit_and_sees_what_it_saw(raw: Stage, database_url: sa.URL) -> None:
    raw.commit(orders=frame(1), customers=frame(1))
    with session(database_url) as reader:
        assert reader.execute("SELECT a FROM full_raw.orders").fetchall() == [(1,)]
        raw.commit(orders=frame(2), customers=frame(2))  # comes back while the reader's transaction is open
        assert reader.execute("SELECT a FROM full_raw.orders").fetchall() == [(2,)]
        assert "__old" in raw.schemas()
    raw.commit(orders=frame(3), customers=frame(3))
    assert raw.schemas() == {"", "__versions"}


def test_a_reader_of_a_pinned_physical_table_does_not_delay_a_commit(
    raw: Stage, database_url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = raw.commit(orders=frame(1)).tables["orders"]
    monkeypatch.setattr(commit_module, "PATIENCE", 3600)
    with session(database_url) as reader:
        physical = quote("full_raw__versions", table.physical)
        reader.execute(f"SELECT * FROM {physical}".encode())
        worker = threading.Thread(target=raw.commit, kwargs={"orders": frame(2)}, daemon=True)
        worker.start()
        worker.join(SECONDS)
        assert not worker.is_alive()
        assert raw.seen() == {"orders": [(2,)]}
        assert reader.execute(f"SELECT * FROM {physical}".encode()).fetchall() == [(1,)]


def test_readers_find_every_table_and_never_a_mix_of_versions(raw: Stage, database_url: sa.URL) -> None:
    tables = [f"t{i}" for i in range(20)]
    raw.store.prepare(["raw"])
    versions = [[raw.stage(name, frame(value)) for name in tables] for value in range(2)]
    raw.put(versions[0])
    query = f"SELECT {', '.join(f'{name}.a' for name in tables)} FROM " + ", ".join(f"full_raw.{n}" for n in tables)
    stop, ready = threading.Event(), threading.Barrier(4, timeout=SECONDS)
    seen: list[tuple[int, ...]] = []
    errors: list[BaseException] = []

    def read() -> None:
        with psycopg.connect(libpq(database_url), autocommit=True) as connection:
            ready.wait()
            while not stop.is_set():
                try:
                    seen.extend(connection.execute(query.encode(), prepare=False).fetchall())
                except BaseException as error:
                    errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    ready.wait()
    try:
        for number in range(1, 21):
            raw.put(versions[number % 2])
    finally:
        stop.set()
        for reader in readers:
            reader.join(SECONDS)
    assert errors == []
    assert set(seen) == {(0,) * 20, (1,) * 20}


# Pins and old versions


def test_a_run_sees_one_version_while_others_commit(raw: Stage) -> None:
    first = raw.commit(orders=frame(1))
    assert raw.store.pin("reader", ["raw"])["raw"].tables == first.tables
    for value in range(2, 6):
        raw.commit(orders=frame(value))
    pinned = raw.store.pin("reader", ["raw"])["raw"]
    assert pinned == first
    assert raw.store.read(pinned.tables["orders"])["a"].tolist() == [1]
    assert raw.store.pin("other", ["raw"])["raw"].number == 5
    raw.store.unpin("reader")
    raw.commit(orders=frame(6))
    with pytest.raises(NotMaterialized, match=r"raw\.orders was dropped"):
        raw.store.read(first.tables["orders"])


def test_a_run_sees_what_it_has_committed_itself(raw: Stage) -> None:
    raw.commit(orders=frame(1))
    raw.store.pin("run", ["raw"])
    table = raw.stage("orders", frame(2))
    with raw.store.lock("raw", "run") as held:
        held.commit(2, {"orders": table})
    assert raw.store.pin("run", ["raw"])["raw"].tables["orders"].id == table.id


def test_a_stage_that_was_empty_when_pinned_stays_empty_for_the_run(raw: Stage) -> None:
    raw.store.prepare(["raw"])
    assert raw.store.pin("reader", ["raw"])["raw"].number == 0
    raw.commit(orders=frame(1))
    assert raw.store.pin("reader", ["raw"])["raw"] == StageVersion("raw", 0, {})


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_versions_are_kept_and_others_dropped(instances: Instances, keep: int) -> None:
    raw = Stage(instances(any=f"keep_versions: {keep}\n").get("full").store.table_store)
    versions = [raw.commit(orders=frame(value)) for value in range(5)]
    assert raw.physical() == {version.tables["orders"].physical for version in versions[-keep:]}
    kept = {version.number: version for version in versions[-keep:]}
    with raw.store.database.read() as connection:
        for number, version in kept.items():
            assert raw.store.catalog.versions(connection, {"raw": number})["raw"] == version


def test_an_expired_pin_does_not_count(raw: Stage, connection: Connection) -> None:
    first = raw.commit(orders=frame(1)).tables["orders"].physical
    raw.store.pin("dead", ["raw"])
    for value in (2, 3):
        raw.commit(orders=frame(value))
    assert first in raw.physical()
    connection.execute("UPDATE full_pipedag.pin SET until = now() - interval '1 second' WHERE run_id = 'dead'")
    raw.commit(orders=frame(4))
    assert first not in raw.physical()


def test_what_a_failed_run_has_staged_is_there_for_the_next(raw: Stage) -> None:
    raw.commit(orders=frame(1))
    staged = raw.stage("orders", frame(2))
    raw.commit(orders=frame(3))
    assert raw.store.records.find("raw", staged.cache_key)[0].physical == staged.physical
    assert raw.store.read(staged)["a"].tolist() == [2]
    for value in (4, 5, 6):
        raw.commit(orders=frame(value))
    assert raw.store.records.find("raw", staged.cache_key) == []
    assert staged.physical not in raw.physical()


@pytest.mark.parametrize("keep", [1, 2])
def test_what_the_first_run_has_staged_outlives_the_commit_of_another_table(instances: Instances, keep: int) -> None:
    raw = Stage(instances(any=f"keep_versions: {keep}\n").get("full").store.table_store)
    raw.store.prepare(["raw"])
    for value in range(3):
        staged = raw.stage("orders", frame(value))
        raw.commit(customers=frame(value))
        assert raw.store.records.find("raw", staged.cache_key)[0].id == staged.id
        assert raw.store.read(staged)["a"].tolist() == [value]


# The lock


def test_nothing_is_recorded_after_the_lock_was_released(raw: Stage) -> None:
    """A task of a run that was interrupted goes on, while the next run cleans up."""
    raw.store.prepare(["raw"])
    with raw.store.lock("raw", "interrupted") as held:
        made = held.write_frame("orders", frame(1), Constraints())
    orphan = table_version("raw", "orders", made, Constraints())
    raw.commit(customers=frame(1))
    with pytest.raises(ConnectionLost, match="lock is lost"):
        held.add([orphan])
    assert raw.store.records.find("raw", orphan.task_key) == []


def test_a_mistake_in_a_condition_is_told_as_what_it_is(raw: Stage) -> None:
    table = raw.commit(orders=frame(1)).tables["orders"]
    with pytest.raises(adbc_driver_manager.Error, match='column "no_such" does not exist'):
        raw.store.read(table, where="no_such > 1")


def test_a_second_run_waits_and_says_for_whom(raw: Stage, caplog: pytest.LogCaptureFixture) -> None:
    raw.store.prepare(["raw"])
    told, entered = threading.Event(), threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    def second() -> None:
        with raw.store.lock("raw", "22222222-2222"):
            entered.set()

    listener = Listener(logging.WARNING)
    logging.getLogger("pipedag_dagster.postgres.advisory_lock").addHandler(listener)
    worker = threading.Thread(target=second)
    try:
        with raw.store.lock("raw", "11111111-1111"):
            worker.start()
            assert told.wait(SECONDS)
            assert not entered.is_set()
        assert entered.wait(SECONDS)
    finally:
        logging.getLogger("pipedag_dagster.postgres.advisory_lock").removeHandler(listener)
        worker.join(SECONDS)
    host = re.escape(os.uname().nodename)
    pattern = (
        rf"stage 'raw' of instance 'full': waiting for pipedag run 11111111 \(process {os.getpid()} on {host}\), "
        r"which holds its lock since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    )
    assert re.search(pattern, caplog.text)
    assert caplog.text.count("waiting for") == 1


def test_different_stages_do_not_wait_for_each_other(store: TableStore, connection: Connection) -> None:
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    with store.lock("one", "run1"), store.lock("two", "run2"):
        assert connection.execute(locks).fetchone() == (2,)


def test_the_lock_of_a_dead_process_is_free_and_its_run_cannot_commit_any_more(
    raw: Stage, connection: Connection
) -> None:
    raw.commit(orders=frame(1))
    table = raw.stage("orders", frame(2))

    def lost() -> None:
        with raw.store.lock("raw", "dead1234") as held:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                "WHERE application_name LIKE 'pipedag run dead1234%'"
            )
            with raw.store.lock("other", "x"):  # other connections live on
                pass
            other = Stage(TableStore(raw.store.config))
            other.put([], "other")
            held.commit(2, {"orders": table})

    with pytest.raises(DatabaseError, match="lock is lost"):
        lost()
    assert raw.seen() == raw.catalog_rows() == {}
    with raw.store.lock("raw", "next"):
        pass


def test_a_pooled_connection_that_was_cut_is_replaced(raw: Stage, connection: Connection) -> None:
    raw.commit(orders=frame(1))
    connection.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    assert raw.commit(orders=frame(2)).number == 2


# Ownership


def test_schemas_that_two_instances_would_share_belong_to_the_first(
    instances: Instances, connection: Connection
) -> None:
    config = instances(full_fresh="")
    first = Stage(config.get("full").store.table_store, "fresh_x")
    first.commit(orders=frame(1))
    second = config.get("full_fresh").store.table_store
    with pytest.raises(NotOwned, match=r"stage 'x' of instance 'full_fresh'.*stage 'fresh_x' of instance 'full'"):
        second.prepare(["x"])
    assert not second.exists(), "nothing was changed"
    assert first.seen() == {"orders": [(1,)]}


def test_a_schema_without_our_mark_is_not_touched(store: TableStore, connection: Connection) -> None:
    connection.execute("CREATE SCHEMA full_raw")
    connection.execute("CREATE TABLE full_raw.precious (a int)")
    with pytest.raises(NotOwned, match="was there before"):
        store.prepare(["raw"])
    connection.execute("COMMENT ON SCHEMA full_raw IS 'pipedag_dagster: {no json'")
    with pytest.raises(NotOwned, match="'full_raw'"):
        store.prepare(["raw"])
    assert connection.execute("SELECT count(*) FROM full_raw.precious").fetchone() == (0,)


@pytest.mark.parametrize("suffix", ["__old", "__next", "__old2"])
def test_schemas_of_others_with_names_that_a_commit_uses_are_not_touched(
    raw: Stage, connection: Connection, suffix: str
) -> None:
    raw.commit(orders=frame(1))
    connection.execute(f"CREATE SCHEMA full_raw{suffix}".encode())
    connection.execute(f"CREATE VIEW full_raw{suffix}.precious AS SELECT 1 AS a".encode())
    if suffix == "__next":
        with pytest.raises(NotOwned, match="full_raw__next"):
            raw.commit(orders=frame(2))
        assert raw.seen() == {"orders": [(1,)]}
    else:
        for value in (2, 3, 4):
            raw.commit(orders=frame(value))
        assert raw.seen() == {"orders": [(4,)]}
    assert connection.execute(f"SELECT a FROM full_raw{suffix}.precious".encode()).fetchall() == [(1,)]


def test_views_on_a_schema_of_others_that_is_called_like_an_old_version_are_not_repointed(
    raw: Stage, connection: Connection
) -> None:
    connection.execute("CREATE SCHEMA full_raw__old")
    connection.execute("CREATE VIEW full_raw__old.orders AS SELECT 42 AS a")
    connection.execute("CREATE VIEW public.theirs AS SELECT a FROM full_raw__old.orders")
    for value in (1, 2, 3):
        raw.commit(orders=frame(value))
    assert connection.execute("SELECT a FROM public.theirs").fetchall() == [(42,)]


def test_the_mark_survives_commits(raw: Stage) -> None:
    for value in range(3):
        raw.commit(orders=frame(value))
        with raw.store.database.read() as connection:
            assert owner_of(connection, "full_raw") == Owner("shop", "full", "raw")
            assert owner_of(connection, "full_raw__versions") == Owner("shop", "full", "raw")
            assert owner_of(connection, "full_pipedag") == Owner("shop", "full", "")


# Other people's objects


def test_views_of_others_read_the_new_version_after_a_commit(raw: Stage, connection: Connection) -> None:
    raw.commit(orders=frame(1), customers=frame(10))
    connection.execute(
        "CREATE VIEW public.direct WITH (security_barrier = true) AS "
        "SELECT o.a, c.a AS b, 'full_raw.orders' AS text FROM full_raw.orders o, full_raw.customers c"
    )
    connection.execute("CREATE VIEW public.indirect AS SELECT a + b AS sum FROM public.direct")
    for value in (2, 3, 4):
        raw.commit(orders=frame(value), customers=frame(10 * value))
        found = connection.execute("SELECT * FROM public.direct").fetchall()
        assert found == [(value, 10 * value, "full_raw.orders")]
        assert connection.execute("SELECT sum FROM public.indirect").fetchall() == [(11 * value,)]
        assert raw.schemas() == {"", "__versions"}
    options = connection.execute("SELECT reloptions FROM pg_class WHERE relname = 'direct'").fetchone()
    assert options == (["security_barrier=true"],)


def test_a_view_of_others_whose_column_vanished_stays_readable_until_the_column_is_back(
    raw: Stage, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    raw.commit(orders=frame(1), customers=frame(1))
    connection.execute("CREATE VIEW public.theirs AS SELECT a FROM full_raw.orders")
    for value in (2, 3, 4):
        raw.commit(orders=frame(value, column="b"), customers=frame(value))
        assert connection.execute("SELECT a FROM public.theirs").fetchall() == [(1,)]
        assert raw.seen() == {"orders": [(value,)], "customers": [(value,)]}
    assert re.search(r'"public"."theirs" still reads the old version: column.* does not exist', caplog.text)
    raw.commit(orders=frame(5))
    assert connection.execute("SELECT a FROM public.theirs").fetchall() == [(5,)]
    assert raw.schemas() == {"", "__versions"}


def test_a_view_of_others_that_is_in_use_does_not_stop_a_commit_and_follows_later(
    raw: Stage, connection: Connection, database_url: sa.URL
) -> None:
    raw.commit(orders=frame(1))
    connection.execute("CREATE VIEW public.theirs AS SELECT a FROM full_raw.orders")
    with session(database_url) as reader:
        reader.execute("SELECT * FROM public.theirs")
        raw.commit(orders=frame(2))
        assert reader.execute("SELECT a FROM public.theirs").fetchall() == [(1,)]
    raw.commit(orders=frame(3))
    assert connection.execute("SELECT a FROM public.theirs").fetchall() == [(3,)]
    assert raw.schemas() == {"", "__versions"}


def test_a_view_of_others_that_is_being_replaced_does_not_stop_a_commit(
    raw: Stage, connection: Connection, database_url: sa.URL, caplog: pytest.LogCaptureFixture
) -> None:
    raw.commit(orders=frame(1))
    connection.execute("CREATE VIEW public.theirs AS SELECT a FROM full_raw.orders")
    with session(database_url) as other:
        other.execute("DROP VIEW public.theirs")
        other.execute("CREATE VIEW public.theirs AS SELECT a + 1 AS a FROM full_raw.orders")
        raw.commit(orders=frame(2))
        other.commit()
    assert "stay as they are for now" in caplog.text
    raw.commit(orders=frame(3))
    assert connection.execute("SELECT a FROM public.theirs").fetchall() == [(4,)]
    assert raw.schemas() == {"", "__versions"}


def test_a_materialized_view_of_others_stays_as_it_is(
    raw: Stage, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    raw.commit(orders=frame(1), customers=frame(1))
    connection.execute("CREATE MATERIALIZED VIEW public.theirs AS SELECT a FROM full_raw.orders")
    for value in range(2, 6):
        raw.commit(orders=frame(value), customers=frame(value))
        assert raw.seen() == {"orders": [(value,)], "customers": [(value,)]}
        connection.execute("REFRESH MATERIALIZED VIEW public.theirs")
        assert connection.execute("SELECT a FROM public.theirs").fetchall() == [(1,)]
    assert '"public"."theirs" is a materialized view' in caplog.text
    connection.execute("DROP MATERIALIZED VIEW public.theirs")
    raw.commit(orders=frame(6))
    assert raw.schemas() == {"", "__versions"}
    assert len(raw.physical()) == 3, "two versions of orders and one of customers"


def test_other_objects_in_the_schema_of_a_stage_are_not_dropped(
    raw: Stage, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    raw.commit(orders=frame(1))
    connection.execute("CREATE TABLE full_raw.precious AS SELECT 1 AS a")
    for value in (2, 3, 4):
        raw.commit(orders=frame(value))
        assert raw.seen() == {"orders": [(value,)]}
    assert connection.execute("SELECT a FROM full_raw__old.precious").fetchall() == [(1,)]
    assert "precious" in caplog.text


def test_a_table_that_somebody_reads_is_left_for_the_next_clean_up(raw: Stage, database_url: sa.URL) -> None:
    first = raw.commit(orders=frame(1)).tables["orders"].physical
    with session(database_url) as reader:
        reader.execute(f"SELECT * FROM {quote('full_raw__versions', first)}".encode())
        for value in (2, 3, 4):
            raw.commit(orders=frame(value))
        assert first in raw.physical()
        assert len(raw.physical()) == 3
    raw.commit(orders=frame(5))
    assert first not in raw.physical()


def test_what_a_killed_run_has_left_unrecorded_is_dropped(raw: Stage) -> None:
    raw.store.prepare(["raw"])
    with raw.store.lock("raw", "killed") as held:
        orphan = held.write_frame("orders", frame(1), Constraints()).physical
    assert orphan in raw.physical()
    raw.commit(orders=frame(2))
    assert orphan not in raw.physical()


# Grants


@pytest.fixture
def roles(connection: Connection) -> Iterator[list[str]]:
    made = [f"role_{secrets.token_hex(4)}" for _ in range(3)]
    for role in made:
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    yield made
    for role in made:
        connection.execute(f"DROP OWNED BY {role}".encode())
        connection.execute(f"DROP ROLE {role}".encode())


def test_grants_survive_commits(raw: Stage, connection: Connection, roles: list[str], database_url: sa.URL) -> None:
    one, two, three = roles
    raw.commit(orders=frame(1), customers=pd.DataFrame({"a": [1], "secret": [2]}))
    connection.execute(f"GRANT USAGE ON SCHEMA full_raw TO {one}, {two} WITH GRANT OPTION".encode())
    connection.execute(f"GRANT USAGE ON SCHEMA full_raw TO {three}".encode())
    connection.execute(f"GRANT SELECT ON full_raw.orders TO {one} WITH GRANT OPTION".encode())
    connection.execute(b"GRANT SELECT ON full_raw.orders TO PUBLIC")
    connection.execute(f"GRANT SELECT (a) ON full_raw.customers TO {two}".encode())
    privileges = """
        SELECT grantee, privilege_type, is_grantable, table_name, NULL FROM information_schema.table_privileges
        WHERE table_schema = 'full_raw' AND grantee <> current_user
        UNION ALL
        SELECT grantee, privilege_type, is_grantable, table_name, column_name
        FROM information_schema.column_privileges WHERE table_schema = 'full_raw' AND grantee <> current_user
        UNION ALL
        SELECT r.rolname, a.privilege_type, a.is_grantable::text, NULL, NULL
        FROM pg_namespace n, aclexplode(n.nspacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE n.nspname = 'full_raw'
    """
    before = set(connection.execute(privileges).fetchall())
    assert len(before) > 8
    for value in (2, 3):
        raw.commit(orders=frame(value), customers=pd.DataFrame({"a": [value], "secret": [2]}))
        assert set(connection.execute(privileges).fetchall()) == before
    with psycopg.connect(libpq(database_url.set(username=two)), autocommit=True) as person:
        assert person.execute("SELECT * FROM full_raw.orders").fetchall() == [(3,)]
        assert person.execute("SELECT a FROM full_raw.customers").fetchall() == [(3,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            person.execute("SELECT secret FROM full_raw.customers")


def test_a_table_that_vanishes_takes_its_grants_along(raw: Stage, connection: Connection, roles: list[str]) -> None:
    raw.commit(orders=frame(1), customers=frame(1))
    connection.execute(f"GRANT SELECT ON full_raw.customers TO {roles[0]}".encode())
    connection.execute(f"GRANT SELECT (a) ON full_raw.orders TO {roles[0]}".encode())
    raw.commit(orders=frame(2, column="b"))
    assert raw.seen() == {"orders": [(2,)]}


def test_default_privileges_reach_tables_to_come(raw: Stage, connection: Connection, roles: list[str]) -> None:
    raw.commit(orders=frame(1))
    connection.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA full_raw GRANT SELECT ON TABLES TO {roles[0]}".encode())
    for value in (2, 3):
        raw.commit(**{f"new{value}": frame(value)})
        allowed = "SELECT has_table_privilege(%s, %s, 'SELECT')"
        assert connection.execute(allowed, (roles[0], f"full_raw.new{value}")).fetchone() == (True,)
        assert connection.execute(allowed, (roles[1], f"full_raw.new{value}")).fetchone() == (False,)


def test_what_was_revoked_on_a_view_stays_revoked(raw: Stage, connection: Connection, roles: list[str]) -> None:
    raw.commit(orders=frame(1))
    connection.execute(
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA full_raw GRANT SELECT ON TABLES TO {roles[0]}, PUBLIC".encode()
    )
    raw.commit(orders=frame(1), salaries=frame(1), open=frame(1))
    connection.execute(f"REVOKE SELECT ON full_raw.salaries FROM {roles[0]}, PUBLIC".encode())
    raw.commit(orders=frame(2), salaries=frame(1), open=frame(1))
    query = "SELECT has_table_privilege(%s, %s, 'SELECT')"
    allowed = [connection.execute(query, (roles[0], f"full_raw.{name}")).fetchone() for name in ("salaries", "open")]
    assert allowed == [(False,), (True,)]


def test_default_privileges_of_a_user_whose_name_needs_quotes(
    instances: Instances, connection: Connection, roles: list[str], database_url: sa.URL
) -> None:
    owner = f'Grant"or"{roles[0]}'
    connection.execute(psycopg.sql.SQL("CREATE ROLE {} SUPERUSER LOGIN").format(psycopg.sql.Identifier(owner)))
    roles.append(psycopg.sql.Identifier(owner).as_string())
    config = instances().get("full").config
    store = TableStore(config.model_copy(update={"url": database_url.set(username=owner)}))
    theirs = Stage(store)
    theirs.commit(orders=frame(1))
    with session(database_url.set(username=owner)) as their:
        their.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA full_raw GRANT SELECT ON TABLES TO {roles[1]}".encode())
        their.commit()
    for value in (2, 3):
        theirs.commit(**{f"new{value}": frame(value)})
        allowed = "SELECT has_table_privilege(%s, %s, 'SELECT')"
        assert connection.execute(allowed, (roles[1], f"full_raw.new{value}")).fetchone() == (True,)
    store.close()


# The database


def test_two_threads_may_create_the_database_at_the_same_time(server_url: sa.URL, tmp_path: Path) -> None:
    name = f"created_{secrets.token_hex(4)}"
    databases = [Database(server_url.set(database=name), tmp_path, create=True) for _ in range(4)]
    together = threading.Barrier(4, timeout=SECONDS)
    errors: list[Exception] = []

    def open_it(database: Database) -> None:
        together.wait()
        try:
            with database.begin() as connection:
                connection.execute(sa.text("SELECT 1"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    for database in databases:
        database.close()
    with psycopg.connect(libpq(server_url), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name}".encode())
    assert errors == []


def test_two_instances_may_be_prepared_at_the_same_time(instances: Instances) -> None:
    config = instances()
    together = threading.Barrier(4, timeout=SECONDS)
    errors: list[Exception] = []

    def prepare(name: str) -> None:
        store = config.get(name).store.table_store
        together.wait()
        try:
            store.prepare(["raw", "report"])
        except Exception as error:
            errors.append(error)
        store.close()

    threads = [threading.Thread(target=prepare, args=(name,)) for name in ("full", "full", "midi", "midi")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert errors == []


def test_a_missing_database_is_named(server_url: sa.URL, tmp_path: Path) -> None:
    database = Database(server_url.set(database="nowhere"), tmp_path)
    with pytest.raises(DatabaseMissing, match=r"'nowhere' does not exist.*create_database_if_not_exists"):
        _ = database.engine


def test_an_unreachable_server_is_named_without_the_password(tmp_path: Path) -> None:
    url = sa.make_url("postgresql://me:hush-hush@localhost:1/shop")
    with pytest.raises(DatabaseUnreachable, match="localhost:1") as caught:
        _ = Database(url, tmp_path).engine
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_refused_login_is_named(server_url: sa.URL, tmp_path: Path) -> None:
    url = server_url.set(username="nobody", password="hush-hush")
    with pytest.raises(LoginRefused, match="'nobody'") as caught:
        _ = Database(url, tmp_path).engine
    assert "hush" not in str(caught.value)


def test_a_catalog_of_another_format_is_refused(store: TableStore, connection: Connection) -> None:
    store.prepare()
    connection.execute("UPDATE full_pipedag.meta SET format = 99")
    with pytest.raises(DatabaseError, match="format 99"):
        store.prepare()


def test_a_catalog_of_an_older_format_becomes_what_a_new_one_is(instances: Instances, connection: Connection) -> None:
    columns = (
        "SELECT table_name, column_name, data_type, is_nullable, is_identity FROM information_schema.columns "
        "WHERE table_schema = %s ORDER BY 1, 2"
    )
    files = instances()
    midi = files.get("midi").store.table_store
    midi.prepare()
    full = files.get("full").store.table_store
    connection.execute((Path(__file__).parent / "catalog_format_1.sql").read_bytes())
    mark = json.dumps({"pipeline": full.config.pipeline, "instance": "full", "stage": ""})
    connection.execute(f"COMMENT ON SCHEMA full_pipedag IS 'pipedag_dagster: {mark}'".encode())
    assert full.current(["raw"])["raw"].number == 0
    assert (
        connection.execute(columns, ("full_pipedag",)).fetchall()
        == connection.execute(columns, ("midi_pipedag",)).fetchall()
    )
    assert connection.execute("SELECT format FROM full_pipedag.meta").fetchall() == [(FORMAT,)]
