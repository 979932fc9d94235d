"""`@input_stage_versions` without another instance: a stage is compared with its version before, and then committed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, Table, input_stage_versions, materialize
from pipedag_dagster.errors import TaskFailed


@pytest.fixture
def full(config: PipedagConfig) -> Iterator[ConfigContext]:
    """The instance full, as the current one."""
    with config.get("full").evolve(fail_fast=True) as instance:
        yield instance


@materialize(nout=2)
def load(rows: int) -> Any:
    return Table(pd.DataFrame({"x": range(rows)}), "a"), Table(pd.DataFrame({"x": [1]}), "b")


@input_stage_versions(input_type=pd.DataFrame)
def rows_before_and_after(tables: dict[str, pd.DataFrame], committed: dict[str, pd.DataFrame]) -> Any:
    return Table(
        pd.DataFrame(
            {
                "name": [*tables],
                "after": [len(table) for table in tables.values()],
                "before": [len(committed[name]) if name in committed else -1 for name in tables],
            }
        ),
        "differences",
    )


@input_stage_versions(input_type=sa.Table, pass_args=["least"])
def enough_rows(tables: dict[str, Any], committed: dict[str, Any], *, least: int) -> None:
    with ConfigContext.get().store.table_store.engine_connect() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(tables["a"]))
    if count < least:
        raise ValueError(f"{count} rows are not enough")


def run(rows: int) -> list[tuple[str, int, int]]:
    with Flow() as flow, Stage("raw"):
        load(rows)
        differences = rows_before_and_after()
    found = flow.run().get(differences)
    return sorted(found.itertuples(index=False, name=None))


def test_a_stage_is_compared_with_its_committed_version(full: ConfigContext) -> None:
    assert run(3) == [("a", 3, -1), ("b", 1, -1)]
    assert run(5) == [("a", 5, 3), ("b", 1, 1)]
    assert run(5) == [("a", 5, 5), ("b", 1, 1)]


def test_a_stage_that_fails_its_validation_is_not_committed(full: ConfigContext) -> None:
    def flow_with(rows: int) -> Flow:
        with Flow() as flow, Stage("raw"):
            load(rows)
            enough_rows(least=3)
        return flow

    flow_with(4).run()
    with pytest.raises(TaskFailed, match="2 rows are not enough"):
        flow_with(2).run()
    assert len(flow_with(4)["raw.load"].get_output_from_store()) == 4
