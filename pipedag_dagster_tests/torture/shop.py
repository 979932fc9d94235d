"""A small pipeline of two stages, and what its tables must hold: the reference that the database is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import sqlalchemy as sa

from pipedag_dagster import Flow, PipedagConfig, Result, Stage, Table, materialize

Tables = dict[str, list[tuple[int, ...]]]
"""The rows of each table, sorted."""

STAGES = ("raw", "report")
SAMPLE = 2
"""midi copies the rows up to this id."""

MIDI = f"""
attrs: {{copy_filtered_input: true, copy_source: full}}
sample: {{tables: {{orders: {{where: id <= {SAMPLE}}}, ids: {{where: id <= {SAMPLE}}}}}}}
"""


@dataclass(frozen=True)
class World:
    """What a run's result depends on: the rows of the source, and the version of the code.

    midi copies the rows with `head` alone: it does not notice when `tail` changes.
    """

    head: int = 1
    tail: int = 1
    code: int = 1

    def source(self) -> list[tuple[int, int]]:
        return [(id, self.head if id <= SAMPLE else self.tail) for id in range(1, 5)]


def raw_tables(rows: Sequence[tuple[int, ...]]) -> Tables:
    return {"orders": list(rows), "ids": [(id,) for id, *_ in rows]}


def report_tables(raw: Tables, code: int) -> Tables:
    orders = raw["orders"]
    return {
        "scaled": [(id, amount * code) for id, amount in orders],
        "total": [(sum(amount for _, amount in orders),)],
        "rows": [(len(raw["ids"]),)],
    }


class Broken(Exception):
    """A task that fails on purpose."""


def flow(world: World, broken: str | None = None, ran: list[str] | None = None) -> Flow:
    """The pipeline in this world. The task `broken` fails; the names of tasks that run are appended to `ran`."""

    def begin(task: str) -> None:
        if ran is not None:
            ran.append(task)
        if task == broken:
            raise Broken(task)

    @materialize(input=True, outputs=["orders", "ids"], version="1", cache=lambda: repr(world.source()))
    def load() -> tuple[Table, Table]:
        begin("load")
        orders = pd.DataFrame(world.source(), columns=["id", "amount"])
        return Table(orders, primary_key="id"), Table(orders[["id"]], primary_key="id")

    @materialize(version=str(world.code))
    def scaled(orders: pd.DataFrame) -> pd.DataFrame:
        begin("scaled")
        return orders.assign(amount=orders["amount"] * world.code)

    @materialize(lazy=True, input_type=sa.Table)
    def total(orders: Any) -> Any:
        return sa.select(sa.func.sum(orders.c.amount).cast(sa.BigInteger).label("total"))

    @materialize(version="1")
    def rows(ids: pd.DataFrame) -> pd.DataFrame:
        begin("rows")
        return pd.DataFrame({"n": [len(ids)]})

    with Flow("shop") as made:
        with Stage("raw"):
            orders, ids = load()
        with Stage("report"):
            scaled(orders)
            total(orders)
            rows(ids)
    return made


def run(config: str, instance: str, world: World, broken: str | None = None, ran: list[str] | None = None) -> Result:
    """Run an instance in this process; what goes wrong is in the result."""
    return flow(world, broken, ran).run(PipedagConfig(config).get(instance), fail_fast=False)
