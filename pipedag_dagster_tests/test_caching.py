"""A task runs only when its result could differ (design D3), and the run says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Result, Stage, Table, materialize
from pipedag_dagster.config import CacheMode
from pipedag_dagster.errors import FreshInput, TaskFailed
from pipedag_dagster.stage_run import run_stage

Instances = Callable[..., PipedagConfig]


@dataclass
class Shop:
    """A pipeline whose outside world, code and queries a test can change between runs."""

    config: ConfigContext
    rows: list[int] = field(default_factory=lambda: [3, 1, 2])
    fresh: Any = "monday"
    load_version: str | None = "1.0"
    clean_version: str = "1.0"
    factor: int = 2
    where: int = 0
    ran: list[str] = field(default_factory=list)

    def flow(self) -> Flow:
        @materialize(outputs=["orders"], cache=lambda: self.fresh, version=self.load_version)
        def load() -> pd.DataFrame:
            self.ran.append("load")
            return pd.DataFrame({"amount": self.rows})

        @materialize(lazy=True, input_type=sa.Table)
        def large(orders: sa.Alias) -> sa.Select[Any]:
            return sa.select(orders).where(orders.c.amount > self.where)

        @materialize(version=self.clean_version)
        def total(large: pd.DataFrame, factor: int) -> pd.DataFrame:
            self.ran.append("total")
            return pd.DataFrame({"total": [int(large["amount"].sum()) * factor]})

        @materialize(version="1.0")
        def report(total: pd.DataFrame) -> pd.DataFrame:
            self.ran.append("report")
            return total

        with Flow("shop") as flow:
            with Stage("raw"):
                orders = load()
            with Stage("report"):
                report(total(large(orders), self.factor))
        return flow

    def run(self, **options: Any) -> dict[str, str]:
        """Run it; what was done about each table."""
        self.ran.clear()
        result = self.flow().run(self.config, fail_fast=True, **options)
        return reasons(result)


def reasons(result: Result) -> dict[str, str]:
    return {record.asset: record.reason for record, _ in result.tables}


@pytest.fixture
def shop(instances: Instances) -> Shop:
    shop = Shop(instances().get("full"))
    shop.run()
    assert shop.ran == ["load", "total", "report"]
    return shop


CACHED = dict.fromkeys(("orders", "large", "total", "report"), "cached")


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
        assert {outcome.reason for outcome in result.outcomes} == {"cached"}
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
    assert shop.run()["total"] == "argument changed: factor"


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


def test_a_cache_function_that_fails_is_named(instances: Instances) -> None:
    def newest() -> str:
        raise OSError("no network")

    @materialize(cache=newest, version="1")
    def load() -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    with Flow("f") as flow, Stage("raw"):
        load()
    with pytest.raises(TaskFailed, match=r"raw\.load: its cache function newest\(\) failed: OSError: no network"):
        flow.run(instances().get("full"), fail_fast=True)


# The modes, when nothing has changed, when the cache function says that the input is fresh, and when the version of
# a task that reads the input has changed. `orders`: the task with the cache function and a version. `large`: lazy.
MODES: dict[tuple[str, bool, bool], tuple[str, str, str]] = {
    # mode, disable_cache_function, ignore_task_version: which of load and total run
    ("normal", False, False): ("", "load", "load"),
    ("ignore_fresh_input", False, False): ("", "", "load"),
    ("force_fresh_input", False, False): ("load", "load", "load"),
    ("force_cache_invalid", False, False): ("load total report", "load total report", "load total report"),
    ("normal", True, False): ("", "", "load"),
    ("normal", False, True): ("load total report", "load total report", "load total report"),
}


@pytest.mark.parametrize(("mode", "no_function", "no_version"), MODES)
@pytest.mark.parametrize(("change", "case"), [("nothing", 0), ("fresh input", 1), ("version", 2)])
def test_each_mode_runs_what_it_says(
    shop: Shop, mode: str, no_function: bool, no_version: bool, change: str, case: int
) -> None:
    if change == "fresh input":
        shop.fresh = "tuesday"
    if change == "version":
        shop.load_version = "2.0"
    shop.run(cache_validation_mode=mode, disable_cache_function=no_function, ignore_task_version=no_version)
    assert " ".join(shop.ran) == MODES[mode, no_function, no_version][case]


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
    flow(4).run(full, fail_fast=True)
    with pytest.raises(FreshInput, match=r"full: raw\.orders"):
        flow(4).run(mini, fail_fast=True, cache_validation_mode="assert_no_fresh_input")
    assert reasons(flow(4).run(mini)) == {"orders": "input changed: full: raw.orders"}
