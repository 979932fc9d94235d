"""The flows of the comparison: the same code for pipedag_dagster and for pydiverse.pipedag.

BENCH_LIBRARY chooses which of the two is imported. Nothing here knows which one it is.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

library: Any = importlib.import_module(os.environ["BENCH_LIBRARY"])
Flow, Stage, Table = library.Flow, library.Stage, library.Table
materialize, input_stage_versions = library.materialize, library.input_stage_versions


@materialize(lazy=True, input_type=sa.Table)
def small(number: int, revision: int) -> Any:
    """One row."""
    return Table(sa.select(sa.literal(number).label("id"), sa.literal(revision).label("revision")))


@materialize(lazy=True, input_type=sa.Table)
def small_step(table: Any) -> Any:
    return Table(sa.select(table.c.id, (table.c.revision + 1).label("revision")))


@materialize(lazy=True, input_type=sa.Table)
def large(number: int, rows: int) -> Any:
    """Five columns of many rows."""
    i = sa.func.generate_series(1, rows).table_valued("i").render_derived().c.i
    columns = (
        (i + number).label("id"),
        (i % 1000).label("customer"),
        (sa.cast(i, sa.BigInteger) * 7919).label("amount"),
        (i / sa.literal(3.0)).label("price"),
        (sa.literal("name ") + sa.cast(i % 5000, sa.Text)).label("name"),
    )
    return Table(sa.select(*columns), f"large_{number}")


@functools.cache
def frame_data(rows: int) -> pd.DataFrame:
    """Eight columns: three of integers, two of floats, text, a time and a truth value. Made before the clock starts."""
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "a": random.integers(0, 1000, rows),
            "b": random.integers(0, 2**40, rows),
            "x": random.random(rows),
            "y": random.normal(size=rows),
            "name": random.choice(["ab", "cde", "fghi"], rows),
            "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(random.integers(0, 10**6, rows), unit="s"),
            "flag": random.random(rows) > 0.5,
        }
    )


@materialize(version="1.0")
def frame(rows: int) -> Any:
    return Table(frame_data(rows))


@materialize(input_type=pd.DataFrame, version="1.0")
def frame_step(table: pd.DataFrame) -> Any:
    return Table(table)


def source_has_changed(tbls: Any, other_tbls: Any, source_cfg: Any, *, stage: Any) -> Any:
    with source_cfg:
        return source_cfg.store.table_store.get_stage_hash(stage)


@input_stage_versions(input_type=sa.Table, cache=source_has_changed, pass_args=["stage"], lazy=True)
def copy_a_tenth(tbls: Any, source_tbls: Any, source_cfg: Any, *, stage: Any) -> Any:
    return {name: Table(sa.select(tbl).where(tbl.c.id % 10 == 0), name) for name, tbl in source_tbls.items()}


def small_flow(tables: int, revision: int, stages: int = 3) -> Any:
    """`tables` small tables in each stage, by SQL. A new revision changes one of them, in each stage."""
    with Flow("bench") as flow:
        before: list[Any] = []
        for number in range(stages):
            with Stage(f"stage_{number}"):
                if number == 0:
                    before = [small(n, 0 if n else revision) for n in range(tables)]
                else:
                    before = [small_step(table) for table in before]
    return flow


def large_flow(tables: int, rows: int, revision: int) -> Any:
    """Large tables by SQL, and a tiny one beside them. A new revision changes only that one."""
    with Flow("bench") as flow, Stage("stage"):
        for number in range(tables):
            large(number, rows)
        small(0, revision)
    return flow


def frame_flow(rows: int) -> Any:
    """A DataFrame through two tasks: written, read, written."""
    frame_data(rows)
    with Flow("bench") as flow, Stage("stage"):
        frame_step(frame(rows))
    return flow


def copy_flow(tables: int, rows: int, source: Any) -> Any:
    """Large tables by SQL; with a source, a tenth of the rows of each is copied from it instead."""
    with Flow("bench") as flow, Stage("stage") as stage:
        if source is None:
            for number in range(tables):
                large(number, rows)
        else:
            copies = copy_a_tenth(source, stage=stage)
            for number in range(tables):
                _ = copies[f"large_{number}"]  # says which tables there are
    return flow
