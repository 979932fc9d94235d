"""`pipedag-dagster drop-pydiverse`: a database that pydiverse.pipedag has filled is left to pipedag_dagster."""

from __future__ import annotations

import io

import pytest

from pipedag_dagster_tests.helpers import Query
from pipedag_dagster_tests.helpers.command_line import Command

METADATA = """
    CREATE SCHEMA full_pipedag_metadata;
    SET search_path = full_pipedag_metadata;
    CREATE TABLE metadata_version (version text);
    CREATE TABLE stages (id serial, stage text, cur_transaction_name text);
    CREATE TABLE tasks (id serial, stage text, position_hash text, output_json text, in_transaction_schema bool);
    CREATE TABLE lazy_tables (id serial, stage text, query_hash text);
    CREATE TABLE raw_sql (id serial, stage text, prev_objects text, new_objects text);
    INSERT INTO tasks (stage) VALUES ('raw');
    INSERT INTO stages (stage) VALUES ('report');
    RESET search_path
"""
STAGES = """
    CREATE SCHEMA full_raw; CREATE TABLE full_raw.orders (id int); CREATE SCHEMA full_raw__tmp;
    CREATE SCHEMA full_report; CREATE VIEW full_report.orders AS SELECT * FROM full_raw.orders;
    CREATE SCHEMA full_report__odd; CREATE SCHEMA full_report__even
"""
MADE = [f"full_{name}" for name in ("pipedag_metadata", "raw", "raw__tmp", "report", "report__even", "report__odd")]


@pytest.fixture
def filled(query: Query) -> None:
    """What two flows of pydiverse.pipedag have left, one of which swaps schemas and one of which makes views."""
    query(METADATA)
    query(STAGES)


def schemas(query: Query) -> list[str]:
    return [name for (name,) in query("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'full%' ORDER BY 1")]


def test_a_run_is_refused_and_says_what_to_type(command: Command, filled: None, query: Query) -> None:
    done = command("run", "full")
    assert done.code == 1
    assert "pydiverse.pipedag has filled it" in done.err
    assert "pipedag-dagster drop-pydiverse full" in done.err
    assert [name for name in schemas(query) if name not in MADE] == []


def test_its_schemas_are_listed_and_dropped_and_the_next_run_makes_the_tables(
    command: Command, filled: None, query: Query
) -> None:
    done = command("drop-pydiverse", "full", "--yes")
    assert done.code == 0, done.err
    assert sorted(line.strip() for line in done.out.splitlines()[:-1]) == MADE
    assert done.out.splitlines()[-1] == "full: dropped 6 schemas with 7 tables and views"
    assert schemas(query) == []
    assert command("run", "full").code == 0


def test_nothing_is_dropped_when_the_answer_is_no(
    command: Command, filled: None, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert "Nothing was dropped." in command("drop-pydiverse", "full").out
    assert schemas(query) == MADE


def test_schemas_that_its_metadata_does_not_name_stay(command: Command, filled: None, query: Query) -> None:
    query("CREATE SCHEMA full_raw2; CREATE SCHEMA full_other__tmp")
    assert command("drop-pydiverse", "full", "--yes").code == 0
    assert schemas(query) == ["full_other__tmp", "full_raw2"]


def test_what_we_own_stays(command: Command, query: Query) -> None:
    assert command("run", "full").code == 0
    query(METADATA)
    done = command("drop-pydiverse", "full", "--yes")
    assert "stays: full_raw: stage 'raw' of instance 'full' of pipeline 'shop' owns it" in done.out
    assert query("SELECT count(*) > 0 FROM full_raw.orders") == [(True,)]
    assert "full_pipedag_metadata" not in schemas(query)


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE VIEW theirs.orders AS SELECT * FROM full_raw.orders",
        "CREATE TABLE theirs.orders (id int REFERENCES full_raw.keys)",
        "CREATE TABLE theirs.orders (kind full_raw.kind)",
        "CREATE TABLE theirs.orders (id int DEFAULT full_raw.one())",
    ],
)
def test_objects_of_others_are_in_the_way(command: Command, filled: None, query: Query, theirs: str) -> None:
    query("CREATE TABLE full_raw.keys (id int PRIMARY KEY); CREATE TYPE full_raw.kind AS ENUM ('a')")
    query("CREATE FUNCTION full_raw.one() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    query(f"CREATE SCHEMA theirs; {theirs}")
    done = command("drop-pydiverse", "full", "--yes")
    assert done.code == 1
    assert "theirs.orders" in done.err
    assert schemas(query) == MADE


def test_metadata_of_another_shape_is_refused(command: Command, filled: None, query: Query) -> None:
    query("ALTER TABLE full_pipedag_metadata.tasks RENAME position_hash TO position")
    done = command("drop-pydiverse", "full", "--yes")
    assert done.code == 1
    assert "nobody can tell what it has made" in done.err
    assert schemas(query) == MADE


def test_a_database_without_it_is_named(command: Command) -> None:
    done = command("drop-pydiverse", "full")
    assert done.code == 1
    assert "pydiverse.pipedag has made nothing for instance 'full'" in done.err
