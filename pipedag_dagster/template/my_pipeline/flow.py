"""The pipeline: plain Python, without Dagster."""

from typing import Any

import pandas as pd
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, Stage, Table, materialize
from pipedag_dagster.checks import references


@materialize(
    input=True,
    outputs=["customers", "orders"],
    version="1.0",
    checks={"orders": [references("customer", "raw.customers.id")]},  # samples follow it
)
def load() -> tuple[Table, Table]:
    """Read the sources. Small instances do not run this: they copy a sample from full."""
    customers = pd.DataFrame({"id": range(100), "name": [f"customer {i}" for i in range(100)]})
    orders = pd.DataFrame({"id": range(1000), "customer": [i * 7 % 100 for i in range(1000)], "amount": 9.5})
    return Table(customers, primary_key="id"), Table(orders, primary_key="id")


@materialize(lazy=True, input_type=sa.Table)
def revenue(orders: sa.Alias) -> sa.Select[Any]:
    """A query: it runs inside the database."""
    return sa.select(orders.c.customer, sa.func.sum(orders.c.amount).label("revenue")).group_by(orders.c.customer)


@materialize(input_type=pd.DataFrame)
def ranking(revenue: pd.DataFrame) -> Table:
    """A DataFrame function."""
    return Table(revenue.sort_values(["revenue", "customer"], ascending=[False, True]), primary_key="customer")


def build(instance: ConfigContext) -> Flow:
    """The same wiring for every instance. If it must differ, use `instance.attrs`."""
    with Flow("my_pipeline") as flow:
        with Stage("raw"):
            _, orders = load()
        with Stage("report"):
            ranking(revenue(orders))
    return flow
