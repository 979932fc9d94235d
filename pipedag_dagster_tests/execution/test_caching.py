"""A task runs only when its result could differ, and the run says why."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from pipedag_dagster import ConfigContext, Flow, Stage, Table, input_stage_versions, materialize
from pipedag_dagster.cli.main import cli
from pipedag_dagster.config.instances import CacheMode
from pipedag_dagster.errors import FreshInput, TaskFailed
from pipedag_dagster.execution.cache_key import CacheWarning
from pipedag_dagster.execution.stage_run import run_stage
from pipedag_dagster.orchestration.definitions import define
from pipedag_dagster_tests.helpers import Instances, new_database, write_instances
from pipedag_dagster_tests.helpers.changing_shop import CACHED, Shop, reasons


@pytest.fixture(scope="module")
def after_a_run(server_url: sa.URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database in which the shop has run."""
    with new_database(server_url) as url:
        shop = Shop(write_instances(tmp_path_factory.mktemp("shop"), url).get("full"))
        shop.run()
        assert shop.ran == ["load", "total", "report"]
        shop.config.store.table_store.database.close()
        assert url.database is not None
        yield url.database


@pytest.fixture
def database_template(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("after_a_run") if "shop" in request.fixturenames else None


@pytest.fixture
def shop(instances: Instances) -> Shop:
    """The shop after a run: its database is a copy of `after_a_run`."""
    return Shop(instances().get("full"))


def test_the_first_run_says_that_everything_is_new(instances: Instances) -> None:
    assert set(Shop(instances().get("full")).run().values()) == {"new"}


def test_a_second_run_runs_no_task_and_commits_nothing(shop: Shop) -> None:
    store = shop.config.store.table_store
    before = store.current(["raw", "report"])
    assert shop.run() == CACHED
    assert shop.ran == []
    assert store.current(["raw", "report"]) == before


def test_a_run_that_had_to_wait_for_another_one_finds_its_work_cached(shop: Shop) -> None:
    store = shop.config.store.table_store
    store.pin("the one that waits", ["raw", "report"])
    shop.fresh, shop.rows = "tuesday", [5]
    shop.run()
    committed = store.current(["raw", "report"])
    shop.ran.clear()
    for stage in shop.flow().stages:
        result = run_stage(shop.config, stage, "the one that waits")
        assert {str(outcome.reason) for outcome in result.outcomes} == {"cached"}
    assert shop.ran == []
    assert store.current(["raw", "report"]) == committed


def test_a_view_that_somebody_has_dropped_is_back_after_the_next_run(shop: Shop) -> None:
    with shop.config.store.table_store.database.begin() as connection:
        connection.execute(sa.text("DROP VIEW full_raw.orders"))
    assert shop.run() == CACHED
    with shop.config.store.table_store.database.read() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM full_raw.orders")) == 3


def test_another_version_reruns_the_task_and_equal_content_stops_the_change_there(shop: Shop) -> None:
    shop.clean_version = "1.1"
    assert shop.run() == CACHED | {"total": "code changed (1.0 → 1.1)"}
    assert shop.ran == ["total"]


def test_fresh_input_with_equal_content_stops_at_the_input_across_stages(shop: Shop) -> None:
    shop.fresh = "tuesday"
    assert shop.run() == CACHED | {"orders": "fresh input"}
    assert shop.ran == ["load"]


def test_fresh_input_with_other_content_reaches_all_that_depends_on_it(shop: Shop) -> None:
    shop.fresh, shop.rows = "tuesday", [5]
    assert shop.run() == {
        "orders": "fresh input",
        "large": "input changed: raw.orders",
        "total": "input changed: report.large",
        "report": "input changed: report.total",
    }


def test_the_order_of_the_rows_of_a_dataframe_is_content(shop: Shop) -> None:
    shop.fresh, shop.rows = "tuesday", [1, 2, 3]
    assert shop.run()["large"] == "input changed: raw.orders"


def test_but_a_table_made_by_a_query_has_no_order(shop: Shop) -> None:
    shop.fresh, shop.rows = "tuesday", [1, 2, 3]
    assert shop.run()["total"] == "cached"


def test_a_lazy_task_is_as_new_as_its_query(shop: Shop) -> None:
    shop.where = -1
    assert shop.run() == CACHED | {"large": "query changed"}
    shop.where = 1
    assert shop.run() == CACHED | {
        "large": "query changed",
        "total": "input changed: report.large",
        "report": "input changed: report.total",
    }


def test_an_argument_counts(shop: Shop) -> None:
    shop.factor = 3
    assert shop.run()["total"] == "argument changed (factor)"


def test_going_back_to_what_was_before_finds_it_in_the_catalog(shop: Shop) -> None:
    shop.factor = 3
    shop.run()
    shop.factor = 2
    assert shop.run() == CACHED
    assert shop.ran == []


def test_what_a_failed_run_has_staged_is_used_by_the_next_one(instances: Instances) -> None:
    ran: list[str] = []
    broken = True

    @materialize(version="1")
    def first() -> pd.DataFrame:
        ran.append("first")
        return pd.DataFrame({"x": [1]})

    @materialize(version="1")
    def second(first: pd.DataFrame) -> pd.DataFrame:
        ran.append("second")
        if broken:
            raise RuntimeError("not today")
        return first

    with Flow("resume") as flow, Stage("work"):
        second(first())

    config = instances().get("full")
    assert not flow.run(config).successful
    broken = False
    assert flow.run(config).successful
    assert ran == ["first", "second", "second"]


def test_a_task_that_leaves_the_flow_takes_its_table_with_it(shop: Shop) -> None:
    @materialize(outputs=["orders"], cache=lambda: shop.fresh, version="1.0")
    def load() -> pd.DataFrame:
        raise AssertionError("cached")

    @materialize(version="1")
    def other() -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    with Flow("shop") as smaller:
        with Stage("raw"):
            load()
        with Stage("report"):
            other()
    smaller.run(shop.config, fail_fast=True)
    assert set(shop.config.store.table_store.current(["report"])["report"].tables) == {"other"}


def test_the_cache_function_gets_the_arguments_that_it_names(instances: Instances) -> None:
    seen: list[Any] = []

    def newest(path: str) -> str:
        seen.append(path)
        return path

    @materialize(cache=newest, version="1")
    def load(path: str, retries: int) -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    with Flow("f") as flow, Stage("raw"):
        load("orders.csv", retries=3)
    flow.run(instances().get("full"), fail_fast=True)
    assert seen == ["orders.csv"]


def load_with(cache: Callable[..., Any], **options: Any) -> Flow:
    """A flow of one task, `raw.load`, with this cache function."""

    @materialize(cache=cache, version="1", **options)
    def load() -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    with Flow("f") as flow, Stage("raw"):
        load()
    return flow


def test_a_cache_function_that_fails_is_named_with_its_place_and_what_went_wrong(instances: Instances) -> None:
    def newest() -> str:
        raise OSError("no network")

    with pytest.raises(
        TaskFailed, match=r"raw\.load: its cache function newest\(\) failed: OSError: no network"
    ) as error:
        load_with(newest).run(instances().get("full"), fail_fast=True)
    assert f"({__file__}:{newest.__code__.co_firstlineno})" in str(error.value)
    assert isinstance(error.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("value", "says"),
    [(object(), "a object has no content that is the same"), (str(object()), "address of an object in memory")],
    ids=["an object", "its text"],
)
def test_what_a_cache_function_returns_must_be_the_same_in_every_process(
    instances: Instances, value: Any, says: str
) -> None:
    def newest() -> Any:
        return value

    with pytest.raises(TaskFailed, match=rf"raw\.load: its cache function newest\(\) cannot be used .*{says}"):
        load_with(newest).run(instances().get("full"), fail_fast=True)


@pytest.mark.parametrize("value", [{"a": {1, 2}}, np.arange(3), pd.DataFrame({"a": [1]}), None, sa.text("SELECT 1")])
def test_but_it_may_be_anything_with_a_stable_content(instances: Instances, value: Any) -> None:
    flow, config = load_with(lambda: value), instances().get("full")
    flow.run(config, fail_fast=True)
    assert reasons(flow.run(config, fail_fast=True)) == {"load": "cached"}


SALTED = hash("the text of a DataFrame")


@pytest.mark.parametrize(
    ("cache", "says"),
    [
        (lambda: hash("text"), r"hash\(\) in .*test_caching\.py:\d+"),
        (lambda: id(SALTED), r"id\(\) in .*test_caching\.py:\d+"),
        (lambda: SALTED, r"hash\(\) in .*test_caching\.py:\d+"),
    ],
    ids=["it calls hash", "it calls id", "a constant that it reads calls hash"],
)
def test_a_cache_function_that_differs_in_every_process_is_warned_of_when_definitions_are_made(
    instances: Instances, cache: Callable[[], int], says: str
) -> None:
    config = instances().get("full")
    with pytest.warns(CacheWarning, match=rf"Task 'load': its cache function <lambda>\(\) uses {says}") as warned:
        define(config, [load_with(cache)])
    (ours,) = (one for one in warned if one.category is CacheWarning)
    assert "hashlib.sha256(text.encode()).hexdigest()" in str(ours.message)
    assert ours.filename == __file__
    assert load_with(cache).run(config).successful


def test_a_hash_method_is_no_salt(instances: Instances, recwarn: pytest.WarningsRecorder) -> None:
    class Key:
        def __hash__(self) -> int:
            return hash("x")

    def newest() -> int:
        return len({Key()})

    define(instances().get("full"), [load_with(newest)])
    assert not [one for one in recwarn if one.category is CacheWarning]


# The code


@dataclass
class Connected:
    connection: Any


def test_one_warning_for_each_task_says_what_cannot_be_fingerprinted_and_what_to_write(instances: Instances) -> None:
    thing, lock = sqlite3.connect(":memory:"), Connected(i for i in "ab")

    @materialize
    def clean() -> Any:
        return thing, lock

    @materialize(version="1.0")
    def pinned() -> Any:
        return thing

    @materialize(lazy=True)
    def query() -> Any:
        return thing

    with Flow("f") as flow, Stage("raw"):
        clean(), clean(), pinned(), query()
    with pytest.warns(CacheWarning) as warned:
        define(instances().get("full"), [flow])
    ours = [one for one in warned if one.category is CacheWarning]
    (message,) = {str(one.message) for one in ours}
    assert message.startswith("Task 'clean': parts of its code cannot be fingerprinted.")
    assert "thing: a sqlite3.Connection" in message
    assert "lock.connection: a generator" in message
    assert '@materialize(version="1.0")' in message
    assert (ours[0].filename, ours[0].lineno) == (__file__, clean.fn.__code__.co_firstlineno)


def test_the_warning_is_seen_when_dagster_loads_the_definitions(instances: Instances, tmp_path: Path) -> None:
    folder = instances().path
    (tmp_path / "warned.py").write_text(
        "import sqlite3\n"
        "import pandas as pd\n"
        "from pipedag_dagster import Flow, Stage, build_definitions, materialize\n\n"
        "SOURCE = sqlite3.connect(':memory:')\n\n"
        "@materialize\n"
        "def load():\n"
        "    return pd.read_sql('SELECT 1', SOURCE)\n\n"
        "def build(instance):\n"
        "    with Flow('f') as flow, Stage('raw'):\n"
        "        load()\n"
        "    return flow\n\n"
        f"full, mini = (build_definitions(build, {str(folder)!r}, instance=name) for name in ('full', 'mini'))\n"
    )
    done = subprocess.run(
        [Path(sys.executable).parent / "dagster", "asset", "list", "-m", "warned", "-a", "full"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warned.py:7: CacheWarning: Task 'load'") == 1
    assert "warned.SOURCE: a sqlite3.Connection" in done.stderr


def test_what_a_task_does_to_a_constant_while_it_runs_is_no_change_of_the_code(instances: Instances) -> None:
    memo: dict[str, int] = {}

    @materialize
    def first() -> pd.DataFrame:
        memo["filled"] = 1
        return pd.DataFrame({"x": [1]})

    @materialize
    def second(first: pd.DataFrame) -> pd.DataFrame:
        return first.assign(memo=str(memo.get("other")))

    def flow() -> Flow:
        with Flow("f") as flow, Stage("raw"):
            second(first())
        return flow

    config = instances().get("full")
    flow().run(config, fail_fast=True)
    memo.clear()  # another process
    assert reasons(flow().run(config, fail_fast=True)) == {"first": "cached", "second": "cached"}
    memo["other"] = 2  # somebody changes it before the run
    assert reasons(flow().run(config, fail_fast=True))["second"].startswith("code changed")


def test_an_option_that_says_which_result_is_which_table_counts(instances: Instances) -> None:
    def flow(*outputs: str) -> Flow:
        @materialize(outputs=outputs, version="1.0")
        def both() -> tuple[pd.DataFrame, pd.DataFrame]:
            return pd.DataFrame({"x": [1]}), pd.DataFrame({"x": [2]})

        with Flow("f") as flow, Stage("raw"):
            both()
        return flow

    config = instances().get("full")
    flow("one", "two").run(config, fail_fast=True)
    again = flow("two", "one").run(config, fail_fast=True)
    assert reasons(again) == dict.fromkeys(("one", "two"), "argument changed (outputs=)")
    store = config.store.table_store
    assert store.read(store.current(["raw"])["raw"].tables["one"])["x"].tolist() == [2]


# Early cutoff: what is made anew and is what it was before stops a change there, whatever it is.


def frame(_: Any, times: int) -> pd.DataFrame:
    return pd.DataFrame({"x": [1, 2]}).assign(y=lambda made: made["x"] * times // times)


def arrow(_: Any, times: int) -> pa.Table:
    return pa.table({"x": [1, 2], "y": [1 * times // times, 2]})


def polars_frame(_: Any, times: int) -> pl.LazyFrame:
    return pl.LazyFrame({"x": [1, 2]}).with_columns(y=pl.col("x") * times // times)


def select(orders: sa.Alias, times: int) -> sa.Select[Any]:
    return sa.select(orders.c.amount, (orders.c.amount * times / times).label("y"))


def text(orders: sa.Alias, times: int) -> sa.TextClause:
    table: Any = orders.original
    name = f'"{table.schema}"."{table.name}"'
    return sa.text(f"SELECT amount, amount * {times} / {times} AS y FROM {name} ORDER BY amount * {times}")


def constrained(_: Any, times: int) -> Table:
    return Table(sa.text(f"SELECT i AS x, i * {times} / {times} AS y FROM generate_series(1, 3) i"), primary_key="x")


@pytest.mark.parametrize("lazy", [False, True], ids=["versioned", "lazy"])
@pytest.mark.parametrize("make", [frame, arrow, polars_frame, select, text, constrained])
def test_a_result_with_equal_content_stops_the_change(
    instances: Instances, make: Callable[[Any, int], Any], lazy: bool
) -> None:
    """In the same stage, in the next one, and at the boundary to another instance."""
    ran: list[str] = []

    def flow(times: int) -> Flow:
        @materialize(outputs=["orders"], input=True, version="1")
        def load() -> Table:
            return Table(pd.DataFrame({"amount": [3, 1, 2]}), primary_key="amount")

        @materialize(outputs=["made"], input=True, input_type=sa.Table, lazy=lazy, version=None if lazy else str(times))
        def step(orders: Any) -> Any:
            return make(orders, times)

        @materialize(version="1")
        def below(made: pd.DataFrame) -> pd.DataFrame:
            ran.append("below")
            return made

        @materialize(version="1")
        def next_stage(made: pd.DataFrame) -> pd.DataFrame:
            ran.append("next_stage")
            return made

        with Flow("f") as flow:
            with Stage("raw"):
                made = step(load())
                below(made)
            with Stage("report"):
                next_stage(made)
        return flow

    files = instances()
    full, midi = files.get("full"), files.get("midi")
    for config in (full, midi):
        flow(1).run(config, fail_fast=True)
    assert ran == ["below", "next_stage"] * 2
    again = reasons(flow(2).run(full, fail_fast=True))
    # What a lazy task returns as data is compared by content at once; of a LazyFrame, the plan is.
    data = lazy and make in (frame, arrow)
    expected = "cached" if data else "query changed" if lazy else "code changed (1 → 2)"
    assert again == {"orders": "cached", "made": expected, "below": "cached", "next_stage": "cached"}
    assert set(reasons(flow(2).run(midi, fail_fast=True)).values()) == {"cached"}
    assert ran == ["below", "next_stage"] * 2


def test_a_sample_that_did_not_change_stops_a_change_of_its_source(instances: Instances) -> None:
    """The source changed: the copy is made anew, and nothing after it runs."""
    ran: list[str] = []

    def flow(rows: int) -> Flow:
        @materialize(outputs=["orders"], input=True, version=str(rows))
        def load() -> Table:
            return Table(pd.DataFrame({"id": range(rows)}), primary_key="id")

        @materialize(version="1")
        def report(orders: pd.DataFrame) -> pd.DataFrame:
            ran.append("report")
            return orders

        with Flow("f") as flow:
            with Stage("raw"):
                orders = load()
            with Stage("report"):
                report(orders)
        return flow

    files = instances()
    for rows in (5, 6):
        for name in ("full", "midi", "mini"):
            done = reasons(flow(rows).run(files.get(name), fail_fast=True))
    assert done == {"orders": "cached", "report": "cached"}
    assert ran == ["report"] * 4  # three instances, and again on full


def test_what_is_too_large_to_hash_counts_as_changed_when_what_it_depends_on_has(
    instances: Instances,
) -> None:
    fresh = {"value": "monday"}

    @materialize(cache=lambda: fresh["value"], version="1")
    def load() -> sa.TextClause:
        return sa.text(f"SELECT '{fresh['value']}' AS day")

    @materialize(version="1")
    def report(load: pd.DataFrame) -> pd.DataFrame:
        return load

    with Flow("f") as flow, Stage("raw"):
        report(load())
    config = instances(any="content_hash_rows: 0\n").get("full")
    flow.run(config, fail_fast=True)
    assert set(reasons(flow.run(config, fail_fast=True)).values()) == {"cached"}
    fresh["value"] = "tuesday"
    assert reasons(flow.run(config, fail_fast=True)) == {"load": "fresh input", "report": "input changed: raw.load"}


def test_a_mode_of_one_run_is_forgotten_by_the_next(shop: Shop) -> None:
    shop.run(cache_validation_mode=CacheMode.force_cache_invalid)
    assert shop.run() == CACHED


def test_ignoring_fresh_input_keeps_it_for_the_next_normal_run(shop: Shop) -> None:
    shop.fresh, shop.rows = "tuesday", [7]
    assert shop.run(cache_validation_mode="ignore_fresh_input") == CACHED
    assert shop.run()["orders"] == "fresh input"


def test_assert_no_fresh_input_refuses_to_read_the_source_again_and_changes_nothing(shop: Shop) -> None:
    store = shop.config.store.table_store
    before = store.current(["raw"])
    assert shop.run(cache_validation_mode="assert_no_fresh_input") == CACHED
    shop.fresh = "tuesday"
    with pytest.raises(FreshInput, match=r"raw\.load would read its source again \(fresh input\)"):
        shop.run(cache_validation_mode="assert_no_fresh_input")
    assert store.current(["raw"]) == before
    assert shop.ran == []


def test_a_task_may_be_allowed_to_take_fresh_input_in(instances: Instances) -> None:
    fresh = {"value": 1}
    flow = load_with(lambda: fresh["value"], allow_fresh_input=True)
    config = instances().get("full")
    flow.run(config, fail_fast=True)
    fresh["value"] = 2
    done = flow.run(config, fail_fast=True, cache_validation_mode="assert_no_fresh_input")
    assert reasons(done) == {"load": "fresh input"}


@pytest.mark.parametrize("by_hand", [False, True])
def test_so_may_a_copy(instances: Instances, by_hand: bool) -> None:
    def flow(config: ConfigContext, rows: int) -> Flow:
        @materialize(input=True, outputs=["orders"], version="1", allow_fresh_input=True)
        def load(rows: int) -> pd.DataFrame:
            return pd.DataFrame({"id": range(rows)})

        @input_stage_versions(input_type=sa.Table, outputs=["orders"], allow_fresh_input=True)
        def copy(_: Any, tables: dict[str, Any], source: ConfigContext) -> dict[str, Any]:
            return {name: sa.select(table) for name, table in tables.items()}

        with Flow("f") as flow, Stage("raw") as stage:
            if by_hand and config.source is not None:
                copy(config.source, stage=stage)
            else:
                load(rows)
        return flow

    files = instances()
    full, mini = files.get("full"), files.get("midi")
    for rows in (1, 2):
        flow(full, rows).run(full, fail_fast=True)
        done = flow(mini, rows).run(mini, fail_fast=True, cache_validation_mode="assert_no_fresh_input")
    assert reasons(done) == {"orders": "input changed: full: raw.orders"}


def test_the_command_line_has_all_three(instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chosen.py").write_text(
        "import pathlib\n"
        "import pandas as pd\n"
        "from pipedag_dagster import Flow, Stage, build_definitions, materialize\n\n"
        "def newest():\n    return pathlib.Path('newest').read_text()\n\n"
        "@materialize(cache=newest, version='1')\ndef load():\n    return pd.DataFrame({'x': [1]})\n\n"
        "def build(instance):\n    with Flow('f') as flow, Stage('raw'):\n        load()\n    return flow\n\n"
        f"full = build_definitions(build, {str(instances().path)!r}, instance='full')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "chosen", raising=False)

    def run(*options: str) -> str:
        done = CliRunner().invoke(cli, ["run", "full", "-m", "chosen", *options])
        return done.output if done.exception is None else str(done.exception)

    Path("newest").write_text("monday")
    assert "new" in run()
    assert "cached" in run()
    assert "forced" in run("--cache-mode", "force_fresh_input")
    assert "forced" in run("--ignore-task-version")
    Path("newest").write_text("tuesday")
    assert "cached" in run("--disable-cache-function")
    assert "--cache-mode normal" in run("--cache-mode", "assert_no_fresh_input")
    assert "fresh input" in run()


def test_so_has_the_launchpad(instances: Instances) -> None:
    called: list[str] = []
    definitions = define(config := instances().get("full"), [load_with(lambda: called.append("called"))])

    def launch(**fields: Any) -> set[str]:
        run_config = {"resources": {"instance": {"config": fields}}}
        with dg.DagsterInstance.ephemeral() as dagster:
            done = definitions.resolve_job_def(config.config.name).execute_in_process(run_config, instance=dagster)
        (event,) = done.asset_materializations_for_node("full__raw")
        return {str(event.metadata["pipedag/reason"].value)}

    assert launch() == {"new"}
    called.clear()
    assert launch(disable_cache_function=True) == {"cached"}
    assert called == []
    assert launch(ignore_task_version=True) == {"forced"}
    assert launch(cache_validation_mode="force_fresh_input") == {"forced"}


def test_the_mode_of_the_configuration_is_the_default(instances: Instances) -> None:
    shop = Shop(instances(full="cache_validation: {mode: force_cache_invalid}").get("full"))
    shop.run()
    shop.run()
    assert shop.ran == ["load", "total", "report"]


def test_a_copied_input_counts_as_fresh_input(instances: Instances) -> None:
    @materialize(input=True, outputs=["orders"], version="1")
    def load(rows: int) -> Table:
        return Table(pd.DataFrame({"id": range(rows)}), primary_key="id")

    def flow(rows: int) -> Flow:
        with Flow("f") as flow, Stage("raw"):
            load(rows)
        return flow

    files = instances()
    full, mini = files.get("full"), files.get("mini")
    flow(3).run(full, fail_fast=True)
    flow(3).run(mini, fail_fast=True)
    assert reasons(flow(3).run(mini)) == {"orders": "cached"}
    flow(40).run(full, fail_fast=True)
    with pytest.raises(FreshInput, match=r"full: raw\.orders"):
        flow(40).run(mini, fail_fast=True, cache_validation_mode="assert_no_fresh_input")
    assert reasons(flow(40).run(mini)) == {"orders": "input changed: full: raw.orders"}
