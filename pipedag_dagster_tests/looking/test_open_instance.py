"""`open_instance`: reading what an instance has committed, in Python and in notebooks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from pipedag_dagster import OpenInstance, PipedagConfig, open_instance
from pipedag_dagster.errors import BadQuery, ConfigError, NoConfig, NotMaterialized, UnknownInstance, WrongCall
from pipedag_dagster_tests.helpers import Connection, Instances, new_database, write_instances
from pipedag_dagster_tests.helpers.command_line import write_shop
from pipedag_dagster_tests.helpers.stage import Stage

ORDERS = pd.DataFrame({"id": [1, 2, 3], "amount": [5, 7, 9]})


@pytest.fixture(scope="module")
def tables_of_mini(server_url: sa.URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database in which mini has `raw.orders`, `raw.customers` and `report.ranking`."""
    with new_database(server_url) as url:
        store = write_instances(tmp_path_factory.mktemp("mini"), url).get("mini").store.table_store
        Stage(store).commit(orders=ORDERS, customers=pd.DataFrame({"id": [1]}))
        Stage(store, "report").commit(ranking=pd.DataFrame({"id": [3, 1], "place": [1, 2]}))
        store.database.close()
        assert url.database is not None
        yield url.database


@pytest.fixture
def database_template(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("tables_of_mini") if "mini" in request.fixturenames else None


@pytest.fixture
def mini(config: PipedagConfig) -> OpenInstance:
    """An instance with the tables of `tables_of_mini`."""
    return open_instance("mini", config)


# What is opened


def test_it_finds_the_configuration_as_the_command_line_does(
    config: PipedagConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.path)
    assert open_instance("mini").instance.instance_id == "mini"


def test_an_unknown_instance_gets_a_close_name(config: PipedagConfig) -> None:
    with pytest.raises(UnknownInstance, match="Did you mean 'mini'"):
        open_instance("mimi", config)


def test_a_missing_configuration_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NoConfig, match="PIPEDAG_CONFIG"):
        open_instance("mini")


def test_reading_does_not_import_dagster(mini: OpenInstance) -> None:
    script = (
        "import sys; from pipedag_dagster import open_instance; mini = open_instance('mini');"
        "mini.tables(); mini.versions('raw'); mini.query('select 1 as one'); print(len(mini.table('raw.orders')));"
        "print('dagster' in sys.modules)"
    )
    folder = mini.instance.files.path.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == ["3", "False"]


# Tables


@pytest.mark.parametrize("kind", [None, pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.Table])
def test_a_table_is_read_as_any_frame(mini: OpenInstance, kind: Any) -> None:
    read = mini.table("raw.orders", kind)
    assert isinstance(read, kind or pd.DataFrame)
    rows = read.collect().to_dicts() if kind is pl.LazyFrame else pa.table(read).to_pylist()
    assert rows == ORDERS.to_dict("records")


def test_a_table_of_sqlalchemy_is_one_to_build_queries_on(mini: OpenInstance) -> None:
    orders = mini.table("raw.orders", sa.Table)
    with mini.instance.store.table_store.engine_connect() as connection:
        assert connection.scalar(sa.select(sa.func.sum(orders.c.amount))) == 21


def test_only_some_rows_are_read(mini: OpenInstance) -> None:
    assert list(mini.table("raw.orders", where="amount > 5 -- or so")["id"]) == [2, 3]
    assert list(mini.table("raw.orders", rows=2)["id"]) == [1, 2]


def test_a_name_alone_is_enough_where_one_stage_has_it(mini: OpenInstance) -> None:
    assert list(mini.table("ranking")["id"]) == [3, 1]
    Stage(mini.instance.store.table_store, "report").commit(orders=ORDERS)
    with pytest.raises(NotMaterialized, match=r"Write raw\.orders or report\.orders"):
        mini.table("orders")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raw.order", r"Did you mean 'raw\.orders'"),
        ("report.orders", r"has not committed 'report\.orders'.*pipedag-dagster run mini"),
        ("rav.orders", "no stage 'rav'. Did you mean 'raw'"),
        ("rankin", "Did you mean 'ranking'"),
    ],
)
def test_an_unknown_table_gets_a_close_name(mini: OpenInstance, name: str, message: str) -> None:
    with pytest.raises(NotMaterialized, match=message):
        mini.table(name)


