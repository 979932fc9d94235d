"""Which rows a sample has: references hold, smaller samples are part of larger ones, and the order of rows is nothing.

Random schemas with self references, circles, composite and conditional references, NULLs, orphans, duplicates and
tables without keys; random rules.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.sampling.rules import (
    All,
    ChildrenOf,
    Fraction,
    Keep,
    Nothing,
    Parents,
    Relation,
    Rows,
    Rule,
    SampleSpec,
    Where,
)
from pipedag_dagster.sampling.selection import Selection, Why
from pipedag_dagster.sampling.source_tables import SourceTable

CASES = 10_000 if os.environ.get("PIPEDAG_TORTURE") == "long" else 100

Row = tuple[int | None, ...]


@dataclass(frozen=True)
class Data:
    """Tables `raw.t0`, `raw.t1`, …: rows of (id, kind, a, b, …), where a, b, … refer to other tables."""

    rows: dict[str, list[Row]]
    keyed: dict[str, bool]
    relations: tuple[Relation, ...]


@st.composite
def data(draw: st.DrawFn) -> Data:
    count = draw(st.integers(2, 5))
    names = [f"raw.t{number}" for number in range(count)]
    relations: list[Relation] = []
    rows: dict[str, list[Row]] = {}
    keyed = {name: draw(st.booleans()) for name in names}
    random_ = draw(st.randoms(use_true_random=False))
    for name in names:
        targets = draw(st.lists(st.sampled_from(names), max_size=2))
        for position, target in enumerate(targets):
            column = "ab"[position]
            composite = draw(st.integers(0, 4)) == 0
            when = draw(st.sampled_from([None, None, "kind = 1"]))
            follow = draw(st.sampled_from(["parents", "parents", "parents", "both"]))
            columns, parent_columns = ((column, "kind"), ("id", "kind")) if composite else ((column,), ("id",))
            relations.append(Relation(name, columns, target, parent_columns, when, follow))  # type: ignore[arg-type]
        size = draw(st.integers(0, 25))

        def value() -> int | None:
            return None if random_.random() < 0.15 else random_.randrange(0, 30)

        ids = random_.sample(range(25), size) if keyed[name] else [random_.randrange(0, 12) for _ in range(size)]
        rows[name] = [(number, random_.randrange(0, 3), value(), value()) for number in ids]
    return Data(rows, keyed, tuple(dict.fromkeys(relations)))


@st.composite
def specs(draw: st.DrawFn, source: Data) -> tuple[SampleSpec, SampleSpec]:
    """Two samples: the rules of the first ask for no more than those of the second."""
    small: dict[str, Rule] = {}
    large: dict[str, Rule] = {}
    for name in source.rows:
        parents = tuple({relation.parent for relation in source.relations if relation.child == name})
        kinds = ["all", "rows", "fraction", "where", "parents"] + (["children"] * 3 if parents else [])
        match draw(st.sampled_from(kinds)):
            case "all":
                small[name] = large[name] = All()
            case "rows":
                low, high = sorted(draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
                per_value = {"kind": 1} if draw(st.booleans()) else {}
                small[name], large[name] = Rows(low, per_value), Rows(high, per_value)
            case "fraction":
                low_share, high_share = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
                small[name], large[name] = Fraction(low_share), Fraction(high_share)
            case "where":
                small[name], large[name] = Where("id < 3"), Where("id < 6")
            case "parents":
                small[name] = large[name] = Parents()
            case "children":
                circular = name in parents
                low, high = sorted(draw(st.tuples(st.integers(1, 4), st.integers(1, 4))))
                capped = draw(st.booleans()) and not circular
                small[name] = ChildrenOf(parents, low if capped else None)
                large[name] = ChildrenOf(parents, high if capped else None)
    keep = tuple(Keep(name, "id = 7") for name in source.rows if draw(st.integers(0, 3)) == 0)
    seed = draw(st.integers(0, 3))
    first = SampleSpec(small, source.relations, keep, seed=seed)
    return first, replace(first, rules=large)


@pytest.fixture(scope="module")
def connection(server_url: sa.URL) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server_url.render_as_string(hide_password=False)) as connection:
        yield connection


_numbers = itertools.count()


def load(connection: psycopg.Connection[Any], source: Data) -> dict[str, SourceTable]:
    schema = f"source_{os.getpid()}_{next(_numbers)}"
    connection.execute(f"CREATE SCHEMA {schema}".encode())
    columns = tuple(Column(name, "integer") for name in ("id", "kind", "a", "b"))
    tables = {}
    for name, rows in source.rows.items():
        physical = name.removeprefix("raw.")
        key = ", PRIMARY KEY (id)" if source.keyed[name] else ""
        connection.execute(f"CREATE TABLE {schema}.{physical} (id int, kind int, a int, b int{key})".encode())
        with connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {schema}.{physical} VALUES (%s, %s, %s, %s)".encode(), rows)
        tables[name] = SourceTable(name, schema, physical, columns, ("id",) if source.keyed[name] else ())
    return tables


def sample(connection: psycopg.Connection[Any], source: Data, spec: SampleSpec) -> dict[str, Counter[Row]]:
    """The rows of a sample, by table. Nothing stays in the database."""
    with connection.transaction(force_rollback=True):
        tables = load(connection, source)
        selection = Selection(connection, tables, spec)
        selection.run()
        return {
            name: Counter(
                connection.execute(
                    f"SELECT id, kind, a, b FROM {table.sql} "
                    f"WHERE ctid IN (SELECT handle FROM {selection.handles(name)})".encode()
                ).fetchall()
            )
            for name, table in tables.items()
        }


def refers(relation: Relation, row: Row) -> tuple[int, ...] | None:
    """What a row refers to by a relation; None when it refers to nothing."""
    if relation.when and row[1] != 1:
        return None
    values = tuple(row[["id", "kind", "a", "b"].index(column)] for column in relation.columns)
    return None if None in values else values  # type: ignore[return-value]


def keys(relation: Relation, rows: Counter[Row]) -> dict[tuple[int | None, ...], Counter[Row]]:
    found: dict[tuple[int | None, ...], Counter[Row]] = {}
    for row, count in rows.items():
        key = tuple(row[["id", "kind", "a", "b"].index(column)] for column in relation.parent_columns)
        found.setdefault(key, Counter())[row] = count
    return found


many = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@many
@given(drawn=st.data())
def test_no_reference_that_holds_in_full_is_broken(connection: psycopg.Connection[Any], drawn: st.DataObject) -> None:
    source = drawn.draw(data())
    spec, _ = drawn.draw(specs(source))
    chosen = sample(connection, source, spec)
    for relation in source.relations:
        there = keys(relation, Counter(source.rows[relation.parent]))
        here = keys(relation, chosen[relation.parent])
        for row in chosen[relation.child]:
            key = refers(relation, row)
            if key in there:
                assert here.get(key) == there[key], (relation, row)


@many
@given(drawn=st.data())
def test_a_sample_that_asks_for_less_is_part_of_one_that_asks_for_more(
    connection: psycopg.Connection[Any], drawn: st.DataObject
) -> None:
    source = drawn.draw(data())
    small_spec, large_spec = drawn.draw(specs(source))
    small, large = sample(connection, source, small_spec), sample(connection, source, large_spec)
    for name, rows in source.rows.items():
        assert small[name] <= large[name] <= Counter(rows)


@many
@given(drawn=st.data())
def test_the_order_in_which_rows_are_stored_makes_no_difference(
    connection: psycopg.Connection[Any], drawn: st.DataObject
) -> None:
    source = drawn.draw(data())
    spec, _ = drawn.draw(specs(source))
    shuffled = {name: random.Random(1).sample(rows, len(rows)) for name, rows in source.rows.items()}
    assert sample(connection, source, spec) == sample(connection, replace(source, rows=shuffled), spec)


@pytest.mark.parametrize("circle", [False, True], ids=["a chain", "a circle"])
def test_a_chain_of_references_is_followed_to_its_end(connection: psycopg.Connection[Any], circle: bool) -> None:
    length = 50_000
    rows: list[Row] = [(number, 0, number + 1, None) for number in range(length - 1)]
    rows.append((length - 1, 0, 0 if circle else None, None))
    relation = Relation("raw.t0", ("a",), "raw.t0", ("id",))
    source = Data({"raw.t0": rows}, {"raw.t0": True}, (relation,))
    spec = SampleSpec({"raw.t0": Where("id = 0")}, (relation,))
    assert sum(sample(connection, source, spec)["raw.t0"].values()) == length


def test_rows_without_a_reference_come_at_the_rate_of_those_with_one(connection: psycopg.Connection[Any]) -> None:
    parents: list[Row] = [(number, 0, None, None) for number in range(1000)]
    children: list[Row] = [(number, 0, number % 1000, None) for number in range(4000)]
    children += [(number, 0, None, None) for number in range(4000, 8000)]
    children += [(number, 0, number, None) for number in range(8000, 12000)]
    relation = Relation("raw.t1", ("a",), "raw.t0", ("id",))
    source = Data({"raw.t0": parents, "raw.t1": children}, {"raw.t0": True, "raw.t1": True}, (relation,))
    spec = SampleSpec({"raw.t0": Rows(100), "raw.t1": ChildrenOf(("raw.t0",))}, (relation,))
    chosen = sample(connection, source, spec)["raw.t1"]
    siblings = sum(1 for row in chosen if row[0] < 4000)
    unset = sum(1 for row in chosen if 4000 <= row[0] < 8000)
    orphans = sum(1 for row in chosen if row[0] >= 8000)
    assert siblings == 400
    for rate in (unset, orphans):
        assert abs(rate - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5


def test_a_table_that_nobody_asks_for_is_empty(connection: psycopg.Connection[Any]) -> None:
    source = Data({"raw.t0": [(1, 0, None, None)]}, {"raw.t0": True}, ())
    assert not sample(connection, source, SampleSpec({"raw.t0": Nothing()}))["raw.t0"]


def test_edge_cases_come_with_what_they_refer_to_and_with_their_children(connection: psycopg.Connection[Any]) -> None:
    relation = Relation("raw.t1", ("a",), "raw.t0", ("id",))
    rows: dict[str, list[Row]] = {"raw.t0": [(number, 0, None, None) for number in range(9)]}
    rows["raw.t1"] = [(number, 0, number % 9, None) for number in range(18)]
    source = Data(rows, {"raw.t0": True, "raw.t1": True}, (relation,))
    down = SampleSpec({"raw.t0": Rows(0), "raw.t1": ChildrenOf(("raw.t0",))}, (relation,))
    up = SampleSpec({"raw.t0": Rows(0), "raw.t1": Rows(0)}, (relation,))
    for spec, table, whys in (
        (down, "raw.t0", [{Why.edge_case: 1}, {Why.child: 2}]),
        (up, "raw.t1", [{Why.reference: 1}, {Why.edge_case: 1}]),
    ):
        with connection.transaction(force_rollback=True):
            selection = Selection(connection, load(connection, source), spec, {table: ["(0,4)"]})
            selection.run()
            assert [selection.counts(name) for name in ("raw.t0", "raw.t1")] == whys


def test_a_view_is_sampled_from_a_copy_of_its_rows(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("CREATE VIEW pg_temp.numbers AS SELECT number AS id FROM generate_series(1, 1000) AS number")
        view = SourceTable("raw.numbers", "pg_temp", "numbers", (Column("id", "integer"),), is_view=True)
        selection = Selection(connection, {"raw.numbers": view}, SampleSpec({"raw.numbers": Where("id % 10 = 0")}))
        selection.run()
        source, handles = selection.source("raw.numbers"), selection.handles("raw.numbers")
        query = f"SELECT sum(id) FROM {source} WHERE ctid IN (SELECT handle FROM {handles})"
        assert connection.execute(query.encode()).fetchone() == (sum(range(10, 1001, 10)),)
