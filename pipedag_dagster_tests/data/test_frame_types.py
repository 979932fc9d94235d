"""Which types of tables there are: one list, by the names of classes."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa

from pipedag_dagster.frame_types import FrameType, data_type, is_readable, types_of


class Subclass(pd.DataFrame):
    pass


TABLE = sa.table("t", sa.column("x"))


@pytest.mark.parametrize(
    ("value", "types"),
    [
        (pd.DataFrame(), {FrameType.PANDAS}),
        (Subclass(), {FrameType.PANDAS}),
        (pa.table({}), {FrameType.ARROW}),
        (sa.Table("t", sa.MetaData()), {FrameType.SQL_TABLE, FrameType.SQL_QUERY}),
        (sa.select(TABLE), {FrameType.SQL_QUERY}),
        (sa.union_all(sa.select(TABLE), sa.select(TABLE)), {FrameType.SQL_QUERY}),
        (sa.text("SELECT 1"), {FrameType.SQL_TEXT}),
        (pd.Series([1]), set()),
        ([1], set()),
        (None, set()),
        (pd.DataFrame, set()),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, set) else "",
)
def test_values_are_known_by_their_class_and_its_bases(value: Any, types: set[FrameType]) -> None:
    assert types_of(value) == types


@pytest.mark.parametrize("input_type", [pd.DataFrame, pa.Table, sa.Table, sa.Alias, sa.FromClause])
def test_tables_are_read_as_frames_and_as_tables_of_sqlalchemy(input_type: type) -> None:
    assert is_readable(input_type)


@pytest.mark.parametrize("input_type", [Subclass, pd.Series, sa.Select, dict, None, "pd.DataFrame"])
def test_tables_are_not_read_as_anything_else(input_type: Any) -> None:
    assert not is_readable(input_type)


def test_polars_is_known_eager_and_lazy() -> None:
    pl = pytest.importorskip("polars")
    assert [data_type(cls) for cls in (pl.DataFrame, pl.LazyFrame, pl.Series)] == [
        FrameType.POLARS,
        FrameType.POLARS_LAZY,
        None,
    ]
    assert types_of(pl.DataFrame().lazy()) == {FrameType.POLARS_LAZY}
