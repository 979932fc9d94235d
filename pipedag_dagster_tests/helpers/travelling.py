"""Tasks that run on threads, in processes or on Dask: a flow with everything that a task can take and return."""

from __future__ import annotations

import datetime
import decimal
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import sqlalchemy as sa

from pipedag_dagster import (
    Blob,
    ConfigContext,
    Flow,
    RawSql,
    Stage,
    Table,
    View,
    input_stage_versions,
    materialize,
)

log = logging.getLogger("shop")


@dataclass(frozen=True)
class Rate:
    """A value of the user's own class."""

    day: datetime.date
    rate: decimal.Decimal


class Model:
    """Something for a blob."""

    def __init__(self, factor: int) -> None:
        self.factor = factor


@materialize(outputs=["orders"], input=True)
def orders() -> Table:
    return Table(pd.DataFrame({"id": [1, 2, 3], "amount": [10, 20, 30]}), primary_key="id", indexes=[["amount"]])


@materialize(input_type=pd.DataFrame)
def frames(orders: pd.DataFrame, rate: Rate) -> dict[str, Any]:
    of_polars = pl.DataFrame({"id": [1], "rate": [float(rate.rate)]})
    return {"pandas": orders.assign(day=rate.day), "rates": [of_polars, rate], "model": Blob(Model(3))}


@materialize(input_type=sa.Table)
def queries(orders: sa.Alias, frames: dict[str, Any]) -> tuple[Table, View, Table]:
    big = sa.select(orders).where(orders.c.amount > 10)
    return (
        Table(big, "big_orders"),
        View(sa.select(orders.c.id), "ids"),
        Table(sa.select(frames["pandas"].c.day), "days_%%"),
    )


@materialize(input_type=sa.Table)
def script(orders: sa.Alias) -> RawSql:
    return RawSql("CREATE TABLE counted AS SELECT count(*) AS n FROM {orders}")


@materialize(input_type=sa.Table)
def in_steps(orders: sa.Alias) -> Table:
    first = Table(sa.select(orders.c.id), "first_step").materialize()
    return Table(sa.select(sa.func.count().label("n")).select_from(first), "second_step")


@materialize(input_type=Iterator[pa.Table])
def streamed(orders: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield from orders


@materialize
def about(instance: ConfigContext, model: Model) -> dict[str, Any]:
    current = ConfigContext.get()
    rows = current.store.table_store.execute("SELECT 1 + 1").scalar()
    return {"name": current.instance_name, "given": instance.instance_name, "rows": rows, "factor": model.factor}


@input_stage_versions(input_type=pd.DataFrame)
def compared(tables: dict[str, pd.DataFrame], committed: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.DataFrame({"name": sorted(tables), "committed": [name in committed for name in sorted(tables)]})


def everything(instance: ConfigContext) -> Flow:
    """A flow of all these tasks."""
    with Flow("everything") as flow:
        with Stage("raw"):
            raw = orders()
        with Stage("work"):
            made = frames(raw, Rate(datetime.date(2024, 2, 29), decimal.Decimal("1.10")))
            queries(raw, made)
            script(raw)
            in_steps(raw)
            streamed(raw)
            about(instance, made["model"])
            compared()
    return flow


@materialize(resources={"gpu": 1})
def needs_a_gpu() -> pd.DataFrame:
    return pd.DataFrame({"process": [os.getpid()]})


# What goes wrong


@materialize
def fails() -> None:
    raise FileNotFoundError(2, "there is no file", "orders.csv")


@materialize
def exits() -> None:
    raise SystemExit(3)


class Odd(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, number: int, *, text: str) -> None:
        super().__init__(f"{number}: {text}")
        self.log = open(os.devnull)  # noqa: SIM115, PTH123


@materialize
def odd() -> None:
    raise Odd(1, text="strange")


@materialize
def unstorable() -> pd.DataFrame:
    return pd.DataFrame({"x": [object()]})


def failing() -> Flow:
    """A flow whose tasks fail in different ways."""
    with Flow("failing") as flow, Stage("work"):
        fails()
        exits()
        odd()
        unstorable()
    return flow


# What is shown


@materialize
def talks() -> pd.DataFrame:
    print("one line\nand another", end="")
    log.info("loading %s", "orders")
    log.debug("nobody wants this")
    return pd.DataFrame({"x": [1]})


def talking() -> Flow:
    """A flow whose task prints and logs."""
    with Flow("talking") as flow, Stage("work"):
        talks()
    return flow


# What dies


def _die_once(mark: Path) -> None:
    """End this process, the first time."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@materialize(version="1")
def dies_before(mark: Path) -> pd.DataFrame:
    _die_once(mark)
    return pd.DataFrame({"x": [1, 2]})


@materialize(version="1")
def dies_in_a_stream(mark: Path) -> Iterator[pd.DataFrame]:
    yield pd.DataFrame({"x": range(10_000)})
    _die_once(mark)
    yield pd.DataFrame({"x": range(10_000, 20_000)})


@materialize(version="1")
def dies_after_a_table(mark: Path) -> Table:
    Table(pd.DataFrame({"x": [1]}), "first").materialize()
    _die_once(mark)
    return Table(pd.DataFrame({"x": [2]}), "second")


@materialize(version="1")
def dies_always() -> pd.DataFrame:
    os.kill(os.getpid(), signal.SIGKILL)
    return pd.DataFrame({"x": [1]})


def dying(task: Any, *arguments: Any) -> Flow:
    """A flow of one task that ends its process, beside one that does not."""
    with Flow("dying") as flow, Stage("work"):
        task(*arguments)
        talks()
    return flow


@materialize(version="1")
def waits(gate: Path) -> Iterator[pd.DataFrame]:
    """Begins a table, and waits in the middle of it until the file `gate` is there."""
    yield pd.DataFrame({"x": range(1000)})
    gate.with_suffix(".waits").write_text(str(os.getpid()))
    while not gate.exists():
        time.sleep(0.01)
    yield pd.DataFrame({"x": range(1000, 2000)})


def waiting(gate: Path) -> Flow:
    """A flow of one task that waits."""
    with Flow("waiting") as flow, Stage("work"):
        waits(gate)
    return flow
