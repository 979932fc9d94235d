"""The pipeline in the form that we recommend: small instances copy their inputs by themselves.

`input=True` says that a task brings data in from outside. On an instance with `copy_filtered_input: true` it does not
run; a sample of what `copy_source` has committed takes its place.
"""

from __future__ import annotations

import pandas as pd

from pipedag_dagster import ConfigContext, Flow, Stage, Table, materialize

SOURCE = pd.DataFrame({"a": [0, 1, 2, 4], "b": [9, 8, 7, 6]})
"""Stands for the outside world."""


def source_version() -> str:
    """When its value changes, the input is read again."""
    return str(pd.util.hash_pandas_object(SOURCE).sum())


@materialize(input=True, outputs=["dfa", "dfb"], cache=source_version, version="1.0")
def load() -> tuple[Table, Table]:
    """Read the two source tables."""
    return Table(SOURCE, primary_key="a"), Table(SOURCE, primary_key="a")


@materialize(input_type=pd.DataFrame, version="1.0")
def double_values(df: pd.DataFrame) -> Table:
    """Double every value."""
    return Table(df * 2)


def build(instance: ConfigContext) -> Flow:
    """The same wiring for every instance."""
    with Flow("quickstart") as flow:
        with Stage("stage_1"):
            dfa, dfb = load()
            doubled = double_values(dfa)
        with Stage("stage_2"):
            double_values(dfb)
            double_values(doubled)
    return flow