def test_an_instance_without_tables_says_what_to_type(config: PipedagConfig) -> None:
    with pytest.raises(NotMaterialized, match=r"'mini' was never run\. Type: pipedag-dagster run mini"):
        open_instance("mini", config).table("raw.orders")


def test_a_wrong_condition_is_explained(mini: OpenInstance) -> None:
    with pytest.raises(BadQuery, match='refuses the condition: column "amont" does not exist'):
        mini.table("raw.orders", where="amont > 5")


def test_a_type_that_is_not_a_frame_is_refused(mini: OpenInstance) -> None:
    with pytest.raises(WrongCall, match=r"Choose one of pd\.DataFrame"):
        mini.table("raw.orders", dict)


def test_an_older_version_is_read_by_its_number(mini: OpenInstance) -> None:
    Stage(mini.instance.store.table_store).commit(orders=ORDERS.assign(amount=0))
    assert list(mini.table("raw.orders", version=1)["amount"]) == [5, 7, 9]
    assert list(mini.table("raw.orders")["amount"]) == [0, 0, 0]
    assert list(mini.table("raw.customers", version=1)["id"]) == [1]


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [("raw.orders", 7, "no version 7. Kept are: 1 "), ("raw.order", 1, "Did you mean 'raw.orders'")],
)
def test_a_version_or_a_table_of_a_version_that_is_not_there_is_named(
    mini: OpenInstance, name: str, version: int, message: str
) -> None:
    with pytest.raises(NotMaterialized, match=message):
        mini.table(name, version=version)


# Queries


@pytest.mark.parametrize(
    "query",
    [
        "select id from raw.orders where amount > 5 order by id",
        'SELECT o.id FROM "raw" . "orders" AS o WHERE amount > 5 ORDER BY 1;',
        "select orders.id from orders join report.ranking using (id) union select 2 order by 1 desc limit 2 -- end",
        "with o as (select * from raw.orders) select id from o where o.amount > 5 order by 1",
        "select raw.orders.id from raw.orders where raw.orders.amount > 5",
    ],
)
def test_a_query_names_tables_with_or_without_the_stage(mini: OpenInstance, query: str) -> None:
    assert sorted(mini.query(query)["id"]) == [2, 3]


@pytest.mark.parametrize("kind", [pl.DataFrame, pa.Table])
def test_the_result_of_a_query_is_any_frame(mini: OpenInstance, kind: Any) -> None:
    read = mini.query("select sum(amount)::int4 as total, 'x' as x from raw.orders", kind)
    assert isinstance(read, kind)
    assert pa.table(read).to_pylist() == [{"total": 21, "x": "x"}]


def test_columns_of_a_query_keep_their_types_and_names(mini: OpenInstance) -> None:
    read = mini.query("select 1.50::numeric(6,2) as a, 2::int4 as a, null::date as day, array['x'] as tags", pa.Table)
    assert read.schema.names == ["a", "a", "day", "tags"]
    assert [str(kind) for kind in read.schema.types][:3] == ["decimal128(6, 2)", "int32", "date32[day]"]


def test_a_name_that_two_stages_have_must_be_written_with_its_stage(mini: OpenInstance) -> None:
    Stage(mini.instance.store.table_store, "report").commit(orders=ORDERS)
    assert list(mini.query("select count(*) as n from report.orders")["n"]) == [3]
    with pytest.raises(BadQuery, match=r'"orders" does not exist. Write tables as stage\.table.*pipedag-dagster list'):
        mini.query("select count(*) from orders")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("selec 1", "syntax error"),
        ("select * from raw.orders; drop table x", "syntax error"),
        ("delete from raw.orders returning 1", "syntax error"),
        ("select pg_catalog.set_config('transaction_read_only', 'off', false)", "read-write mode"),
        ("select nextval('counter')", "read-only transaction"),
    ],
)
def test_a_query_only_reads(mini: OpenInstance, connection: Connection, query: str, message: str) -> None:
    connection.execute("CREATE SEQUENCE counter")
    with pytest.raises(BadQuery, match=message):
        mini.query(query)
    assert connection.execute("SELECT is_called FROM counter").fetchall() == [(False,)]


