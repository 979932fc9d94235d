"""The engine that users get: parameters are part of the statement, as people from psycopg2 know it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import PipedagConfig


@pytest.fixture
def engine(config: PipedagConfig) -> Iterator[sa.Engine]:
    store = config.get("full").store.table_store
    yield store.engine
    store.close()


DAYS = "SELECT count(*) FROM (VALUES (DATE '2020-01-01'), ('2021-01-01')) AS days (day)"


@pytest.mark.parametrize(
    ("query", "value", "result"),
    [
        (f"{DAYS} WHERE day > :x", "2020-06-01", 1),
        (f"{DAYS} WHERE day IN :x", ("2020-01-01", "2021-01-01"), 2),
        (f"{DAYS} WHERE day = ANY(:x)", [dt.date(2020, 1, 1)], 1),
        ("SELECT array_length(:x, 1)", ["a'b", None], 2),
        ("SELECT count(*) FROM unnest(:x) AS names (name) WHERE name < 'b'", ["a", "b"], 1),
        ("SELECT array_dims(:x)", [[1, 2], [3, 4]], "[1:2][1:2]"),
        (f"{DAYS} WHERE day = ANY(:x)", [], 0),
        (f"{DAYS} WHERE day > :x", dt.datetime(2020, 6, 1), 1),
        (f"{DAYS} WHERE :x IS NULL", None, 2),
        ("SELECT concat('a', :x)", "b'%", "ab'%"),
        ("SELECT '5' = :x", 5, True),
        ("SELECT 1; SELECT :x + 1", 5, 6),
    ],
)
def test_parameters_need_no_types(engine: sa.Engine, query: str, value: Any, result: Any) -> None:
    with engine.connect() as connection:
        assert connection.scalar(sa.text(query), {"x": value}) == result


def test_tables_of_sqlalchemy_and_pandas_compare_texts_with_times(engine: sa.Engine) -> None:
    times = pd.DataFrame({"at": pd.to_datetime(["2020-01-01", "2021-01-01"]), "x": ["a", None]})
    times.to_sql("times", engine, index=False)
    table = sa.Table("times", sa.MetaData(), autoload_with=engine)
    query = sa.select(table.c.x).where(table.c.at.between("2019-01-01", "2020-06-01"))
    assert pd.read_sql(query, engine)["x"].to_list() == ["a"]
