"""Stages that a stage run needs although none of its tasks takes their tables: they are read as the run sees them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipedag_dagster import Flow, PipedagConfig, Stage, Table, input_stage_versions, materialize
from pipedag_dagster.checks import references
from pipedag_dagster_tests.helpers import Instances


@materialize(input=True, outputs=["customers"], version="1.0")
def load() -> Any:
    return Table(pd.DataFrame({"id": [1, 2]}), primary_key="id")


@materialize(input=True, outputs=["orders"], version="1.0", checks=[references("customer", "raw.customers.id")])
def load_orders() -> Any:
    return Table(pd.DataFrame({"id": [1, 2, 3], "customer": [1, 2, 1]}), primary_key="id")


@materialize(version="1.0")
def clean(table: pd.DataFrame) -> Any:
    return Table(table)


@materialize(version="1.0", checks=[references("id", "raw.customers.id")])
def report(table: pd.DataFrame) -> Any:
    return Table(pd.concat([table, pd.DataFrame({"id": [3]})]), "report")


def test_a_check_refers_to_a_stage_that_is_read_by_way_of_another_one(config: PipedagConfig) -> None:
    with Flow() as flow:
        with Stage("raw"):
            customers = load()
        with Stage("clean"):
            cleaned = clean(customers)
        with Stage("report"):
            report(cleaned)
    (check,) = flow.run(config=config.get("full"), fail_fast=True).checks
    assert check.description == "1 of 3 rows with a id that raw.customers does not have: id=3"


@input_stage_versions(input_type=pd.DataFrame)
def committed_rows(tables: dict[str, pd.DataFrame], committed: dict[str, pd.DataFrame]) -> Any:
    return Table(pd.DataFrame({"name": [*committed], "rows": [len(each) for each in committed.values()]}), "rows")


def test_a_task_gets_the_committed_version_of_another_stage(config: PipedagConfig) -> None:
    with Flow() as flow:
        with Stage("raw") as raw:
            load()
        with Stage("report"):
            rows = committed_rows(stage=raw)
    result = flow.run(config=config.get("full"), fail_fast=True)
    assert result.get(rows).to_dict("records") == [{"name": "customers", "rows": 2}]


def test_a_relation_to_a_stage_that_is_read_by_way_of_another_one_is_checked_in_samples(instances: Instances) -> None:
    config = instances(
        midi="""
attrs: {copy_filtered_input: true, copy_source: full}
sample:
  relations: [orders.orders.customer -> raw.customers.id]
  tables: {raw.customers: parents, orders.orders: all}
"""
    )
    results = {}
    for name in ("full", "midi"):
        with Flow() as flow:
            with Stage("raw"):
                customers = load()
            with Stage("clean"):
                cleaned = clean(customers)
            with Stage("orders"):
                load_orders()
                clean(cleaned)
        results[name] = flow.run(config=config.get(name), fail_fast=True)
    (check,) = [check for check in results["midi"].checks if check.check_name == "sample_references"]
    assert check.description == "no broken reference among 3 rows"
