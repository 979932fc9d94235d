"""A LazyFrame as input: what it reads of a table, and that its rows are those of a DataFrame."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import polars as pl
import psycopg
import pytest

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, materialize
from pipedag_dagster.data import frames, pg_types, polars_scan
from pipedag_dagster.errors import TaskFailed

ROWS = 150_000
Query = Callable[[Any], Any]


@pytest.fixture
def uri(database_url: Any) -> str:
    """A database with a table of all types that polars can read, and a large one."""
    uri: str = database_url.render_as_string(hide_password=False)
    with psycopg.connect(uri) as connection:
        connection.execute(
            "CREATE TABLE public.types AS SELECT i::int2 AS small, i::int8 AS large, i / 4.0::float8 AS x, "
            "i::numeric / 8 AS free, i::numeric(10, 2) AS fixed, NULL::numeric AS none, 'n ' || i AS name, "
            "i % 2 = 0 AS flag, DATE '2024-01-01' + i AS day, TIMESTAMP '2024-01-01' + i * interval '1 s' AS at, "
            "TIMESTAMPTZ '2024-01-01 UTC' + i * interval '1 s' AS zoned, TIME '00:00' + i * interval '1 s' AS clock, "
            "i * interval '1 s' AS lasts, to_jsonb(i) AS json, ARRAY[i, NULL] AS list, "
            "ARRAY[i::numeric / 8] AS decimals, "
            "'\\x01'::bytea AS raw, '4ec2e354-43dc-4c23-aa59-77e4e5ad8922'::uuid AS id FROM generate_series(0, 9) AS i"
        )
        connection.execute("INSERT INTO public.types (small) VALUES (NULL)")
        connection.execute("CREATE TABLE public.empty AS TABLE public.types WITH NO DATA")
        connection.execute(
            "CREATE TABLE public.rows AS SELECT i AS id, i % 3 AS part, repeat('x', 100) || i AS text "
            f"FROM generate_series({ROWS}, 1, -1) AS i"
        )
        connection.execute("ALTER TABLE public.rows ADD PRIMARY KEY (id)")
    return uri


def scan(uri: str, table: str) -> pl.LazyFrame:
    frame: pl.LazyFrame = polars_scan.scan(uri, table, table, nullcontext)
    return frame


def eager(uri: str, table: str) -> pl.DataFrame:
    frame: pl.DataFrame = frames.read_table(uri, table, pl.DataFrame, table)
    return frame


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int]]:
    """The columns and the number of rows of each batch that the database has sent."""
    seen: list[tuple[list[str], int]] = []
    convert = frames.frame

    def count(columns: Any, found: Any, *rest: Any) -> Any:
        seen.append(([column.name for column in columns], len(found)))
        return convert(columns, found, *rest)

    monkeypatch.setattr(frames, "frame", count)
    return seen


@pytest.mark.parametrize("table", ["public.types", "public.empty", "public.rows"])
def test_a_scan_has_the_types_and_rows_of_a_dataframe(uri: str, table: str) -> None:
    found, expected = scan(uri, table).collect(), eager(uri, table)
    assert found.schema == expected.schema
    assert found.equals(expected)


QUERIES: dict[str, Query] = {
    "columns in another order": lambda t: t.select("text", "id"),
    "number of rows": lambda t: t.select(pl.len()),
    "first rows": lambda t: t.head(7),
    "rows of a key": lambda t: t.filter(pl.col("id") > ROWS - 100),
    "value on the left": lambda t: t.filter(pl.lit(100) > pl.col("id")),
    "two conditions": lambda t: t.filter(pl.col("id") <= 50, pl.col("part") == 1),
    "one that the database does not know": lambda t: t.filter(pl.col("id") <= 50, pl.col("text").str.ends_with("7")),
    "either": lambda t: t.filter((pl.col("id") == 5) | (pl.col("part") == 2)).select("id"),
    "not": lambda t: t.filter(~(pl.col("id") > 5)),
    "text": lambda t: t.filter(pl.col("text") == "x" * 100 + "77").select("id"),
    "filter and first rows": lambda t: t.filter(pl.col("part") == 1).head(3),
    "first rows and filter": lambda t: t.head(100).filter(pl.col("part") == 1),
    "arithmetic": lambda t: t.filter(pl.col("id") + 1 < 10),
    "groups": lambda t: t.group_by("part").agg(pl.col("id").sum()).sort("part"),
    "self join": lambda t: t.filter(pl.col("id") < 9).join(t.select("id", p="part"), on="id").sort("id"),
    "no row": lambda t: t.filter(pl.col("id") < 0),
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_has_the_result_that_it_has_for_a_dataframe(uri: str, query: Query) -> None:
    expected = query(eager(uri, "public.rows").lazy()).collect()
    assert query(scan(uri, "public.rows")).collect().equals(expected)


@pytest.mark.parametrize(
    "predicate",
    [
        pl.col("small") > 3,
        pl.col("small") < 2.5,
        pl.col("day") >= dt.date(2024, 1, 5),
        pl.col("name") == "n 3",
        pl.col("name") > "n 3",
        pl.col("fixed") == Decimal(3),
        pl.col("flag"),
        pl.col("small").is_null(),
        pl.col("large").is_in([1, 2]),
    ],
    ids=str,
)
def test_a_filter_keeps_the_same_rows(uri: str, predicate: pl.Expr) -> None:
    expected = eager(uri, "public.types").filter(predicate)
    assert scan(uri, "public.types").filter(predicate).collect().equals(expected)


def test_only_the_columns_that_are_needed_are_read(uri: str, sent: list[tuple[list[str], int]]) -> None:
    rows = scan(uri, "public.rows")
    sent.clear()
    rows.filter(pl.col("text") != "").select("id").collect()
    assert {tuple(columns) for columns, _ in sent} == {("id", "text")}
    assert len(sent) > 1, "in batches"


@pytest.mark.parametrize(
    ("query", "number"),
    [
        pytest.param(lambda t: t.filter(pl.col("id") > ROWS - 100), 100, id="a comparison"),
        pytest.param(lambda t: t.filter(pl.col("id") <= 50, pl.col("text").str.ends_with("7")), 50, id="one of two"),
        pytest.param(lambda t: t.head(7), 7, id="first rows"),
    ],
)
def test_only_the_rows_that_may_be_needed_are_sent(
    uri: str, sent: list[tuple[list[str], int]], query: Query, number: int
) -> None:
    rows = scan(uri, "public.rows")
    assert sum(count for _, count in sent) == 0, "no row is read before the frame is collected"
    query(rows).collect()
    assert sum(count for _, count in sent) == number


@pytest.mark.parametrize(
    ("predicate", "sql"),
    [
        (pl.col("large") > 7, '"large" > 7'),
        (pl.lit(7) > pl.col("large"), '"large" < 7'),
        ((pl.col("large") > 7) & pl.col("flag"), '"large" > 7'),
        (pl.col("name") == "it's", "\"name\" COLLATE \"C\" = E'it''s'"),
        (pl.col("name") < "a", None),
        ((pl.col("large") > 7) | pl.col("flag"), None),
        (~(pl.col("large") > 7), None),
        (pl.col("large") > pl.col("small"), None),
        (pl.col("large") > 1.5, None),
        (pl.col("x") > 1, None),
        (pl.col("name") == "\0", None),
    ],
    ids=str,
)
def test_what_is_left_to_the_database(uri: str, predicate: pl.Expr, sql: str | None) -> None:
    with frames.adbc.reading(uri) as cursor:
        columns = {column.name: column for column in pg_types.describe(cursor, "public.types")}
    assert polars_scan.condition(predicate, columns) == sql


def test_a_value_that_polars_cannot_hold_is_named_when_it_is_read(uri: str) -> None:
    with psycopg.connect(uri) as connection:
        connection.execute("CREATE TABLE public.bad AS SELECT 1 AS id, 'infinity'::date AS day")
    rows = scan(uri, "public.bad")
    assert rows.select("id").collect().rows() == [(1,)]
    with pytest.raises(TaskFailed, match=r"public\.bad.*column 'day' cannot be read"):
        rows.collect()


# In a task


@pytest.fixture
def full(config: PipedagConfig) -> ConfigContext:
    return config.get("full")


def flow(task: Callable[..., Any], **options: Any) -> Flow:
    """A flow of a table `raw.rows`, and a task that gets it as a LazyFrame."""

    def rows() -> Iterator[pl.DataFrame]:
        for start in range(0, ROWS, 50_000):
            yield pl.DataFrame({"id": range(start, start + 50_000)}).with_columns(text=pl.lit("x" * 50))

    with Flow("scan") as flow:
        with Stage("raw"):
            made = materialize(version="1")(rows)()
        with Stage("clean"):
            materialize(input_type=pl.LazyFrame, **options)(task)(made)
    return flow


@pytest.mark.parametrize("options", [{"version": "1"}, {"lazy": True}, {}], ids=str)
def test_a_task_reads_what_its_query_needs(
    full: ConfigContext, sent: list[tuple[list[str], int]], options: dict[str, Any]
) -> None:
    def last(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.filter(pl.col("id") >= ROWS - 2).select("id")

    pipeline = flow(last, **options)
    pipeline.run(full, "raw", fail_fast=True)
    sent.clear()
    assert pipeline.run(full, fail_fast=True).get("clean.last", pl.DataFrame).rows() == [(ROWS - 2,), (ROWS - 1,)]
    assert sum(count for columns, count in sent if columns == ["id"]) == 2
    assert all(count == 0 for columns, count in sent if columns != ["id"])


def test_a_task_may_collect_it_several_times(full: ConfigContext) -> None:
    def both(rows: pl.LazyFrame) -> pl.DataFrame:
        return pl.DataFrame({"number": [rows.select(pl.len()).collect().item(), rows.collect().height]})

    result = flow(both, version="1").run(full, fail_fast=True)
    assert result.get("clean.both", pl.DataFrame).rows() == [(ROWS,), (ROWS,)]
