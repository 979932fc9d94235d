"""Options of tables, and the store of an instance, as pydiverse.pipedag has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    ConfigContext,
    Flow,
    PipedagConfig,
    RawSql,
    SortCol,
    SortOrder,
    Stage,
    Table,
    View,
    materialize,
)
from pipedag_dagster.errors import TaskFailed
from pipedag_dagster_tests.helpers import Query


@pytest.fixture
def full(config: PipedagConfig) -> Iterator[ConfigContext]:
    """The instance full, as the current one."""
    with config.get("full").evolve(fail_fast=True) as instance:
        yield instance


FRAME = pd.DataFrame({"a": [1, 2], "b": [1, None], "c": ["x", "y"]})
COLUMNS = "SELECT {} FROM information_schema.columns WHERE table_schema = 'full_raw__versions' ORDER BY column_name"


def run(make: Any, **options: Any) -> Any:
    """A flow of one task that returns what `make` makes."""
    with Flow() as flow, Stage("raw"):
        table = materialize(make, name="made", **options)()
    return flow.run().get(table)


@pytest.mark.parametrize("obj", [FRAME, sa.text("SELECT 1 AS a, NULL::int AS b, 'x' AS c")], ids=["frame", "query"])
def test_only_nullable_columns_may_be_null(full: ConfigContext, query: Query, obj: Any) -> None:
    run(lambda: Table(obj, nullable=["b"]))
    assert query(COLUMNS.format("column_name, is_nullable")) == [("a", "NO"), ("b", "YES"), ("c", "NO")]


def test_a_null_in_another_column_is_refused(full: ConfigContext) -> None:
    with pytest.raises(TaskFailed, match="column 'b' has NULLs"):
        run(lambda: Table(FRAME, nullable=["a"]))
    with pytest.raises(TaskFailed, match=r"nullable names the column 'd'\."):
        run(lambda: Table(FRAME, nullable=["d"]))


@pytest.mark.parametrize("kind", [sa.SmallInteger, sa.SmallInteger(), "smallint"], ids=["class", "object", "name"])
def test_columns_are_stored_as_the_types_of_type_map(full: ConfigContext, query: Query, kind: Any) -> None:
    run(lambda: Table(FRAME, type_map={"a": kind}))
    assert query(COLUMNS.format("data_type"))[0] == ("smallint",)


def test_another_type_is_another_table_for_those_that_read_it(full: ConfigContext) -> None:
    def dtype(frame: pd.DataFrame) -> Any:
        return str(frame.dtypes["a"])

    for kind, expected in ((sa.SmallInteger, "Int16"), (sa.Integer, "Int32")):
        with Flow() as flow, Stage("raw"):
            made = materialize(lambda kind=kind: Table(FRAME, type_map={"a": kind}), name="made")()
            result = materialize(dtype, input_type=pd.DataFrame)(made)
        done = flow.run()
        assert done.get(result) == expected


@pytest.mark.parametrize(
    ("frame", "kind", "says"),
    [
        (pd.DataFrame({"a": [1.5]}), sa.Integer, r"column 'a' holds 1\.5, which INTEGER"),
        (pd.DataFrame({"a": ["long"]}), sa.String(3), r"column 'a' holds long, which VARCHAR\(3\)"),
        (pd.DataFrame({"a": [70000]}), sa.SmallInteger, "smallint out of range"),
        (pd.DataFrame({"b": [1]}), sa.Integer, "type_map names the column 'a'"),
    ],
)
def test_a_type_that_would_change_a_value_is_refused(full: ConfigContext, frame: Any, kind: Any, says: str) -> None:
    with pytest.raises(TaskFailed, match=says):
        run(lambda: Table(frame, type_map={"a": kind}))


def test_what_is_no_type_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a type"):
        Table(FRAME, type_map={"a": "int); DROP TABLE x"})


@pytest.mark.parametrize("annotation", [pd.DataFrame, pl.DataFrame, sa.Table])
def test_a_class_of_tables_is_an_annotation_without_an_effect(annotation: type) -> None:
    assert Table(FRAME, annotation=annotation).has_constraints is False


def test_other_annotations_are_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match="checks="):
        Table(FRAME, annotation=int)


@pytest.mark.parametrize(
    ("indexes", "columns"), [("a", [["a"]]), (["a", "b"], [["a"], ["b"]]), ([["a", "b"]], [["a", "b"]])]
)
def test_an_index_is_a_column_or_several(indexes: Any, columns: list[list[str]]) -> None:
    assert list(map(list, Table(FRAME, indexes=indexes).indexes)) == columns


def test_a_name_may_have_a_hash_of_what_the_task_takes(full: ConfigContext, query: Query) -> None:
    names = []
    for number in (1, 2, 1):
        with Flow() as flow, Stage("raw"):
            table = materialize(lambda number: Table(FRAME.head(number), "frame_%%"), name="made")(number)
        assert len(flow.run().get(table)) == number
        names += query("SELECT table_name FROM information_schema.views WHERE table_schema = 'full_raw'")
    assert all(name.startswith("frame_") and len(name) == 14 for (name,) in names)
    assert (names[0] == names[2], names[0] == names[1]) == (True, False)


@pytest.mark.parametrize(
    ("sort_by", "first"),
    [
        (SortCol("b", SortOrder.DESC, nulls_first=True), 2),
        (SortCol("b", SortOrder.DESC, nulls_first=False), 1),
        (SortCol("a", SortOrder.DESC), 2),
        ([SortCol("a")], 1),
    ],
)
def test_a_view_is_sorted_by_columns(full: ConfigContext, sort_by: Any, first: int) -> None:
    with Flow() as flow, Stage("raw"):
        made = materialize(lambda: FRAME, name="made")()
        view = materialize(lambda table: View(table, sort_by=sort_by), name="view", input_type=sa.Table)(made)
    assert flow.run().get(view)["a"].to_list()[0] == first


def test_two_inputs_with_one_name_can_be_joined(full: ConfigContext) -> None:
    def joined(left: Any, right: Any) -> Any:
        return sa.select(left.c.a, right.c.c).join_from(left, right, left.c.a == right.c.a)

    with Flow() as flow:
        with Stage("raw"):
            left = materialize(lambda: Table(FRAME, "t"), name="left")()
        with Stage("clean"):
            right = materialize(lambda: Table(FRAME, "t"), name="right")()
        with Stage("report"):
            both = materialize(joined, lazy=True, input_type=sa.Table)(left, right)
    assert len(flow.run().get(both)) == 2


def test_a_task_takes_the_tables_of_a_script_by_their_names(full: ConfigContext) -> None:
    script = RawSql("CREATE TABLE one AS SELECT 1 AS x; CREATE TABLE two AS SELECT 2 AS x")

    def both(raw: Any) -> Any:
        assert sorted(raw) == ["one", "two"]
        return sa.select(raw["one"].c.x.label("a"), raw["two"].c.x.label("b"))

    with Flow() as flow, Stage("raw"):
        raw = materialize(lambda: script, name="script")()
        whole = materialize(both, input_type=sa.Table)(raw)
        part = materialize(lambda table: len(table), name="part", input_type=pd.DataFrame)(raw["two"])
    result = flow.run()
    assert result.get(whole).to_numpy().tolist() == [[1, 2]]
    assert result.get(part) == 1


# ---- the store -----------------------------------------------------------------------------------------------


def test_a_cache_function_may_query_the_database(full: ConfigContext) -> None:
    store = full.store.table_store
    store.execute("CREATE TABLE public.sources (changed int)")
    store.execute(sa.text("INSERT INTO public.sources VALUES (7)"))
    with store.engine_connect() as connection:
        assert store.execute("SELECT changed FROM public.sources", conn=connection).scalar() == 7
    assert store.execute("SELECT changed FROM public.sources").scalar_one() == 7
    assert store.engine.dialect.name == "postgresql"
    assert (store.schema_prefix, store.get_schema("raw").get()) == ("full_", "full_raw")
