"""Tables that pass through a task batch by batch."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import psycopg
import pyarrow as pa
import pytest

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, Table, materialize
from pipedag_dagster.data import frames, streams
from pipedag_dagster.data.content import Content
from pipedag_dagster.errors import TaskFailed, UnstorableResult, WiringError

SCHEMA = pa.schema({"id": pa.int64(), "name": pa.string()})


@pytest.fixture
def full(config: PipedagConfig) -> ConfigContext:
    return config.get("full")


def batches(*frames: Any) -> Callable[[], Iterator[Any]]:
    """A function under @materialize that yields these frames."""

    def rows() -> Iterator[Any]:
        yield from frames

    return rows


def run(instance: ConfigContext, function: Callable[..., Any], *then: Callable[..., Any], **options: Any) -> Any:
    """Run a flow of one table `raw.rows`, and tasks that get it."""
    with Flow("streams") as flow, Stage("raw"):
        rows = materialize(name="rows", version="1", **options)(function)()
        for task in then:
            materialize(version="1", **getattr(task, "options", {}))(task)(rows)
    return flow.run(instance, fail_fast=False)


def takes(kind: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def choose(function: Any) -> Any:
        function.options = {"input_type": kind}
        return function

    return choose


def content(*frames: Any) -> Content:
    return streams.content((frame for frame in frames), "raw.rows")


def stored(rows: Content) -> list[dict[str, Any]]:
    return pa.Table.from_batches(list(rows), rows.schema).to_pylist()


# Out


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(lambda data: pd.DataFrame(data), id="pandas"),
        pytest.param(lambda data: pl.DataFrame(data), id="polars"),
        pytest.param(lambda data: pa.table(data), id="arrow"),
        pytest.param(lambda data: pa.RecordBatch.from_pydict(data), id="record batch"),
    ],
)
def test_a_generator_becomes_one_table(full: ConfigContext, frame: Any) -> None:
    result = run(full, batches(frame({"id": [1, 2]}), frame({"id": [3]})))
    assert result.get("raw.rows", pa.Table).to_pydict() == {"id": [1, 2, 3]}


def test_a_reader_becomes_a_table(full: ConfigContext) -> None:
    def rows() -> pa.RecordBatchReader:
        data = [pa.record_batch([[1, 2], ["a", None]], schema=SCHEMA), pa.record_batch([[3], ["c"]], schema=SCHEMA)]
        return pa.RecordBatchReader.from_batches(SCHEMA, iter(data))

    assert run(full, rows).get("raw.rows", pa.Table).to_pydict() == {"id": [1, 2, 3], "name": ["a", None, "c"]}


def test_a_stream_may_have_constraints(full: ConfigContext) -> None:
    def rows() -> Table:
        return Table((pd.DataFrame({"id": [number]}) for number in range(3)), primary_key="id")

    assert run(full, rows).successful
    (table,) = full.store.table_store.current(["raw"])["raw"].tables.values()
    assert table.primary_key == ("id",)


def test_a_constraint_counts_for_all_batches(full: ConfigContext) -> None:
    def rows() -> Table:
        return Table((pd.DataFrame({"id": [1]}) for _ in range(2)), primary_key="id")

    assert "raw.rows: the primary key is not unique" in str(run(full, rows).error)


def test_how_rows_are_cut_into_batches_makes_no_difference(full: ConfigContext) -> None:
    whole = pd.DataFrame({"id": range(10), "name": [None, *"abcdefghi"]})
    versions = set()
    for size in (1, 4, 10):
        run(full, batches(*(whole[start : start + size] for start in range(0, 10, size))))
        (table,) = full.store.table_store.current(["raw"])["raw"].tables.values()
        versions.add(table.data_version)
    run(full, lambda: whole)
    (table,) = full.store.table_store.current(["raw"])["raw"].tables.values()
    assert versions == {table.data_version}


def test_an_empty_reader_has_its_columns(full: ConfigContext) -> None:
    result = run(full, lambda: pa.RecordBatchReader.from_batches(SCHEMA, iter(())))
    assert result.get("raw.rows", pa.Table).schema.names == ["id", "name"]


def test_a_generator_without_rows_has_the_columns_of_its_batch(full: ConfigContext) -> None:
    result = run(full, batches(pd.DataFrame({"id": pd.Series([], dtype="int32")})))
    assert result.get("raw.rows", pa.Table).schema == pa.schema({"id": pa.int32()})


def test_a_generator_without_a_batch_is_refused(full: ConfigContext) -> None:
    assert "raw.rows cannot be stored: the stream ended before its first batch" in str(run(full, batches()).error)


def test_nan_of_pandas_is_null_and_that_of_arrow_stays(full: ConfigContext) -> None:
    frame = {"x": [1.0, float("nan")]}
    assert [row["x"] for row in stored(content(pd.DataFrame(frame)))] == [1.0, None]
    assert np.isnan(stored(content(pa.table(frame)))[1]["x"])


def test_types_are_those_of_the_first_batch_with_rows() -> None:
    rows = content(pd.DataFrame({"x": []}, dtype=object), pd.DataFrame({"x": [1]}), pd.DataFrame({"x": [2.0]}))
    assert (rows.schema.field("x").type, stored(rows)) == (pa.int64(), [{"x": 1}, {"x": 2}])


@pytest.mark.parametrize(
    ("first", "later", "expected"),
    [
        pytest.param([1.5], [2], [1.5, 2.0], id="integers among floats"),
        pytest.param([1.5], [None], [1.5, None], id="nothing but NULL"),
        pytest.param(["a"], [None], ["a", None], id="NULL among texts"),
        pytest.param([[1]], [None], ["[1]", None], id="NULL among JSON"),
        pytest.param([Decimal("1.25")], [Decimal("100")], [Decimal("1.25"), Decimal("100.00")], id="decimals"),
    ],
)
def test_a_later_batch_that_fits(first: list[Any], later: list[Any], expected: list[Any]) -> None:
    rows = content(*(pd.DataFrame({"x": pd.Series(values)}) for values in (first, later)))
    assert pa.Table.from_batches(list(rows), rows.schema).column("x").to_pylist() == expected


@pytest.mark.parametrize(
    ("first", "later"),
    [
        pytest.param([1], ["a"], id="text among integers"),
        pytest.param([1], [1.5], id="a fraction among integers"),
        pytest.param([1.5], [2**53 + 1], id="an integer that no float is equal to"),
        pytest.param(["a"], [1], id="integers among texts"),
        pytest.param([Decimal("1.2")], [Decimal("1.25")], id="a longer decimal"),
        pytest.param(pd.Series([1], dtype="int16"), [2**15], id="a larger integer"),
        pytest.param(pd.Series([1], dtype="float32"), [0.1], id="a longer float"),
        pytest.param([1.5], [Decimal("0.1")], id="decimals among floats"),
    ],
)
def test_a_later_batch_that_does_not_fit_is_named(first: Any, later: Any) -> None:
    rows = content(*(pd.DataFrame({"x": pd.Series(values)}) for values in (first, later)))
    with pytest.raises(UnstorableResult, match=r"raw\.rows, batch 2: column 'x' cannot be stored: it is .* here"):
        list(rows)


def test_later_batches_have_the_same_columns() -> None:
    rows = content(pd.DataFrame({"x": [1]}), pd.DataFrame({"y": [1]}))
    with pytest.raises(UnstorableResult, match=r"raw\.rows, batch 2 .* has the columns y, and the first batch has x"):
        list(rows)


def test_a_bad_value_names_batch_and_row() -> None:
    rows = content(pd.DataFrame({"x": ["a"]}), pd.DataFrame({"x": ["b", "\0"]}))
    with pytest.raises(UnstorableResult, match=r"raw\.rows, batch 2: column 'x' .* The first is in row 2"):
        list(rows)


def test_what_is_no_frame_is_refused() -> None:
    rows = content(pd.DataFrame({"x": [1]}), 7)
    with pytest.raises(UnstorableResult, match=r"raw\.rows, batch 2 cannot be stored: it is a int"):
        list(rows)


def test_a_generator_that_fails_leaves_nothing(full: ConfigContext) -> None:
    def rows() -> Iterator[pd.DataFrame]:
        yield pd.DataFrame({"id": range(100_000)})
        raise KeyError("in the middle")

    error = run(full, rows).error
    assert "raw.rows failed: KeyError: 'in the middle'" in str(error)
    assert isinstance(error.__cause__, KeyError)
    store = full.store.table_store
    assert store.current(["raw"])["raw"].number == 0
    with store.database.transaction() as connection:
        query = "SELECT count(*) FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r'"
        assert connection.execute(query, (store.schemas("raw").versions,)).fetchone() == (0,)


def test_an_error_of_psycopg_in_a_generator_is_that_of_the_task(full: ConfigContext) -> None:
    def rows() -> Iterator[pd.DataFrame]:
        yield pd.DataFrame({"id": [1]})
        raise psycopg.errors.UniqueViolation("of another database")

    assert isinstance(run(full, rows).error.__cause__, psycopg.errors.UniqueViolation)


def test_a_generator_is_closed_when_its_table_cannot_be_written(full: ConfigContext) -> None:
    closed = []

    def source() -> Iterator[pd.DataFrame]:
        try:
            while True:
                yield pd.DataFrame({"id": [None]}, dtype="Int64")
                yield pd.DataFrame({"other": [1]})
        finally:
            closed.append(True)

    assert not run(full, lambda: Table(source())).successful
    assert closed == [True]


def test_the_context_of_a_task_is_there_until_its_stream_ends(full: ConfigContext) -> None:
    state = []

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        state.append("open")
        yield
        state.append("closed")

    def rows() -> Iterator[pd.DataFrame]:
        for _ in range(2):
            assert state == ["open"]
            yield pd.DataFrame({"id": [1]})

    assert run(full, rows, call_context=context).successful
    assert state == ["open", "closed"]


def test_what_a_generator_reads_is_noted(full: ConfigContext, tmp_path: Any) -> None:
    file = tmp_path / "numbers.txt"
    file.write_text("1\n2\n")

    def rows() -> Iterator[pd.DataFrame]:
        for line in file.read_text().splitlines():
            yield pd.DataFrame({"id": [int(line)]})

    assert run(full, rows).successful
    (table,) = full.store.table_store.current(["raw"])["raw"].tables.values()
    assert "numbers.txt" in str(table.parts["notes"])


def test_a_lazy_task_cannot_return_a_stream(full: ConfigContext) -> None:
    assert "raw.rows is a stream, and a lazy task" in str(run(full, batches(pd.DataFrame({"x": [1]})), lazy=True).error)


def test_a_stream_and_a_frame_of_one_task(full: ConfigContext) -> None:
    def two() -> tuple[Iterator[pd.DataFrame], pd.DataFrame]:
        return (pd.DataFrame({"id": [number]}) for number in range(2)), pd.DataFrame({"x": [7]})

    with Flow("streams") as flow, Stage("raw"):
        materialize(name="two", version="1", outputs=["ids", "xs"])(two)()
    result = flow.run(full)
    assert result.get("raw.ids", pa.Table).to_pydict() == {"id": [0, 1]}
    assert result.get("raw.xs", pa.Table).to_pydict() == {"x": [7]}


# In

LARGE = 200_000


def large() -> pa.Table:
    return pa.table({"id": range(LARGE), "name": [f"name {number}" for number in range(LARGE)]})


@pytest.mark.parametrize(
    "kind", [pa.RecordBatchReader, Iterator[pd.DataFrame], Iterator[pl.DataFrame], Iterator[pa.Table]], ids=str
)
def test_a_stream_passes_through(full: ConfigContext, kind: Any) -> None:
    sizes = []

    @takes(kind)
    def passed(rows: Any) -> Iterator[Any]:
        for batch in rows:
            sizes.append(len(batch))
            yield batch

    result = run(full, large, passed)
    assert len(sizes) > 1
    assert result.get("raw.passed", pa.Table).equals(result.get("raw.rows", pa.Table))


def test_a_reader_can_be_returned(full: ConfigContext) -> None:
    @takes(pa.RecordBatchReader)
    def passed(rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
        return rows

    result = run(full, large, passed)
    assert result.get("raw.passed", pa.Table).equals(result.get("raw.rows", pa.Table))


@pytest.mark.parametrize(
    ("kind", "batch"), [(Iterator[pd.DataFrame], pd.DataFrame), (Iterator[pl.DataFrame], pl.DataFrame)], ids=str
)
def test_batches_have_the_types_of_frames(full: ConfigContext, kind: Any, batch: type) -> None:
    seen: list[Any] = []

    @takes(kind)
    def looks(rows: Iterator[Any]) -> pd.DataFrame:
        seen.extend(rows)
        return pd.DataFrame({"x": [1]})

    result = run(full, lambda: pd.DataFrame({"i": pd.Series([1, None], dtype="Int32"), "t": ["a", None]}), looks)
    expected = result.get("raw.rows", batch)
    assert len(seen) == 1
    assert seen[0].equals(expected)


@pytest.mark.parametrize("kind", [pa.RecordBatchReader, Iterator[pd.DataFrame]], ids=str)
def test_an_empty_table_has_its_columns(full: ConfigContext, kind: Any) -> None:
    @takes(kind)
    def passed(rows: Any) -> Any:
        return rows if kind is pa.RecordBatchReader else (batch for batch in rows)

    result = run(full, lambda: pd.DataFrame({"id": pd.Series([], dtype="int32")}), passed)
    assert result.get("raw.passed", pa.Table).schema == pa.schema({"id": pa.int32()})


def test_few_batches_are_in_memory_at_a_time(full: ConfigContext) -> None:
    alive: list[weakref.ref[Any]] = []
    most = [0]

    @takes(Iterator[pa.Table])
    def passed(rows: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for batch in rows:
            alive.append(weakref.ref(batch))
            gc.collect(1)  # all of it would take longer than the rest of the test
            most[0] = max(most[0], sum(one() is not None for one in alive))
            yield batch

    def wide() -> pa.Table:
        return pa.table({"id": range(LARGE), "text": ["x" * 500] * LARGE})

    assert run(full, wide, passed).successful
    assert len(alive) > 6
    assert most[0] <= 2


def test_a_stream_that_is_not_read_to_its_end(full: ConfigContext) -> None:
    @takes(Iterator[pd.DataFrame])
    def first(rows: Iterator[pd.DataFrame]) -> pd.DataFrame:
        return next(rows).head(1)

    result = run(full, large, first)
    assert result.get("raw.first", pa.Table).to_pydict() == {"id": [0], "name": ["name 0"]}


def test_a_stream_ends_with_its_task(full: ConfigContext) -> None:
    kept: list[Iterator[Any]] = []

    @takes(Iterator[pd.DataFrame])
    def keeps(rows: Iterator[pd.DataFrame]) -> pd.DataFrame:
        kept.append(rows)
        return next(rows)

    run(full, large, keeps)
    with pytest.raises(TaskFailed, match=r"raw\.rows is read after its task has ended"):
        next(kept[0])


def test_nan_and_null_in_different_batches_are_refused_for_pandas(database_url: Any) -> None:
    uri = database_url.render_as_string(hide_password=False)
    with psycopg.connect(uri) as connection:
        connection.execute(
            "CREATE TABLE public.t AS SELECT CASE WHEN i = 1 THEN 'NaN'::float8 WHEN i < 200000 THEN i END AS x, "
            "repeat('x', 300) AS filler FROM generate_series(1, 200000) AS i"
        )
    with pytest.raises(TaskFailed, match=r"raw\.t: column 'x' cannot be read: it holds NaN beside NULL"):
        list(streams.read(uri, "public.t", pd.DataFrame, "raw.t"))


@pytest.mark.parametrize(
    "values",
    [
        "1.5, 22.25",
        "0, 0.125",
        "-123456, NULL",
        "NULL, NULL",
        "12345678901234567890.12345678901234567890",
    ],
)
def test_decimals_of_any_size_have_room_for_all_rows(database_url: Any, values: str) -> None:
    uri = database_url.render_as_string(hide_password=False)
    with psycopg.connect(uri) as connection:
        connection.execute(f"CREATE TABLE public.t AS SELECT unnest(ARRAY[{values}]::numeric[]) AS x".encode())
    found = pa.concat_tables(streams.read(uri, "public.t", pa.Table, "raw.t"))
    expected = frames.read_table(uri, "public.t", pa.Table, "raw.t")
    assert found.to_pylist() == expected.to_pylist()


@pytest.mark.parametrize("kind", [Iterator, Iterator[int], list[pd.DataFrame]], ids=str)
def test_other_iterators_are_no_input_type(kind: Any) -> None:
    with pytest.raises(WiringError, match=r"tables cannot be read as input_type="):
        materialize(input_type=kind, name="rows")(lambda rows: rows)
