"""`Table(…).materialize()` in a task: the table is there when the call returns, and is part of the stage."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    ConfigContext,
    ExternalTableReference,
    Flow,
    PipedagConfig,
    RawSql,
    Result,
    Stage,
    Table,
    TaskContext,
    View,
    materialize,
    materialize_table,
)
from pipedag_dagster.errors import NoTask, PipedagError, TaskFailed, WiringError
from pipedag_dagster.execution.plan import plan
from pipedag_dagster_tests.helpers import Query

FRAME = pd.DataFrame({"a": [1, 2, 3]})
TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = '{}' ORDER BY 1"


@pytest.fixture
def full(config: PipedagConfig) -> Iterator[ConfigContext]:
    """The instance full, as the current one."""
    with config.get("full").evolve(fail_fast=True) as instance:
        yield instance


@pytest.fixture
def visible(query: Query) -> Callable[[], list[str]]:
    """The names that people see in the stage."""
    return lambda: [name for (name,) in query(TABLES.format("full_raw"))]


@pytest.fixture
def physical(query: Query) -> Callable[[], list[str]]:
    """The physical tables of the stage."""
    return lambda: [name for (name,) in query(TABLES.format("full_raw__versions"))]


def number(rows: str = "1, 2, 3") -> Any:
    """A query of some numbers."""
    return sa.text(f"SELECT unnest(ARRAY[{rows}]) AS a")


def run(function: Any, *arguments: Any, **options: Any) -> tuple[Any, Result]:
    """A flow of one task: what it gives, and the run."""
    with Flow() as flow, Stage("raw"):
        output = materialize(function, **{"name": "task", **options})(*arguments)
    result = flow.run()
    return result.get(output), result


# ---- the table is there ---------------------------------------------------------------------------------------------

OBJECTS = {
    "frame": FRAME,
    "query": number(),
    "view": View(number()),
    "external": ExternalTableReference("numbers", "other"),
    "view of external": View(ExternalTableReference("numbers", "other"), limit=3),
}


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
@pytest.mark.parametrize("obj", OBJECTS.values(), ids=OBJECTS)
def test_it_can_be_queried_when_the_call_returns(full: ConfigContext, query: Query, obj: Any, lazy: bool) -> None:
    query("CREATE SCHEMA other; CREATE TABLE other.numbers AS SELECT generate_series(1, 3) AS a")

    def task() -> Any:
        part = Table(obj, "part").materialize()
        rows = full.store.table_store.execute(sa.select(sa.func.count()).select_from(part)).scalar_one()
        return Table(sa.select((part.c.a * rows).label("b")), "whole")

    frame, _ = run(task, lazy=lazy, version="1")
    assert frame["b"].to_list() == [3, 6, 9]
    assert query("SELECT sum(a) FROM full_raw.part") == [(6,)]


def test_a_second_table_may_read_the_first(full: ConfigContext) -> None:
    def task() -> Any:
        first = Table(number(), "first").materialize()
        second = Table(sa.select((first.c.a + 1).label("a")), "second").materialize()
        return Table(sa.select(first.c.a).join(second, first.c.a == second.c.a))

    assert run(task, lazy=True)[0]["a"].to_list() == [2, 3]


def test_keys_and_indexes_are_made(full: ConfigContext, query: Query) -> None:
    run(lambda: Table(FRAME, "part", primary_key="a", indexes=[["a"]]).materialize())
    assert query("SELECT count(*) FROM pg_indexes WHERE schemaname = 'full_raw__versions'") == [(2,)]


def test_a_script_and_a_view_may_read_it(full: ConfigContext, visible: Any, caplog: pytest.LogCaptureFixture) -> None:
    def task() -> Any:
        part = Table(number(), "part").materialize()
        name = f'"{part.original.schema}"."{part.original.name}"'
        return {"script": RawSql(f"CREATE TABLE more AS SELECT * FROM {name}"), "view": View(part, columns={"b": "a"})}

    for _ in range(2):
        assert run(task, lazy=True)[0]["view"]["b"].to_list() == [1, 2, 3]
    assert {"more", "part"} <= set(visible())
    assert "not an input" not in caplog.text


def test_of_a_task_that_reads_frames_it_is_an_alias_to_build_queries_on(full: ConfigContext) -> None:
    def task() -> Any:
        part = Table(FRAME, "part").materialize()
        assert isinstance(part, sa.Alias)
        return sa.select(part.c.a * 2)

    assert run(task, input_type=pd.DataFrame)[0].iloc[:, 0].to_list() == [2, 4, 6]


def test_it_is_returned_as_the_types_that_are_asked_for(full: ConfigContext) -> None:
    def task() -> Any:
        frame = Table(FRAME).materialize(return_as_type=pd.DataFrame)
        alias, arrow = Table(FRAME).materialize(return_as_type=[None, pl.DataFrame])
        nothing = Table(FRAME).materialize(return_nothing=True)
        assert nothing is None
        return [type(value).__name__ for value in (frame, alias, arrow)]

    assert run(task)[0] == ["DataFrame", "Alias", "DataFrame"]


def test_the_data_leaves_the_object_unless_that_is_not_wanted(full: ConfigContext) -> None:
    def task() -> Any:
        one, two = Table(FRAME), Table(FRAME)
        one.materialize()
        two.materialize(clear_table_obj=False)
        return [one.obj is None, two.obj is FRAME]

    assert run(task)[0] == [True, True]


# ---- part of the result ---------------------------------------------------------------------------------------------


def made() -> Any:
    return Table(FRAME, "first").materialize()


def made_object() -> Any:
    table = Table(FRAME, "first")
    table.materialize()
    return table


RETURNED: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "reference": (made, {}),
    "object": (made_object, {}),
    "frame": (lambda: Table(FRAME, "first").materialize(return_as_type=pd.DataFrame), {}),
    "list": (lambda: [made(), 7], {}),
    "dict": (lambda: {"x": made(), "y": Table(FRAME)}, {}),
    "nout": (lambda: (made(), Table(FRAME, "second")), {"nout": 2}),
    "outputs": (lambda: (Table(FRAME).materialize(), FRAME), {"outputs": ["first", "second"]}),
}


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
@pytest.mark.parametrize(("returned", "options"), RETURNED.values(), ids=RETURNED)
def test_what_is_returned_is_the_table_itself(
    full: ConfigContext, visible: Any, physical: Any, returned: Any, options: dict[str, Any], lazy: bool
) -> None:
    @materialize(input_type=pd.DataFrame)
    def rows(value: Any) -> Any:
        frames = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        return sum(len(frame) for frame in frames if isinstance(frame, pd.DataFrame))

    for _ in range(2):
        with Flow() as flow, Stage("raw"):
            output = materialize(returned, name="task", lazy=lazy, **options)()
            count = rows(list(output) if options else output)
        assert flow.run().get(count) in (3, 6)
    tables = [name for name in visible() if name != "rows"]
    assert "first" in tables
    assert len(physical()) == len(tables)


def test_what_is_not_returned_is_a_table_of_the_stage_too(full: ConfigContext, visible: Any) -> None:
    def task() -> Any:
        Table(number("3")).materialize()
        Table(number("4"), "_named").materialize()
        return Table(number("5")).materialize()

    for _ in range(2):
        run(task, lazy=True)
        assert visible() == ["_named", "task", "task_step_1"]


def test_the_same_table_returned_twice_is_copied_once(full: ConfigContext, visible: Any) -> None:
    def task() -> Any:
        part = Table(FRAME).materialize()
        return part, part

    run(task, nout=2)
    assert visible() == ["task", "task_2"]


def test_two_tasks_may_not_give_one_name(full: ConfigContext) -> None:
    def task() -> Any:
        Table(FRAME, "part").materialize()
        return 1

    with Flow() as flow, Stage("raw"):
        materialize(task, name="one")()
        materialize(task, name="two")()
    with pytest.raises(TaskFailed, match="two tables 'part'"):
        flow.run()


def test_a_small_instance_copies_it_with_the_other_tables(config: PipedagConfig, query: Query) -> None:
    def load() -> Any:
        Table(FRAME, "part").materialize()
        return Table(FRAME, "whole")

    with Flow() as flow, Stage("raw"):
        materialize(load, input=True)()
    flow.run(config=config.get("full"))
    flow.run(config=config.get("mini"))
    assert query("SELECT (SELECT count(*) FROM mini_raw.part), (SELECT count(*) FROM mini_raw.whole)") == [(1, 1)]


# ---- the cache ------------------------------------------------------------------------------------------------------


class Edited:
    """A lazy task whose queries can be changed. It counts what the last run has made anew."""

    def __init__(self) -> None:
        self.first, self.second = number(), "a + 1"

    def task(self) -> Any:
        first = Table(self.first, "first").materialize()
        return Table(sa.select(sa.text(f"{self.second} AS b")).select_from(first), "second")

    def run(self) -> set[str]:
        def task() -> Any:
            return self.task()

        with Flow() as flow, Stage("raw"):
            output = materialize(task, lazy=True)()
            materialize(lambda table: len(table), name="after", input_type=pd.DataFrame)(output)
        result = flow.run()
        return {record.asset for record in flow_records(result) if record.reason.kind.value != "cached"}


def flow_records(result: Result) -> list[Any]:
    """What a run did, table by table."""
    records = ConfigContext.get().store.table_store.records.of_run(result.run_id)
    return [record for record, _ in records]


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({}, set()),
        ({"second": "a + 2"}, {"task", "after"}),
        ({"second": "1 + a"}, {"task"}),
        ({"first": number("1, 2")}, {"first", "task", "after"}),
        ({"first": number("1, 2, 2 + 1")}, {"first", "task"}),
    ],
    ids=["nothing", "last query", "last query, same rows", "first query", "first query, same rows"],
)
def test_only_the_tables_of_a_lazy_task_that_have_changed_are_written(
    full: ConfigContext, query: Query, change: dict[str, Any], anew: set[str]
) -> None:
    edited = Edited()
    assert edited.run() == {"first", "task", "after"}
    vars(edited).update(change)
    assert edited.run() == anew
    assert edited.run() == set()


def test_a_table_stays_while_the_input_that_it_does_not_read_changes(full: ConfigContext, physical: Any) -> None:
    def task(one: Any, two: Any) -> Any:
        part = Table(sa.select(one.c.a), "part").materialize()
        return Table(sa.select(part.c.a).join(two, two.c.a == part.c.a), "whole")

    for rows in ("1, 2", "1, 2, 3"):
        with Flow() as flow, Stage("raw"):
            one = materialize(lambda: number(), name="one", lazy=True)()
            two = materialize(lambda rows=rows: number(rows), name="two", lazy=True)()
            materialize(task, lazy=True, input_type=sa.Table)(one, two)
        result = flow.run()
    reasons = {record.asset: str(record.reason) for record in flow_records(result)}
    assert reasons == {
        "one": "cached",
        "two": "query changed",
        "part": "cached",
        "task": "input changed: raw.two",
    }


def test_an_eager_task_is_called_once_and_its_tables_are_cached_with_it(full: ConfigContext, physical: Any) -> None:
    calls = []

    def task(rows: int) -> Any:
        calls.append(rows)
        Table(FRAME.head(rows), "part").materialize()
        return Table(FRAME)

    for rows in (1, 1, 2):
        run(task, rows, version="1")
    assert calls == [1, 2]


def test_a_table_whose_rows_are_the_same_stops_the_change(full: ConfigContext) -> None:
    for query in (number("1, 2"), number("1, 1 + 1")):
        with Flow() as flow, Stage("raw"):
            made = materialize(lambda query=query: Table(query).materialize(), name="made", lazy=True)()
            materialize(lambda table: len(table), name="after", input_type=pd.DataFrame)(made)
        result = flow.run()
    assert {record.asset: str(record.reason) for record in flow_records(result)} == {
        "made": "query changed",
        "after": "cached",
    }


def test_another_shape_of_the_same_tables_is_another_result(full: ConfigContext) -> None:
    def listed() -> Any:
        return [Table(number()).materialize()]

    def in_dict() -> Any:
        return {0: Table(number()).materialize()}

    def deeper() -> Any:
        return [[Table(number()).materialize()]]

    kinds = [type(run(task, lazy=True)[0]).__name__ for task in (listed, in_dict, listed)]
    assert kinds == ["list", "dict", "list"]
    assert isinstance(run(deeper, lazy=True)[0][0], list)


def test_a_table_that_is_named_otherwise_is_written_again(full: ConfigContext, visible: Any) -> None:
    for name, options in (("one", {}), ("one", {"outputs": ["two"]}), ("one", {"outputs": ["three"]})):
        run(lambda: Table(number()).materialize(), name=name, lazy=True, **options)
    assert visible() == ["three"]


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
def test_force_cache_invalid_writes_it_again(full: ConfigContext, physical: Any, lazy: bool) -> None:
    def task() -> Any:
        Table(number(), "part").materialize()
        return number()

    run(task, lazy=lazy)
    before = physical()
    with full.evolve(cache_validation={"mode": "force_cache_invalid"}):
        run(task, lazy=lazy)
    assert len(set(physical()) - set(before)) == 2


def test_a_task_of_polars_plans_materializes_when_it_has_its_data(full: ConfigContext, visible: Any) -> None:
    def task(frame: pl.LazyFrame) -> Any:
        part = Table(frame.select(pl.col("a") * 2), "part").materialize()
        return Table(sa.select(sa.func.sum(part.c.a).label("a")) if isinstance(part, sa.Alias) else part, "whole")

    for _ in range(2):
        with Flow() as flow, Stage("raw"):
            made = materialize(lambda: FRAME, name="made")()
            output = materialize(task, input_type=pl.LazyFrame, lazy=True)(made)
        assert flow.run().get(output, as_type=pd.DataFrame)["a"].to_list() == [12]
    assert {"part", "whole"} <= set(visible())


# ---- a plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_would_run_and_writes_nothing(full: ConfigContext, physical: Any) -> None:
    edited = Edited()

    def planned() -> dict[str, tuple[str, str]]:
        with Flow() as flow, Stage("raw"):
            materialize(lambda: edited.task(), name="task", lazy=True)()
        before = physical()
        tables = {one.asset: (one.action.value, one.reason) for one in plan(full, flow.stages)}
        assert physical() == before
        return tables

    assert planned() == {"task": ("runs", "new")}
    run(lambda: edited.task(), lazy=True)
    assert {action for action, _ in planned().values()} == {"cached"}
    edited.first = number("1")
    assert planned()["task"] == ("runs", "query changed")


# ---- failures -------------------------------------------------------------------------------------------------------

FAILURES: dict[str, Callable[[], Any]] = {
    "the task raises": lambda: 1 / 0,
    "its result is refused": lambda: {1, 2},
    "its query is refused": lambda: sa.text("SELECT 1 / 0 AS a"),
    "its second table is refused": lambda: Table(number("1, 1"), primary_key="a").materialize(),
}


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_it_is_dropped_when_the_task_fails(full: ConfigContext, physical: Any, fail: Any, lazy: bool) -> None:
    def task() -> Any:
        Table(FRAME, "part").materialize()
        Table(View(number()), "view").materialize()
        return fail()

    with pytest.raises(TaskFailed):
        run(task, lazy=lazy)
    assert physical() == []


def test_the_error_can_be_caught_as_that_of_sqlalchemy(full: ConfigContext) -> None:
    def task() -> Any:
        for query, error in (("SELECT nothing", sa.exc.ProgrammingError), ("SELECT 1/0", sa.exc.DataError)):
            with pytest.raises(error, match=r"(?s)raw\.part: .*test_materialize\.py:\d+"):
                Table(sa.text(query), "part").materialize()
        with pytest.raises(sa.exc.IntegrityError) as caught:
            Table(number("1, 1"), "part", primary_key="a").materialize()
        assert isinstance(caught.value, PipedagError)
        return Table(number(), "part").materialize()

    assert len(run(task)[0]) == 3


def test_the_line_of_the_task_is_in_the_traceback(full: ConfigContext) -> None:
    def task() -> Any:
        return Table(sa.text("<invalid query>")).materialize()

    with pytest.raises(TaskFailed) as caught:
        run(task, lazy=True)
    assert "<invalid query>" in "".join(traceback.format_exception(caught.value))
    assert 'in task\n    return Table(sa.text("<invalid query>"))' in "".join(traceback.format_exception(caught.value))


def twice() -> Any:
    Table(number("1"), "part").materialize()
    return Table(number("2"), "part").materialize()


def again() -> Any:
    table = Table(number("1"))
    table.materialize()
    table.obj = number("2")
    return table.materialize()


def by_hand() -> Any:
    assert materialize_table(Table(number("1"), "part"), debug_suffix="_debug").startswith("part_debug")
    return number("2")


@pytest.mark.parametrize("task", [twice, again, by_hand])
@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
def test_a_task_that_was_debugged_fails(full: ConfigContext, physical: Any, task: Any, lazy: bool) -> None:
    with pytest.raises(RuntimeError, match="The task task has been tainted by interactive debugging"):
        run(task, lazy=lazy)
    assert physical() == []


def test_a_second_time_without_its_data_is_refused(full: ConfigContext) -> None:
    def task() -> Any:
        table = Table(number(), "part")
        table.materialize()
        table.materialize()

    with pytest.raises(TaskFailed, match=r"clear_table_obj=False"):
        run(task)


def test_materialize_table_may_make_a_table_of_the_stage(full: ConfigContext, visible: Any) -> None:
    def task() -> Any:
        table = Table(number(), "part")
        name = materialize_table(table, flag_task_debug_tainted=False, keep_table_name=False)
        return [name == table.name, name.startswith("part_")]

    assert run(task)[0] == [True, True]
    assert "part" in visible()


# ---- the task that runs ---------------------------------------------------------------------------------------------


def test_a_task_may_ask_which_one_it_is(full: ConfigContext) -> None:
    def task() -> Any:
        context = TaskContext.get()
        return [context.name, context.stage.name, context.task.name]

    assert run(task)[0] == ["task", "raw", "task"]


@pytest.mark.parametrize("error", [NoTask, LookupError])
def test_outside_of_a_task_there_is_no_context(error: Any) -> None:
    with pytest.raises(error, match="No task runs here"):
        TaskContext.get()


def test_a_task_materializes_for_its_own_instance_and_stage(full: ConfigContext, config: PipedagConfig) -> None:
    store = full.store.table_store

    def task(stage: Any) -> Any:
        Table(FRAME, "one").materialize(full, store.get_schema("raw"))
        Table(FRAME, "two").materialize(schema=store.get_schema(stage.transaction_name))
        with pytest.raises(ValueError, match=r"for no other instance.*Leave config_context= out"):
            Table(FRAME).materialize(config.get("mini"))
        with pytest.raises(WiringError, match=r"in the schema 'full_other'\. Leave schema= out"):
            Table(FRAME).materialize(schema=store.get_schema("other"))
        return 1

    with Flow() as flow, Stage("raw") as stage:
        materialize(task)(stage)
    assert flow.run().successful
