"""Tasks that are called by hand, and tables that are written by hand into a schema of one's own."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    Blob,
    ConfigContext,
    ExternalTableReference,
    Flow,
    PipedagConfig,
    RawSql,
    Schema,
    Stage,
    Table,
    View,
    materialize,
    materialize_table,
)
from pipedag_dagster.errors import NotOwned, UnstorableResult, WiringError
from pipedag_dagster_tests.helpers import Query

FRAME = pd.DataFrame({"a": [1, 2]})
DEBUG = Schema("debug", prefix="my_")


@pytest.fixture
def full(config: PipedagConfig) -> ConfigContext:
    """The instance full. Its database has a schema for debugging."""
    instance = config.get("full").evolve(fail_fast=True)
    instance.store.table_store.execute(f"CREATE SCHEMA IF NOT EXISTS {DEBUG.get()}")
    return instance


@materialize(lazy=True, input_type=sa.Table)
def doubled(table: Any) -> Any:
    return Table(sa.select((table.c.a * 2).label("a")), name="doubled").materialize()


def test_without_an_instance_the_task_returns_its_query() -> None:
    query = doubled(sa.table("numbers", sa.column("a")))
    assert str(query) == "SELECT numbers.a * :a_1 AS a \nFROM numbers"
    assert Table(FRAME).materialize() is FRAME
    assert Table(FRAME).materialize(return_nothing=True) is None


@pytest.mark.parametrize(
    ("returned", "content"),
    [
        (Table("frame", "a"), "frame"),
        (Blob(7), 7),
        (RawSql("SELECT 1"), "SELECT 1"),
        (RawSql(["a", "b"]), ("a", "b")),
        ({"a": [Table("frame"), (1, Blob(2))]}, {"a": ["frame", (1, 2)]}),
    ],
)
def test_a_task_that_is_called_by_hand_returns_what_is_in_its_tables(returned: Any, content: Any) -> None:
    task = materialize(lambda: returned, name="task")
    assert task() == content
    assert task.fn() is returned


def test_between_tasks_tables_are_written_by_hand(full: ConfigContext) -> None:
    numbers = Table(FRAME, "numbers").materialize(full, DEBUG)
    result, frame = Table(doubled(numbers), "Doubled").materialize(full, DEBUG, return_as_type=[None, pd.DataFrame])
    assert (result.original.schema, result.original.name) == ("my_debug", "doubled")
    assert frame["a"].to_list() == [2, 4]


OBJECTS = {
    "frame": FRAME,
    "query": sa.text("SELECT 1 AS a"),
    "view": View(sa.text("SELECT 1 AS a")),
    "external": ExternalTableReference("others", "my_debug"),
}


@pytest.mark.parametrize("obj", OBJECTS.values(), ids=OBJECTS)
@pytest.mark.parametrize("schema", [DEBUG, "my_debug"], ids=["Schema", "text"])
def test_a_table_of_the_same_name_is_replaced(full: ConfigContext, obj: Any, schema: Any) -> None:
    Table(FRAME, "others").materialize(full, DEBUG)
    for old in OBJECTS.values():
        Table(old, "mine").materialize(full, schema, return_nothing=True)
        assert Table(obj, "mine").materialize(full, schema, return_as_type=pd.DataFrame)["a"].to_list()[0] == 1


def test_its_keys_are_made(full: ConfigContext, query: Query) -> None:
    with pytest.raises(UnstorableResult, match=r"my_debug\.twice: the primary key is not unique"):
        Table(pd.DataFrame({"a": [1, 1]}), "twice", primary_key="a").materialize(full, DEBUG)
    Table(FRAME, "keyed", primary_key="a").materialize(full, DEBUG)
    assert query("SELECT count(*) FROM pg_indexes WHERE schemaname = 'my_debug'") == [(1,)]


def test_tables_without_a_name_do_not_collide(full: ConfigContext) -> None:
    names = {Table(FRAME, name).materialize(full, DEBUG).original.name for name in (None, None, "t_%%", "t_%%")}
    assert len(names) == 4


def test_materialize_table_gives_the_name_in_the_database(full: ConfigContext) -> None:
    table = Table(FRAME, "numbers")
    with full:
        assert materialize_table(table, schema=DEBUG, debug_suffix="_2") == "numbers_2"
        assert table.name == "numbers"
        with pytest.raises(ValueError, match="has a table 'numbers_2' already"):
            materialize_table(table, full, DEBUG, debug_suffix="_2", drop_if_exists=False)
        assert materialize_table(table, schema=DEBUG, keep_table_name=False) == table.name


def test_the_schema_must_be_given(full: ConfigContext) -> None:
    with pytest.raises(ValueError, match=r"materialize\(instance, Schema\(\"debug\"\)\)"):
        Table(FRAME).materialize(full)
    with pytest.raises(WiringError, match="schema=7 is not a schema"):
        Table(FRAME).materialize(full, 7)  # type: ignore[arg-type]


def test_a_missing_schema_is_refused_with_what_to_write(full: ConfigContext) -> None:
    with pytest.raises(WiringError, match='Create it first: CREATE SCHEMA "nowhere"'):
        Table(FRAME).materialize(full, Schema("nowhere"))


@pytest.mark.parametrize("schema", ["full_raw", "full_raw__versions", "full_pipedag"])
def test_nothing_is_written_by_hand_into_the_schemas_of_a_stage(full: ConfigContext, schema: str) -> None:
    with Flow() as flow, Stage("raw"):
        materialize(lambda: FRAME, name="orders")()
    flow.run(config=full)
    with pytest.raises(NotOwned, match=f"Schema '{schema}' belongs to"):
        Table(FRAME, "orders").materialize(full, schema)


def test_a_schema_is_its_name() -> None:
    assert (Schema("raw").get(), str(Schema("raw", "a_", "_b"))) == ("raw", "a_raw_b")
    assert Schema("raw", prefix="a_") == Schema("raw", "a_")
