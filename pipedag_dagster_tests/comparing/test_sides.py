"""Comparing instances, versions of a stage, and what the last commits have changed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import OpenInstance, PipedagConfig, open_instance
from pipedag_dagster.comparing.sides import compare_instances
from pipedag_dagster.comparing.table_diff import Status
from pipedag_dagster.errors import NotComparable, NotMaterialized, WrongCall
from pipedag_dagster_tests.helpers import Connection, Instances, libpq
from pipedag_dagster_tests.helpers.stage import Stage


def orders(*amounts: int) -> pd.DataFrame:
    return pd.DataFrame({"id": range(len(amounts)), "amount": amounts})


def commit(opened: OpenInstance, stage: str = "raw", **frames: pd.DataFrame) -> None:
    """Commit tables with the primary key `id`."""
    there = Stage(opened.instance.store.table_store, stage)
    there.store.prepare([stage])
    there.put([there.stage(name, frame, primary_key=("id",)) for name, frame in frames.items()])


@pytest.fixture
def full(config: PipedagConfig) -> OpenInstance:
    opened = open_instance("full", config)
    commit(opened, orders=orders(5, 7, 9), customers=orders(1))
    commit(opened, "report", ranking=orders(1, 2))
    return opened


@pytest.fixture
def midi(full: OpenInstance, config: PipedagConfig) -> OpenInstance:
    opened = open_instance("midi", config)
    commit(opened, orders=orders(5, 70), products=orders(1))
    commit(opened, "report", ranking=orders(1, 2))
    return opened


def test_two_instances_are_compared_table_by_table(full: OpenInstance, midi: OpenInstance) -> None:
    found = full.diff(midi)
    assert (found.left, found.right, found.equal) == ("full", "midi", False)
    assert {table.name: table.status for table in found.tables} == {
        "raw.customers": Status.removed,
        "raw.orders": Status.different,
        "raw.products": Status.added,
        "report.ranking": Status.equal,
    }
    assert found.summary == "full → midi: 3 of 4 tables differ."
    (table,) = full.diff("midi", "raw.orders").tables
    assert (table.both, table.only_left, table.only_right, table.changed) == (2, 1, 0, 1)


def test_a_stage_is_compared_alone(full: OpenInstance, midi: OpenInstance) -> None:
    assert full.diff("midi", "report").summary == "full → midi: the table is equal."


def test_nothing_stays_pinned(full: OpenInstance, midi: OpenInstance, connection: Connection) -> None:
    full.diff(midi)
    for schema in ("full_pipedag", "midi_pipedag"):
        assert connection.execute(f"SELECT count(*) FROM {schema}.pin WHERE until > now()".encode()).fetchall() == [
            (0,)
        ]


def test_versions_of_a_stage_are_compared(full: OpenInstance) -> None:
    commit(full, orders=orders(5, 7, 8), customers=orders(1))
    found = full.diff(None, "raw", versions=(1, 2))
    assert (found.left, found.right) == ("full raw version 1", "full raw version 2")
    assert [table.name for table in found.different] == ["raw.orders"]
    assert full.diff(None, "raw.customers", versions=(2, 1)).equal


def test_the_last_commits_are_compared_without_another_instance(full: OpenInstance) -> None:
    with pytest.raises(NotMaterialized, match="Compare two instances: pipedag-dagster diff full OTHER"):
        full.diff()
    commit(full, orders=orders(5, 7, 8))
    found = full.diff()
    assert (found.left, found.right) == ("full before", "full now")
    assert [(table.name, table.status.value) for table in found.tables] == [
        ("raw.customers", "removed"),
        ("raw.orders", "different"),
    ]


def test_a_table_that_no_commit_has_changed_is_equal_without_being_read(
    full: OpenInstance, connection: Connection
) -> None:
    store = full.instance.store.table_store
    stage = Stage(store)
    stage.put([*stage.version.tables.values(), stage.stage("more", orders(1))])
    physical = stage.version.tables["orders"].physical
    connection.execute(f'ALTER TABLE full_raw__versions."{physical}" RENAME TO moved'.encode())
    found = full.diff()
    assert [(table.name, table.status.value) for table in found.tables] == [
        ("raw.customers", "equal"),
        ("raw.more", "added"),
        ("raw.orders", "equal"),
    ]


def test_an_instance_whose_data_is_confidential_shows_none(instances: Instances) -> None:
    files = instances(full="preview: 0")
    for name, amount in (("full", 5), ("midi", 6)):
        commit(open_instance(name, files), orders=orders(amount))
    (table,) = open_instance("full", files).diff("midi").tables
    assert [(value.column, value.rows, value.left) for value in table.values] == [("amount", 1, None)]


@pytest.mark.parametrize(
    ("select", "versions", "error", "message"),
    [
        ("raw.order", None, NotMaterialized, "No stage of instance 'full' has an older version"),
        (None, (1, 2), NotComparable, "Name a stage: raw, report"),
        ("rav", (1, 2), NotMaterialized, "Did you mean 'raw'"),
        ("raw", (1, 9), NotMaterialized, "no version 9. Kept are: 1"),
    ],
)
def test_what_is_not_there_is_named(
    full: OpenInstance, select: str | None, versions: tuple[int, int] | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        full.diff(None, select, versions=versions)


def test_an_unknown_table_of_two_instances_gets_a_close_name(full: OpenInstance, midi: OpenInstance) -> None:
    with pytest.raises(NotMaterialized, match=r"Neither full nor midi has 'raw\.order'\. Did you mean 'raw\.orders'"):
        full.diff(midi, "raw.order")


def test_an_instance_that_was_never_run_says_what_to_type(full: OpenInstance, config: PipedagConfig) -> None:
    with pytest.raises(NotMaterialized, match="pipedag-dagster run mini"):
        full.diff("mini")


def test_an_instance_is_not_compared_with_itself(full: OpenInstance) -> None:
    with pytest.raises(NotComparable, match=r"are the same tables: both are in the schemas full_\*.*schema_prefix"):
        full.diff("full")


def test_a_key_belongs_to_one_table(full: OpenInstance, midi: OpenInstance) -> None:
    with pytest.raises(NotComparable, match=r"--key belongs to one table"):
        full.diff(midi, key=["id"])


def test_versions_belong_to_one_instance(full: OpenInstance, midi: OpenInstance) -> None:
    with pytest.raises(WrongCall, match="versions="):
        full.diff(midi, "raw", versions=(1, 2))


# Two databases


@pytest.fixture
def elsewhere(server_url: sa.URL, database_url: sa.URL) -> Iterator[sa.URL]:
    """Another empty database."""
    name = f"{database_url.database}_other"
    with psycopg.connect(libpq(server_url), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    yield server_url.set(database=name)
    with psycopg.connect(libpq(server_url), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def test_instances_in_two_databases_are_compared_by_a_streamed_copy(
    full: OpenInstance, elsewhere: sa.URL, connection: Connection
) -> None:
    url = elsewhere.render_as_string(hide_password=False)
    files = PipedagConfig(
        {"name": "shop", "instances": {"full": {"table_store": {"args": {"url": url, "schema_prefix": "full_"}}}}}
    )
    other = open_instance("full", files)
    commit(other, orders=orders(5, 7, 8, 1), customers=orders(1))
    commit(other, "report", ranking=orders(1, 2))
    stores = (full.instance.store.table_store, other.instance.store.table_store)
    found = compare_instances(*stores, labels=("main", "here"))
    assert [table.name for table in found.different] == ["raw.orders"]
    (table,) = found.different
    assert (table.both, table.only_left, table.only_right, table.changed) == (3, 0, 1, 1)
    assert "3 rows of main were copied" in table.note
    with psycopg.connect(libpq(elsewhere)) as there:
        left_over = there.execute("SELECT count(*) FROM pg_class WHERE relname = 'pipedag_compared'").fetchall()
    assert left_over == [(0,)]


def test_an_enum_of_another_database_is_compared_as_text(
    full: OpenInstance, midi: OpenInstance, elsewhere: sa.URL, connection: Connection
) -> None:
    url = elsewhere.render_as_string(hide_password=False)
    files = PipedagConfig(
        {"name": "shop", "instances": {"full": {"table_store": {"args": {"url": url, "schema_prefix": "full_"}}}}}
    )
    connection.execute("CREATE TYPE public.mood AS ENUM ('happy', 'sad')")
    here, other = (Stage(each.instance.store.table_store) for each in (full, open_instance("full", files)))
    here.commit(moods="SELECT 1 AS id, 'happy'::public.mood AS mood")
    other.commit(moods="SELECT 1 AS id, 'sad' AS mood")
    (table,) = compare_instances(here.store, other.store, "raw.moods").tables
    assert (table.only_left, table.only_right) == (1, 1)


# How it is shown


def test_a_comparison_is_shown_as_json_markdown_and_html(full: OpenInstance, midi: OpenInstance) -> None:
    found = full.diff(midi)
    as_json = json.loads(json.dumps(found.to_dict()))
    assert as_json["equal"] is False
    assert as_json["tables"][1]["values"] == [{"column": "amount", "rows": 1, "key": ["1"], "left": "7", "right": "70"}]
    text = found.to_markdown()
    assert "| raw.orders | 3 → 2 | 2 | 1 | 0 | 1 | values of amount |" in text
    assert "| amount | 1 | id=1 | `7` → `70` |" in text
    html = found.to_html()
    assert "<code>70</code>" in html
    assert 'href="#raw.orders"' in html
    assert found._repr_html_() in html


def test_values_are_nothing_but_values_in_markdown_and_html(config: PipedagConfig) -> None:
    texts = ["<script>`a` | b</script>", "x\n\n# y"]
    for name, text in zip(("full", "midi"), texts, strict=True):
        commit(open_instance(name, config), t=pd.DataFrame({"id": [1], "te|xt": [text]}))
    found = open_instance("full", config).diff("midi")
    assert "<script>" not in found.to_html()
    row = next(line for line in found.to_markdown().splitlines() if line.startswith("| te"))
    assert row == "| te\\|xt | 1 | id=1 | `` <script>`a` \\| b</script> `` → `x # y` |"
