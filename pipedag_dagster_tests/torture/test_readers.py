"""Always whole: whoever reads a stage while it commits again and again sees one version of it, at once, and never an
error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import dagster as dg
import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import InstanceResource, PipedagConfig, TableIOManager
from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster_tests.helpers import Connection, Instances
from pipedag_dagster_tests.torture import LONG, count, readers, tries, victim
from pipedag_dagster_tests.torture.readers import STAGE, TABLES, Commits, Reads

Reader: TypeAlias = Connection

ISOLATION = ("read committed", "repeatable read")
SCHEMA = f"full_{STAGE}"


@pytest.fixture
def files(instances: Instances) -> PipedagConfig:
    """An instance whose stage is committed."""
    files = instances()
    store = files.get("full").store.table_store
    store.prepare([STAGE])
    commit(store, 1)
    return files


@pytest.fixture
def reader(database_url: sa.URL) -> Iterator[Reader]:
    with psycopg.connect(database_url.render_as_string(hide_password=False), autocommit=True) as connection:
        yield connection


def commit(store: TableStore, generation: int, unchanged: Mapping[str, TableVersion] = MappingProxyType({})) -> None:
    number = store.current([STAGE])[STAGE].number
    with store.lock(STAGE, "writer") as held:
        held.commit(number + 1, readers.stage(held, generation) | unchanged)
    store.unpin("writer")


@pytest.mark.parametrize("hold", [0.0, 0.5], ids=["without a long reader", "with a long reader"])
def test_readers_while_a_stage_commits(
    files: PipedagConfig, database_url: sa.URL, hold: float, request: pytest.FixtureRequest
) -> None:
    where = {"uri": database_url.render_as_string(hide_password=False), "schema": SCHEMA}
    config = str(files.path)
    jobs: list[Callable[[readers.Stop], Any]] = [
        partial(readers.write, config=config, again=6),
        partial(readers.read_pinned, config=config),
        partial(readers.check, config=config),
        *(partial(readers.read, **where, isolation=isolation, seed=n) for n, isolation in enumerate(ISOLATION * 2)),
    ]
    if hold:
        jobs.append(partial(readers.linger, **where, hold=hold))
    commits, people, pinned, checks = Commits(), Reads(), Reads(), Reads()
    while people.statements < tries(1, 100_000):
        done, ours, checked, *theirs = readers.together(jobs, tries(4, 30))
        commits.seconds += done.seconds
        pinned.add(ours)
        checks.add(checked)
        for one in theirs[: 2 * len(ISOLATION)]:
            people.add(one)
    kind = request.node.callspec.id
    slowest = f"p99 {people.p99 * 1000:.0f} ms, slowest {people.slowest * 1000:.0f} ms"
    report(f"always whole: reads of views, {kind}: no error", people.statements, people.errors.total())
    report(f"always whole: reads of views, {kind}: one version", people.statements, people.mixed + people.partial)
    report(f"always whole: reads of views, {kind}: no wait over 100 ms", people.statements, people.lock_waits, slowest)
    longest = f"longest {max(commits.seconds, default=0):.2f} s"
    report(f"always whole: commits, {kind}: within their patience", len(commits.seconds), commits.late, longest)
    wrong = pinned.mixed + pinned.errors.total()
    report(f"always whole: reads of pinned versions, {kind}: one version", pinned.statements, wrong)
    wrong = checks.mixed + checks.errors.total()
    report(f"always whole: check --database, {kind}: one version", checks.statements, wrong)
    assert people.errors == pinned.errors == checks.errors == {}
    assert pinned.mixed == checks.mixed == 0
    assert people.partial == 0
    assert people.mixed == 0 or commits.impatient
    if LONG:  # not on a machine that has other things to do
        assert (people.lock_waits, commits.late) == (0, 0)


def report(promise: str, tried: int, violations: int, note: str = "") -> None:
    counted = count(promise)
    counted.tries, counted.violations, counted.note = tried, violations, note


def test_a_transaction_in_read_committed_sees_what_is_committed_meanwhile(reader: Reader, files: PipedagConfig) -> None:
    reader.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    assert generations(reader) == [1] * TABLES
    commit(files.get("full").store.table_store, 2)
    assert generations(reader) == [2] * TABLES


def test_a_transaction_in_repeatable_read_never_finds_a_newer_table_empty(reader: Reader, files: PipedagConfig) -> None:
    """Names are looked up afresh in every statement, rows are not: PostgreSQL would show the newer tables without their
    rows."""
    store = files.get("full").store.table_store
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert generations(reader) == [1] * TABLES
    old = store.current([STAGE])[STAGE].tables
    unchanged = {name: old[name] for name in ("t0", "t1")}
    commit(store, 2, unchanged)
    assert generations(reader, "t0", "t1") == [1, 1]
    with pytest.raises(psycopg.errors.SerializationFailure) as refused:
        generations(reader)
    assert re.fullmatch(r'"full_work"."t\d+" was committed after this transaction began', said(refused.value.diag))
    assert refused.value.diag.message_hint == (
        "A transaction in REPEATABLE READ would find it empty. Begin it again, or use READ COMMITTED."
    )
    reader.execute("ROLLBACK")
    assert sorted(generations(reader)) == [1, 1] + [2] * (TABLES - 2)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM mine LEFT JOIN {view} AS v ON generation = a",
        "SELECT * FROM mine LEFT JOIN (SELECT generation AS g FROM {view}) AS v ON g = a",
        "SELECT * FROM mine FULL JOIN {view} AS v ON generation = a",
        "SELECT a, (SELECT max(generation) FROM {view} WHERE generation = a) FROM mine",
        "SELECT * FROM mine WHERE NOT EXISTS (SELECT FROM {view} WHERE generation = a)",
        "SELECT * FROM mine WHERE a NOT IN (SELECT generation FROM {view})",
        "SELECT a FROM mine UNION ALL SELECT generation FROM {view}",
        "SELECT count(*) FROM {view}",
        "EXECUTE prepared",
    ],
)
def test_wherever_the_view_stands_in_a_statement(reader: Reader, files: PipedagConfig, query: str) -> None:
    view, store = f"{SCHEMA}.t0", files.get("full").store.table_store
    reader.execute("CREATE TABLE mine AS SELECT 1 AS a")
    reader.execute("SET plan_cache_mode = force_generic_plan")
    reader.execute(f"PREPARE prepared AS SELECT * FROM {view}".encode())
    statement = query.format(view=view).encode()
    seen = reader.execute(statement).fetchall()
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert reader.execute(statement).fetchall() == seen
    commit(store, 2)
    with suppress(psycopg.errors.SerializationFailure):
        # A plan that was made in this transaction may still read the old tables.
        assert reader.execute(statement).fetchall() == seen
    reader.execute("ROLLBACK")
    reader.execute(statement)


@pytest.mark.parametrize("step", victim.STEPS)
def test_a_transaction_in_repeatable_read_that_began_at_any_step(
    instances: Instances, reader: Reader, step: str
) -> None:
    """It sees all rows of a table that the run has made, or is refused."""
    files = instances()
    victim.run(str(files.path), 1)
    stage = files.get("full").store.table_store.current([STAGE])[STAGE]

    def begin() -> None:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")  # takes the snapshot

    with victim.at(step, begin):
        victim.run(str(files.path), 2)
    for table in stage.tables.values():
        reader.execute("SAVEPOINT before")
        try:
            assert set(generations(reader, table.name)) == {2}
        except psycopg.errors.SerializationFailure:
            reader.execute("ROLLBACK TO before")


def test_a_run_in_a_transaction_of_its_own_reads_what_it_has_pinned(files: PipedagConfig) -> None:
    """Pinned versions are read by the names of their physical tables, which do not change."""
    store = files.get("full").store.table_store
    pinned = store.pin("reader", [STAGE])[STAGE].tables.values()
    for generation in (2, 3, 4):
        commit(store, generation)
    assert {int(store.read(table)["generation"].item()) for table in pinned} == {1}


def test_an_asset_reads_one_version_of_all_its_inputs(files: PipedagConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the IO manager, while another run commits after each input."""
    store = files.get("full").store.table_store
    seen: list[int] = []
    read = TableStore.read

    def and_commit(self: TableStore, table: TableVersion, *args: Any, **options: Any) -> Any:
        found = read(self, table, *args, **options)
        commit(store, store.current([STAGE])[STAGE].number + 1)
        return found

    monkeypatch.setattr(TableStore, "read", and_commit)
    names = [f"t{number}" for number in range(4)]

    @dg.asset(group_name="report", ins={name: dg.AssetIn(key=["full", STAGE, name]) for name in names})
    def reads(**tables: pd.DataFrame) -> None:
        seen.extend(int(table["generation"].item()) for table in tables.values())

    instance = InstanceResource(config_path=str(files.path), instance="full")
    sources = [dg.AssetSpec(["full", STAGE, name]) for name in names]
    assert dg.materialize([*sources, reads], resources={"io_manager": TableIOManager(instance=instance)}).success
    assert seen == [1] * len(names)


def generations(connection: Reader, *views: str) -> list[int]:
    names = views or [f"t{number}" for number in range(TABLES)]
    parts = (f"SELECT generation FROM {SCHEMA}.{name}" for name in names)
    return [row[0] for row in connection.execute(" UNION ALL ".join(parts).encode()).fetchall()]


def said(diagnostic: psycopg.errors.Diagnostic) -> str:
    return diagnostic.message_primary or ""
