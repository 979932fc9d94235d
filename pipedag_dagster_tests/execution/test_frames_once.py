"""A DataFrame that a lazy task returns is needed for its key and for its table, and converted once."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from pipedag_dagster import Flow, PipedagConfig, Stage, Table, materialize


class Counted(pd.DataFrame):
    """Counts how often its columns are taken, which is how it is converted to Arrow."""

    taken = 0

    def items(self) -> Any:
        type(self).taken += 1
        return super().items()


@materialize(lazy=True)
def lazy() -> Table:
    return Table(Counted({"id": [1, 2]}), primary_key="id")


@materialize
def eager() -> Table:
    return Table(Counted({"id": [1, 2]}), primary_key="id")


@pytest.mark.parametrize("task", [lazy, eager])
def test_a_frame_is_converted_once(task: Any, config: PipedagConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "taken", 0)
    with Flow("frames") as flow, Stage("raw"):
        task()
    assert flow.run(config.get("full")).successful
    assert Counted.taken == 1


def test_an_error_of_a_lazy_frame_names_its_stage(config: PipedagConfig) -> None:
    @materialize(lazy=True)
    def bad() -> pd.DataFrame:
        return pd.DataFrame({"x": [object()]})

    with Flow("frames") as flow, Stage("raw"):
        bad()
    error = flow.run(config.get("full"), fail_fast=False).error
    assert "raw.bad: column 'x' cannot be stored" in str(error)
