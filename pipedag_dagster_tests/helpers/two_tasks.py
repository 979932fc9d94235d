"""A flow of two tasks: one returns a value, the other one gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pipedag_dagster import ConfigContext, Flow, Result, Stage, materialize


def orders(*amounts: int) -> pd.DataFrame:
    return pd.DataFrame({"amount": amounts or (1, 2, 3)}, dtype="Int64")


@dataclass
class Economy:
    sales: Any
    rates: dict[str, float]
    note: str = "none"


@dataclass
class Line:
    """A flow `make` → `look`, where `make` returns `value` and `look` gets it; both say when they run."""

    config: ConfigContext
    value: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    take: Callable[[Any], Any] = lambda made: made
    input_type: type | None = None
    seen: list[Any] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    generation: int = 1

    def flow(self) -> tuple[Flow, Any]:
        @materialize(version=None if "lazy" in self.options else str(self.generation), **self.options)
        def make() -> Any:
            self.ran.append("make")
            return self.value() if callable(self.value) else self.value

        @materialize(version="1", input_type=self.input_type)
        def look(given: Any) -> Any:
            self.ran.append("look")
            self.seen.append(given)
            return pd.DataFrame({"seen": [1]})

        with Flow("line") as flow:
            with Stage("raw"):
                made = make()
                taken = self.take(made)
            with Stage("report"):
                look(taken)
        return flow, made

    def run(self, **options: Any) -> Result:
        self.ran.clear()
        flow, self.made = self.flow()
        return flow.run(self.config, fail_fast=True, **options)

    def again(self, value: Any) -> list[str]:
        """Which tasks run when `make` runs once more and returns `value`."""
        self.value, self.generation = value, self.generation + 1
        self.run()
        return self.ran


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types, however deep. Frames by their values."""
    if isinstance(left, pd.DataFrame):
        return isinstance(right, pd.DataFrame) and left.to_dict("list") == right.to_dict("list")
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Economy):
        return same(vars(left), vars(right))
    return bool(left == right or (left != left and right != right))