def test_queries_see_one_version_while_others_commit(mini: OpenInstance) -> None:
    """Every commit changes both tables, so their sums are equal in each version."""
    stage = Stage(mini.instance.store.table_store)
    tables = [pd.DataFrame({"n": [number]}) for number in range(25)]
    stage.commit(a=tables[0], b=tables[0])
    writer = threading.Thread(target=lambda: [stage.commit(a=table, b=table) for table in tables])
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(mini.query("select a.n - b.n as difference from raw.a, raw.b")["difference"].tolist())
        assert len(mini.table("raw.a")) == 1
    writer.join()
    assert seen
    assert all(rows == [0] for rows in seen)


# Lists


def test_tables_are_listed_and_print_in_every_form(mini: OpenInstance) -> None:
    listed = mini.tables()
    assert [(table.stage, table.name, table.rows) for table in listed] == [
        ("raw", "customers", 1),
        ("raw", "orders", 3),
        ("report", "ranking", 2),
    ]
    head, first, *_ = repr(listed).splitlines()
    assert head.split() == ["table", "rows", "columns", "version", "created"]
    assert first.split()[:4] == ["raw.customers", "1", "1", "1"]
    assert "<td>report.ranking</td>" in listed._repr_html_()
    assert "<td>report.ranking</td>" in mini._repr_html_()


def test_an_instance_without_tables_lists_what_to_type(config: PipedagConfig) -> None:
    opened = open_instance("mini", config)
    assert list(opened.tables()) == []
    assert "pipedag-dagster run mini" in repr(opened.tables())
    assert "pipedag-dagster run mini" in opened._repr_html_()


def test_versions_are_listed_with_what_has_changed(mini: OpenInstance) -> None:
    Stage(mini.instance.store.table_store).commit(orders=ORDERS.assign(amount=0))
    listed = mini.versions("raw")
    assert [version.number for version in listed] == [2, 1]
    assert repr(listed).splitlines()[1].split()[0] == "2"
    assert "orders, -customers" in repr(listed)


def test_the_representation_shows_no_password(mini: OpenInstance) -> None:
    assert repr(mini) == "OpenInstance(pipeline='shop', instance='mini')"


# Running


def test_run_takes_the_flow_from_the_workspace(project: Path) -> None:
    full = open_instance("full")
    assert full.run("raw").successful
    assert [table.name for table in full.tables()] == ["customers", "orders"]
    full.run()
    assert list(full.table("report.ranking")["revenue"]) == [12, 9]


def test_a_notebook_in_a_subfolder_finds_the_configuration_and_the_workspace(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "notebooks").mkdir()
    monkeypatch.chdir(project / "notebooks")
    full = open_instance("full")
    assert full.run("raw").successful
    assert [table.name for table in full.tables()] == ["customers", "orders"]


def test_run_refuses_definitions_of_another_database(
    instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances()
    write_shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    other = PipedagConfig({"name": "shop", "instances": {"full": {"table_store": {"args": {"url": "embedded"}}}}})
    with pytest.raises(ConfigError, match="has no definitions for the instance 'full'"):
        open_instance("full", other).run()


def test_a_table_that_is_dropped_while_it_is_read_is_read_again(
    mini: OpenInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look into the catalog and the read, two commits drop the version that was found."""
    stage = Stage(mini.instance.store.table_store)
    reader = mini.instance.store.table_store.reader
    read = reader.read
    commits = iter([1, 2])

    def after_commits(*arguments: Any, **options: Any) -> Any:
        for number in commits:
            stage.commit(orders=ORDERS.assign(amount=number))
        return read(*arguments, **options)

    monkeypatch.setattr(reader, "read", after_commits)
    assert list(mini.table("raw.orders")["amount"]) == [2, 2, 2]
