"""Lazy tasks of polars: their plan is compared, and collected only when it is another one."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from pipedag_dagster import ConfigContext, Flow, Stage, Table, materialize
from pipedag_dagster.data import frames
from pipedag_dagster.fingerprint.code_text import difference
from pipedag_dagster_tests.helpers import Instances

Function = Callable[..., Any]

PLAIN = "orders.filter(pl.col('amount') > 1)"


@dataclass
class Project:
    """A flow of two inputs and one lazy task of polars, whose expression and data a test can change."""

    folder: Path
    config: ConfigContext
    amounts: tuple[int, ...] = (1, 2, 3)
    double: str = "x * 2"

    def flow(self, expression: str) -> Flow:
        sys.modules.pop("polars_code", None)
        (self.folder / "polars_code.py").write_text(
            "import polars as pl\nfrom pipedag_dagster import Table, materialize\n\n"
            f"def double(x):\n    return {self.double}\n\n"
            "@materialize(lazy=True, input_type=pl.LazyFrame)\n"
            f"def large(orders, others):\n    return {expression}\n"
        )
        importlib.invalidate_caches()
        large = importlib.import_module("polars_code").large

        @materialize(version=repr(self.amounts))
        def orders() -> pd.DataFrame:
            return pd.DataFrame({"id": range(len(self.amounts)), "amount": self.amounts})

        @materialize(version="1")
        def others() -> pd.DataFrame:
            return pd.DataFrame({"id": [1, 2], "amount": [7, 8]})

        with Flow("shop") as flow:
            with Stage("raw"):
                inputs = orders(), others()
            with Stage("report"):
                large(*inputs)
        return flow

    def run(self, expression: str = PLAIN, **options: Any) -> tuple[str, list[tuple[Any, ...]]]:
        """Why the lazy task ran, and the rows of its table."""
        flow = self.flow(expression)
        result = flow.run(self.config, fail_fast=True, **options)
        reason = next(str(run.reason) for run, table in result.tables if table.asset == "large")
        store = self.config.store.table_store
        table = store.current(["report"])["report"].tables["large"]
        return reason, store.read(table, pl.DataFrame).rows()


@pytest.fixture
def project(instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Project(tmp_path, instances().get("full"))
    sys.modules.pop("polars_code", None)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements by which tables are read."""
    seen: list[str] = []
    read = frames.read

    def spy(uri: str, sql: str) -> Any:
        seen.append(sql)
        return read(uri, sql)

    monkeypatch.setattr(frames, "read", spy)
    return seen


def test_an_equal_plan_is_not_collected_and_reads_no_data(project: Project, read: list[str]) -> None:
    assert project.run() == ("new", [(1, 2), (2, 3)])
    read.clear()
    assert project.run("orders.filter(\n        (pl.col('amount') > 1)  # large\n    )")[0] == "cached"
    assert [sql for sql in read if not sql.endswith("LIMIT 0")][:-1] == []  # but for the test's own


@pytest.mark.parametrize(
    "other",
    [
        "orders.filter(pl.col('amount') > 2)",
        "others.filter(pl.col('amount') > 1)",
        "orders.filter(pl.col('amount').is_in([2, 3] + list(range(100, 200))))",
        "orders.filter(pl.col('amount') > 1).join(others, on='id')",
        "orders.filter(pl.col('amount') > 1).join(pl.LazyFrame({'id': [1]}), on='id')",
        "Table(orders.filter(pl.col('amount') > 1), primary_key='id')",
    ],
)
def test_another_plan_runs(project: Project, other: str) -> None:
    project.run()
    assert project.run(other)[0] == "query changed"
    assert project.run(other)[0] == "cached"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("orders.join(others, on='id')", "others.join(orders, on='id')"),
        (
            "orders.filter(pl.col('amount').is_in(list(range(100))))",
            "orders.filter(pl.col('amount').is_in([*range(50), 999, *range(51, 100)]))",
        ),
        (
            "orders.join(pl.LazyFrame({'id': [1, 2], 'x': [1, 2]}), on='id')",
            "orders.join(pl.LazyFrame({'id': [1, 2], 'x': [1, 3]}), on='id')",
        ),
    ],
    ids=["inputs of the same shape", "an item of a long list", "a value in a frame of its own"],
)
def test_what_polars_does_not_print_counts_too(project: Project, one: str, two: str) -> None:
    project.run(one)
    assert project.run(two)[0] == "query changed"


def test_other_input_runs_it_again_and_only_what_the_plan_mentions_counts(project: Project) -> None:
    project.run()
    project.amounts = (1, 2, 3, 4)
    assert project.run() == ("input changed: raw.orders", [(1, 2), (2, 3), (3, 4)])
    project.run("others.select('id')")
    project.amounts = (5,)
    assert project.run("others.select('id')")[0] == "cached"


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("orders.with_columns(pl.col('amount').map_elements(double, return_dtype=pl.Int64))", "double()"),
        ("orders.map_batches(double)", "double()"),
        ("orders.select(pl.all().name.map(double))", "double()"),
        ("orders.filter(pl.lit(double(1)) == orders.collect().height - 1)", "double()"),
        ("orders.filter(pl.col('amount') > double(1)).collect()", "double()"),
    ],
    ids=["of elements", "of batches", "of names", "data is looked at", "data is returned"],
)
def test_where_a_plan_does_not_tell_all_the_code_counts_as_that_of_any_task(
    project: Project, code: str, changed: str
) -> None:
    project.run(code)
    assert project.run(code)[0] == "cached"
    project.double = "x + x"
    assert project.run(code)[0] == f"code changed ({changed})"


def test_the_difference_of_two_plans_can_be_shown(project: Project) -> None:
    project.run()
    project.run("orders.filter(pl.col('amount') > 2)")
    store = project.config.store.table_store
    run = store.records.runs("report", "large", 1)[0]
    diff = difference(store.records.text(run.old_text), store.records.text(run.new_text)).splitlines()
    assert '-FILTER col("amount") > 1' in diff
    assert '+FILTER col("amount") > 2' in diff


def test_a_plan_is_the_same_in_every_process() -> None:
    program = (
        "import hashlib, polars as pl; from pipedag_dagster.data import polars_plans; "
        "f = pl.LazyFrame({'id': [1], 'x': ['a']}); "
        "f = f.filter(pl.col('x').is_in(['a', 'b'])).group_by('id').agg(pl.all().first()).join(f, on='id'); "
        "print(hashlib.sha256(polars_plans.serialized(f.sort('id'))).hexdigest())"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=environment | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_a_plan_that_is_wrong_fails_the_task(project: Project) -> None:
    with pytest.raises(Exception, match=r"report\.large failed: ColumnNotFoundError"):
        project.run("orders.select('nothing')")


def test_a_lazy_frame_without_inputs(instances: Instances) -> None:
    def flow(value: int) -> Flow:
        @materialize(lazy=True)
        def made() -> Table:
            return Table(pl.LazyFrame({"x": [value]}).with_columns(y=pl.col("x") + 1), primary_key="x")

        with Flow("f") as flow, Stage("raw"):
            made()
        return flow

    config = instances().get("full")

    def reason(value: int) -> str:
        ((run, _),) = flow(value).run(config, fail_fast=True).tables
        return str(run.reason)

    assert [reason(value) for value in (1, 1, 2)] == ["new", "cached", "query changed"]
