"""A pipeline whose outside world, code and queries a test changes between runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, Result, Stage, materialize

CACHED = dict.fromkeys(("orders", "large", "total", "report"), "cached")
"""What `Shop.run` says when nothing has changed."""


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
    return {record.asset: str(record.reason) for record, _ in result.tables}
