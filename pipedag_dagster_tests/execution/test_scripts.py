"""RawSql: a script makes tables and views of its stage; View: a query of the stage that is not stored."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    Blob,
    ConfigContext,
    Flow,
    RawSql,
    Result,
    Stage,
    StageLockContext,
    Table,
    View,
    input_stage_versions,
    materialize,
)
from pipedag_dagster.errors import TaskFailed, UnstorableResult
from pipedag_dagster.versions import history, removal
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Instances, Query


@pytest.fixture
def full(instances: Instances) -> ConfigContext:
    return instances().get("full")


class Shop:
    """`orders` in the stage raw; what `make(orders)` returns in the stage work; `take` says what is looked at."""

    def __init__(self, config: ConfigContext, make: Callable[..., Any], **options: Any) -> None:
        self.config = config
        self.make = make
        self.take: Callable[[Any], Any] = options.pop("take", lambda made: made)
        self.options = {"lazy": True, "input_type": sa.Table} | options
        self.amounts = [1, 2, 3]
        self.generation = 1
        self.seen: list[Any] = []
        self.ran: list[str] = []

    def flow(self) -> Flow:
        @materialize(version=str(self.generation), outputs=["orders"])
        def load() -> Table:
            self.ran.append("load")
            return Table(pd.DataFrame({"id": range(len(self.amounts)), "amount": self.amounts}), primary_key="id")

        @materialize(**self.options)
        def make(orders: Any) -> Any:
            return self.make(orders)

        @materialize(version="1")
        def look(made: Any) -> Any:
            self.ran.append("look")
            self.seen.append(made)
            return pd.DataFrame({"seen": [1]})

        with Flow("shop") as flow:
            with Stage("raw"):
                orders = load()
            with Stage("work"):
                self.made = make(orders)
            with Stage("report"):
                look(self.take(self.made))
        return flow

    def run(self, **options: Any) -> Result:
        self.ran.clear()
        return self.flow().run(self.config, fail_fast=True, **options)

    def reasons(self) -> dict[str, str]:
        return {f"{run.stage}.{run.asset}": str(run.reason) for run, _ in self.run().tables}


def script(text: str | list[str], **options: Any) -> Callable[[ConfigContext], Shop]:
    return lambda config: Shop(config, lambda _: RawSql(text), **options)


LARGE = "CREATE TABLE large AS SELECT * FROM {orders} WHERE amount > 1;"


# Scripts


def test_the_tables_and_views_that_a_script_makes_are_those_of_its_stage(full: ConfigContext, query: Query) -> None:
    text = """
        -- a comment; with a semicolon
        CREATE TEMPORARY TABLE helper AS SELECT 'a;b' AS text;
        CREATE TABLE Large (id bigint PRIMARY KEY, amount bigint NOT NULL CHECK (amount > 0), nr serial UNIQUE);
        CREATE INDEX large_amount ON large (amount, id);
        INSERT INTO large (id, amount) SELECT id, amount FROM {{ orders }} WHERE amount > 1;
        SELECT count(*) AS n INTO counted FROM helper;
        CREATE VIEW doubled AS SELECT id, amount * 2 AS amount FROM large;
    """
    shop = script(text, take=lambda raw: (raw["large"], raw["doubled"]))(full)
    with StageLockContext():
        result = shop.run()
        everything = result.get(shop.made)
    assert list(everything) == ["large", "counted", "doubled"]
    large, doubled = shop.seen[0]
    assert large["amount"].tolist() == [2, 3]
    assert doubled["amount"].tolist() == [4, 6]
    assert query("SELECT amount FROM full_work.large ORDER BY 1") == [(2,), (3,)]
    assert query("SELECT amount FROM full_work.doubled ORDER BY 1") == [(4,), (6,)]
    table = full.store.table_store.current(["work"])["work"].tables["large"]
    assert (table.primary_key, table.indexes) == (("id",), (("nr",), ("amount", "id")))
    assert [column.nullable for column in table.columns] == [False, False, False]
    assert [one[0] for one in query("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'pipedag_script%'")] == []
    with pytest.raises(psycopg.errors.CheckViolation):
        query(f"INSERT INTO full_work__versions.{table.physical} (id, amount) VALUES (9, 0)")
    assert differences(full.store.table_store) == []


def test_a_script_is_compared_with_the_content_of_what_it_reads(full: ConfigContext) -> None:
    shop = script(LARGE, take=lambda raw: raw["large"])(full)
    assert shop.reasons() == {"raw.orders": "new", "work.large": "new", "report.look": "new"}
    assert set(shop.reasons().values()) == {"cached"}
    shop.generation = 2  # the same content in another physical table
    assert shop.reasons()["work.large"] == "cached"
    shop.make = lambda _: RawSql(LARGE + "-- the same")
    assert shop.reasons() == {"raw.orders": "cached", "work.large": "query changed", "report.look": "cached"}
    shop.generation, shop.amounts = 3, [1, 2, 3, 0]
    assert shop.reasons()["work.large"] == "input changed: raw.orders"
    assert shop.ran == ["load"]  # the result was what it had been
    shop.generation, shop.amounts = 4, [1, 2, 4]
    shop.run()
    assert shop.ran == ["load", "look"]


def test_each_version_keeps_its_own_tables_with_their_indexes(full: ConfigContext, query: Query) -> None:
    text = (
        "CREATE TABLE t (id bigint PRIMARY KEY); CREATE INDEX t_i ON t (id); INSERT INTO t SELECT amount FROM {orders}"
    )
    shop = script(text, take=lambda raw: raw["t"])(full)
    shop.run()
    shop.generation, shop.amounts = 2, [7]
    shop.run()
    assert query("SELECT id FROM full_work.t") == [(7,)]
    history.rollback(full.store.table_store, "work", 1, "back")
    assert query("SELECT count(*) FROM full_work.t") == [(3,)]
    indexes = query("SELECT count(*) FROM pg_indexes WHERE schemaname = 'full_work__versions'")
    assert indexes == [(4,)]


def test_placeholders_are_the_tables_among_the_arguments_and_other_braces_are_left_alone(full: ConfigContext) -> None:
    text = """
        CREATE TABLE {schema}.t AS SELECT x, '{orders}' AS text, '{1,2}'::int[] AS list FROM {tables.a}
        UNION ALL SELECT x, '{extra}', NULL FROM {{ tables.b.0 }}
        UNION ALL SELECT x, '{"a": {}}', NULL FROM {more.0}
    """

    @materialize(version="1")
    def load() -> Any:
        return {"a": pd.DataFrame({"x": [1]}), "b": [pd.DataFrame({"x": [2]})], "n": 3}

    @materialize(lazy=True, input_type=sa.Table)
    def make(tables: Any, more: list[Any], extra: int = 4) -> RawSql:
        return RawSql(text)

    with Flow() as flow, Stage("raw"):
        loaded = load()
        made = make(loaded, [loaded["a"]])
    with StageLockContext():
        frame = flow.run(full, fail_fast=True).get(made)["t"]
    assert frame["x"].tolist() == [1, 2, 1]
    assert frame["text"].tolist() == ["{orders}", "{extra}", '{"a": {}}']
    with Flow() as flow, Stage("raw"):
        loaded = load()
        make(loaded, [loaded["n"]])
    message = r'(?s)syntax error at or near "\{" \(line 4\).*Only arguments of the task that are tables'
    with pytest.raises(UnstorableResult, match=message):
        flow.run(full, fail_fast=True)


def test_several_scripts_and_declared_outputs(full: ConfigContext) -> None:
    texts = ["CREATE TABLE a AS SELECT 1 AS x", "CREATE TABLE b AS SELECT x + 1 AS x FROM a"]
    shop = script(texts, outputs=["a", "b"], take=lambda made: [made["b"], made])(full)
    shop.run()
    b, both = shop.seen[0]
    assert (b["x"].tolist(), list(both)) == ([2], ["a", "b"])
    single = script("CREATE TABLE one AS SELECT 1 AS x; CREATE TABLE two AS SELECT 2 AS x", outputs=["one"])(full)
    single.run()
    assert single.seen[0]["x"].tolist() == [1]
    missing = script("CREATE TABLE bb AS SELECT 1 AS x", outputs=["b"])(full)
    with pytest.raises(UnstorableResult, match=r"work\.make did not return 'b'\. Did you mean 'bb'\?"):
        missing.run()


def test_a_script_beside_other_outputs_and_one_that_makes_nothing(full: ConfigContext) -> None:
    shop = Shop(full, lambda _: {"sql": RawSql("CREATE TABLE t AS SELECT 1 AS x"), "check": RawSql("SELECT 1"), "n": 2})
    shop.run()
    assert shop.seen[0]["sql"]["t"]["x"].tolist() == [1]
    assert (list(shop.seen[0]["check"]), shop.seen[0]["n"]) == ([], 2)
    assert {one.name: one.kind for one in full.store.table_store.current(["work"])["work"].tables.values()} == {
        "make": "json",
        "t": "table",
    }


def test_the_script_of_pydiverse_pipedags_documentation(full: ConfigContext) -> None:
    @materialize(lazy=True)
    def raw_sql_task(stage: Stage) -> RawSql:
        schema = stage.current_name
        assert schema == full.store.table_store.get_schema(stage.transaction_name).get()
        return RawSql(f"""
            CREATE TABLE {schema}.tbl_1 AS SELECT 1 as x;
            CREATE TABLE {schema}.tbl_2 AS SELECT 2 as x;
        """)

    @materialize(input_type=sa.Table, lazy=True)
    def foo(tbl_1: Any, tbl_2: Any) -> Any:
        return sa.union_all(sa.select(tbl_1), sa.select(tbl_2))

    @materialize(input_type=sa.Table, lazy=True)
    def bar(raw_sql: Any) -> Any:
        return sa.union_all(sa.select(raw_sql["tbl_1"]), sa.select(raw_sql["tbl_2"]))

    with Flow() as f, Stage("stage") as s:
        out = raw_sql_task(s)
        both = foo(out["tbl_1"], out["tbl_2"]), bar(out)
    with StageLockContext():
        result = f.run(full, fail_fast=True)
        assert [result.get(one)["x"].tolist() for one in both] == [[1, 2], [1, 2]]
    assert full.store.table_store.get_schema(s.name).get() == "full_stage"


REFUSED: dict[str, tuple[str, str]] = {
    "commit": ("CREATE TABLE t AS SELECT 1 AS x; COMMIT; SELECT 1", r"a script is one transaction, and cannot end it"),
    "a mistake": ("SELECT 1;\nSELEC 2", r'work\.make: .*syntax error at or near "SELEC" \(line 2\).*in the script:'),
    "on its data": ("CREATE TABLE t AS SELECT 1 / 0 AS x", r"division by zero"),
    "writing to an input": ("DELETE FROM {orders}", r"writes to \"full_raw__versions\"\.\"orders_.*without a schema"),
    "writing elsewhere": ("INSERT INTO public.theirs VALUES (1)", r"writes to \"public\"\.\"theirs\""),
    "making elsewhere": ("CREATE TABLE public.other (x int)", r"writes to \"public\"\.\"other\""),
    "dropping elsewhere": ("DROP TABLE public.theirs", r"writes to (public\.)?theirs"),
    "a foreign key to an input": (
        "CREATE TABLE t (x bigint REFERENCES {orders})",
        r"writes to \"full_raw__versions\"\.\"orders_",
    ),
    "a function": ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", r"cannot be kept: function f\(\)"),
    "a type": ("CREATE TYPE mood AS ENUM ('sad')", r"cannot be kept: type mood"),
    "a materialized view": ("CREATE MATERIALIZED VIEW m AS SELECT 1 AS x", r"the materialized view m, which cannot be"),
    "names that differ in case": ('CREATE TABLE "T" (x int); CREATE TABLE t (x int)', r"two tables 't'"),
    "an unlogged table": ("CREATE UNLOGGED TABLE t (x int)", r"t is UNLOGGED, so a crash would empty it"),
    "row-level security": ("CREATE TABLE t (x int); ALTER TABLE t ENABLE ROW LEVEL SECURITY", r"t has row-level"),
    "no columns": ("CREATE TABLE t ()", r"t: the table has no columns"),
    "a view by name": ("CREATE VIEW v AS SELECT * FROM full_raw.orders", r"by name, which is another table after each"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_script_may_not_do_is_refused_and_nothing_has_changed(
    full: ConfigContext, query: Query, text: str, message: str
) -> None:
    query("CREATE TABLE public.theirs (x int)")
    with pytest.raises(UnstorableResult, match=f"(?s){message}"):
        script(text)(full).run()
    assert query("SELECT * FROM public.theirs") == []
    assert query("SELECT count(*) FROM full_raw.orders") == [(3,)]
    assert query("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [("theirs",)]
    assert full.store.table_store.current(["work"])["work"].tables == {}
    assert query("SELECT relname FROM pg_class WHERE relnamespace = 'full_work__versions'::regnamespace") == []


def test_what_a_script_sets_is_gone_afterwards(full: ConfigContext) -> None:
    shop = script(["SET search_path = public", "SET work_mem = '123MB'", "CREATE TEMP TABLE x AS SELECT 1"])(full)
    shop.run()
    with full.store.table_store.database.read() as connection:
        assert connection.scalar(sa.text("SHOW work_mem")) != "123MB"
        assert connection.scalar(sa.text("SELECT to_regclass('pg_temp.x')")) is None


def test_a_small_instance_copies_what_a_script_has_made(instances: Instances) -> None:
    config = instances()

    @materialize(input=True, lazy=True)
    def load() -> RawSql:
        return RawSql("CREATE TABLE t AS SELECT generate_series(1, 9) AS x; CREATE VIEW v AS SELECT -x AS x FROM t")

    with Flow("shop") as flow, Stage("raw"):
        tables = load()
    with StageLockContext():
        flow.run(config.get("full"), fail_fast=True)
        midi = flow.run(config.get("midi"), fail_fast=True)
        assert {name: len(frame) for name, frame in midi.get(tables).items()} == {"t": 2, "v": 2}
    kinds = {one.asset: one.kind for _, one in midi.tables}
    assert kinds == {"load": "json", "t": "table", "v": "table"}


# Views


def view(shop_config: ConfigContext, **options: Any) -> Shop:
    return Shop(shop_config, lambda orders: View(sa.select(orders).where(orders.c.amount > 1), **options))


def test_a_view_is_a_view_and_reads_as_a_table(full: ConfigContext, query: Query) -> None:
    shop = view(full, name="large")
    with StageLockContext():
        assert shop.run().get(shop.made)["amount"].tolist() == [2, 3]
    assert shop.seen[0]["amount"].tolist() == [2, 3]
    assert query("SELECT amount FROM full_work.large ORDER BY 1") == [(2,), (3,)]
    table = full.store.table_store.current(["work"])["work"].tables["make"]
    assert (table.kind, table.rows) == ("view", 2)
    kinds = query("SELECT relkind::text FROM pg_class WHERE relnamespace = 'full_work__versions'::regnamespace")
    assert kinds == [("v",)]
    assert differences(full.store.table_store) == []


def test_a_view_changes_with_its_query_and_with_the_content_that_it_reads(full: ConfigContext) -> None:
    shop = view(full)
    shop.run()
    assert set(shop.reasons().values()) == {"cached"}
    shop.generation = 2
    assert shop.reasons() == {"raw.orders": "code changed (1 → 2)", "work.make": "cached", "report.look": "cached"}
    shop.generation, shop.amounts = 3, [5, 6]
    assert shop.reasons()["report.look"] == "input changed: work.make"
    assert shop.seen[-1]["amount"].tolist() == [5, 6]
    shop.make = lambda orders: View(sa.select(orders).where(orders.c.amount > 5))
    assert shop.reasons()["work.make"] == "query changed"
    assert shop.seen[-1]["amount"].tolist() == [6]


def test_what_a_view_reads_stays_as_long_as_the_view_and_nobody_is_warned(
    full: ConfigContext, query: Query, caplog: pytest.LogCaptureFixture
) -> None:
    shop = view(full)
    shop.run()
    store = full.store.table_store
    first = store.current(["raw"])["raw"].tables["orders"].physical
    for number in range(2, 6):  # the same content each time: the view stays, the table is another one
        shop.generation = number
        with caplog.at_level(logging.WARNING, "pipedag_dagster"):
            shop.run()
    assert "stays for now" not in caplog.text
    assert query("SELECT count(*) FROM full_work.make") == [(2,)]
    there = "SELECT relname FROM pg_class WHERE relnamespace = 'full_raw__versions'::regnamespace AND relkind = 'r'"
    assert (first,) in query(there)
    assert differences(store) == []
    freed = removal.gc(store, "gc")
    assert [line for line in freed.stays if first in line and "needed by view full_work__versions.make_" in line]
    shop.make = lambda orders: sa.select(orders)
    for number in (6, 7, 8):  # until no kept version has the view
        shop.generation, shop.amounts = number, [number]
        shop.run()
    removal.gc(store, "gc")
    assert (first,) not in query(there)
    assert differences(store) == []


def test_views_on_views_in_other_stages_are_dropped_in_the_right_order(full: ConfigContext, query: Query) -> None:
    @materialize(version="1")
    def load() -> pd.DataFrame:
        return pd.DataFrame({"amount": [3, 1, 2]})

    @materialize(lazy=True, input_type=sa.Table)
    def first(orders: Any) -> View:
        return View(orders)

    @materialize(lazy=True, input_type=sa.Table)
    def smallest(views: dict[str, Any]) -> View:
        return View([views["a"], views["b"]], columns={"n": "amount"}, sort_by=views["a"].c.amount, limit=3)

    with Flow("shop") as flow:
        with Stage("a"):
            orders = load()
        with Stage("z"):
            view = first(orders)
        with Stage("b"):
            smallest({"a": view, "b": view})
    flow.run(full, fail_fast=True)
    assert query("SELECT n FROM full_b.smallest") == [(1,), (1,), (2,)]
    removal.drop(full.store.table_store)
    assert query("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'full%'") == []


def test_a_failed_run_leaves_no_view_behind(full: ConfigContext, query: Query) -> None:
    shop = view(full)
    shop.run()
    shop.make = lambda orders: {"a": View(orders), "b": View(sa.text("SELECT nothing"))}
    with pytest.raises(UnstorableResult, match=r'work\.make_b: column "nothing" does not exist'):
        shop.run()
    assert query("SELECT count(*) FROM full_work.make") == [(2,)]
    shop.make = View
    shop.run()  # and cleans up
    assert differences(full.store.table_store) == []


def test_what_a_view_cannot_be_is_refused(full: ConfigContext) -> None:
    for make, message in (
        (
            lambda orders: Table(View(orders), primary_key="id"),
            "primary_key, indexes, types or columns",
        ),
        (lambda orders: View(pd.DataFrame({"x": [1]})), r"View\(…\) for work\.make of DataFrame"),
        (lambda orders: View([orders, "x"]), "str cannot be combined"),
        (lambda orders: View(orders, columns=["nothing"]), "nothing"),
        (lambda orders: View(sa.text("SELECT * FROM full_raw.orders")), "by name, which is another table after each"),
    ):
        with pytest.raises(UnstorableResult, match=message):
            Shop(full, make).run()


def test_a_view_of_another_instance_is_refused(instances: Instances) -> None:
    config = instances()

    @materialize(version="1", input=True, outputs=["orders"])
    def load() -> pd.DataFrame:
        return pd.DataFrame({"amount": [1]})

    @input_stage_versions(lazy=True, input_type=sa.Table, outputs=["orders"])
    def copy(tables: Any, source: Any, config: Any) -> Any:
        return {"orders": View(source["orders"])}

    with Flow("shop") as flow, Stage("raw"):
        load()
    flow.run(config.get("full"), fail_fast=True)
    with Flow("shop") as flow, Stage("raw"):
        copy(config.get("full"))
    with pytest.raises(UnstorableResult, match=r"belongs to another instance .*Return a Table"):
        flow.run(config.get("midi"), fail_fast=True)


def test_a_view_is_sampled_like_a_table(instances: Instances) -> None:
    config = instances()

    @materialize(input=True, lazy=True)
    def load() -> dict[str, Any]:
        return {"v": View(sa.text("SELECT generate_series(1, 9) AS x")), "model": Blob("m")}

    with Flow("shop") as flow, Stage("raw"):
        made = load()
    flow.run(config.get("full"), fail_fast=True)
    with StageLockContext():
        result = flow.run(config.get("midi"), fail_fast=True)
        assert (len(result.get(made)["v"]), result.get(made)["model"]) == (2, "m")


def test_two_scripts_that_make_one_table_are_refused(full: ConfigContext) -> None:
    @materialize(lazy=True)
    def make(number: int) -> RawSql:
        return RawSql(f"CREATE TABLE t AS SELECT {number} AS x")

    with Flow() as flow, Stage("raw"):
        make(1), make(2)
    with pytest.raises(TaskFailed, match=r"two tables 't': one by 'make' and one by 'make_2'"):
        flow.run(full, fail_fast=True)


COMMENTS = """
    SELECT obj_description('full_work.t'::regclass, 'pg_class'), col_description('full_work.t'::regclass, 1),
        col_description('full_work.t'::regclass, 2)
"""


def test_comments_on_what_a_script_makes_and_on_its_views_survive_commits(full: ConfigContext, query: Query) -> None:
    text = "CREATE TABLE t AS SELECT 1 AS x, 2 AS y; COMMENT ON COLUMN t.x IS 'it''s 100% :x'"
    shop = script(text)(full)
    shop.run()
    assert query(COMMENTS) == [(None, "it's 100% :x", None)]
    query("COMMENT ON VIEW full_work.t IS 'One row'")
    query("COMMENT ON COLUMN full_work.t.y IS 'Two'")
    shop.make = lambda _: RawSql(text.replace("2 AS y", "3 AS y"))
    shop.run()
    assert query("SELECT y FROM full_work.t") == [(3,)]
    assert query(COMMENTS) == [("One row", "it's 100% :x", "Two")]
