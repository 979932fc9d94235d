"""P3: whoever reads a stage while it commits again and again sees one version of it, at once, and never an error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import PipedagConfig
from pipedag_dagster.store.table_store import TableStore
from pipedag_dagster_tests.torture import LONG, count, readers, tries
from pipedag_dagster_tests.torture.readers import STAGE, TABLES, Commits, Reads

Instances = Callable[..., PipedagConfig]

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


def commit(store: TableStore, generation: int) -> None:
    number = store.current([STAGE])[STAGE].number
    with store.lock(STAGE, "writer"):
        store.commit(STAGE, number + 1, readers.stage(store, generation), "writer")
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
        *(partial(readers.read, **where, isolation=isolation, seed=n) for n, isolation in enumerate(ISOLATION * 2)),
    ]
    if hold:
        jobs.append(partial(readers.linger, **where, hold=hold))
    commits, people, pinned = Commits(), Reads(), Reads()
    while people.statements < tries(1, 100_000):
        done, ours, *theirs = readers.together(jobs, tries(4, 30))
        commits.seconds += done.seconds
        pinned.add(ours)
        for one in theirs[: 2 * len(ISOLATION)]:
            people.add(one)
    kind = request.node.callspec.id
    slowest = f"p99 {people.p99 * 1000:.0f} ms, slowest {people.slowest * 1000:.0f} ms"
    report(f"P3 reads of views, {kind}: no error", people.statements, people.errors.total())
    report(f"P3 reads of views, {kind}: one version", people.statements, people.mixed + people.partial)
    report(f"P3 reads of views, {kind}: no wait over 100 ms", people.statements, people.lock_waits, slowest)
    longest = f"longest {max(commits.seconds, default=0):.2f} s"
    report(f"P3 commits, {kind}: within their patience", len(commits.seconds), commits.late, longest)
    wrong = pinned.mixed + pinned.errors.total()
    report(f"P3 reads of pinned versions, {kind}: one version", pinned.statements, wrong)
    assert people.errors == pinned.errors == {}
    assert pinned.mixed == 0
    assert people.partial == 0
    assert hold or people.mixed == 0
    if LONG:  # not on a machine that has other things to do
        assert (people.lock_waits, commits.late) == (0, 0)


def report(promise: str, tried: int, violations: int, note: str = "") -> None:
    counted = count(promise)
    counted.tries, counted.violations, counted.note = tried, violations, note


@pytest.mark.parametrize("isolation", ISOLATION)
def test_a_transaction_that_began_before_a_commit(files: PipedagConfig, database_url: sa.URL, isolation: str) -> None:
    """Names are looked up afresh in every statement. In READ COMMITTED each statement sees the newest version. In
    REPEATABLE READ, the tables that were made since the transaction began are there, but seem to be empty, as after a
    TRUNCATE: this is the one thing that a reader of views must know."""
    store = files.get("full").store.table_store
    with psycopg.connect(database_url.render_as_string(hide_password=False)) as reader:
        reader.execute(f"SET default_transaction_isolation = '{isolation}'".encode())
        reader.commit()
        assert generations(reader) == [1] * TABLES
        commit(store, 2)
        assert generations(reader) == ([2] * TABLES if isolation == "read committed" else [])
        reader.commit()
        assert generations(reader) == [2] * TABLES


def test_a_run_in_a_transaction_of_its_own_reads_what_it_has_pinned(files: PipedagConfig) -> None:
    """Pinned versions are read by the names of their physical tables, which do not change."""
    store = files.get("full").store.table_store
    pinned = store.pin("reader", [STAGE])[STAGE].tables.values()
    for generation in (2, 3, 4):
        commit(store, generation)
    assert {int(store.read(table)["generation"].item()) for table in pinned} == {1}


def generations(connection: psycopg.Connection[Any]) -> list[int]:
    parts = (f"SELECT generation FROM {SCHEMA}.t{number}" for number in range(TABLES))
    return [row[0] for row in connection.execute(" UNION ALL ".join(parts).encode()).fetchall()]
