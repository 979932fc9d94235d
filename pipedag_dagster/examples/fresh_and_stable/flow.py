"""A file of orders that somebody else writes, and a report on it.

Nobody can tell whether code or data has changed a result when both change at once. So there are two full instances:
`full_fresh` takes new orders in with every run; `full`, from which `midi` and `mini` sample, only when it is told to.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pandas as pd
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, Stage, Table, materialize


def orders_file() -> Path:
    """The file that the outside world writes: `$SHOP_ORDERS`, else orders.csv."""
    return Path(os.environ.get("SHOP_ORDERS", "orders.csv"))


def content_of_file() -> str:
    """A hash of the file. It is not Python's hash(), which differs from process to process."""
    return hashlib.sha256(orders_file().read_bytes()).hexdigest()


@materialize(input=True, outputs=["orders"], cache=content_of_file)
def load() -> Table:
    """Read the orders."""
    return Table(pd.read_csv(orders_file()), primary_key="id")


@materialize(lazy=True, input_type=sa.Table)
def revenue(orders: sa.Alias) -> sa.Select[tuple[str, int]]:
    """The total of each customer."""
    total = sa.func.sum(orders.c.amount).label("revenue")
    return sa.select(orders.c.customer, total).group_by(orders.c.customer)


def build(instance: ConfigContext) -> Flow:
    """The same wiring for every instance."""
    with Flow("shop") as flow:
        with Stage("raw"):
            orders = load()
        with Stage("report"):
            revenue(orders)
    return flow
