"""Which rows a sample has: references hold, smaller samples are part of larger ones, and the order of rows is nothing.

Random schemas with self references, circles, composite, conditional and polymorphic references, NULLs, orphans,
duplicates and tables without keys; random rules, rows that are kept, and edge cases.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.sampling.row_order import key_hash
from pipedag_dagster.sampling.rules import (
    ChildrenOf,
    Fraction,
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
from pipedag_dagster_tests.sampling.random_tables import COLUMNS, Asked, Data, Row, data, load, sample, two_sizes

CASES = 10_000 if os.environ.get("PIPEDAG_TORTURE") == "long" else 120
CASES = int(os.environ.get("PIPEDAG_SAMPLING_CASES", CASES))


@pytest.fixture(scope="module")
def connection(server_url: sa.URL) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server_url.render_as_string(hide_password=False)) as connection:
        yield connection


def refers(relation: Relation, row: Row) -> tuple[int, ...] | None:
    """What a row refers to by a relation; None when it refers to nothing."""
    if relation.when and row[1] != int(relation.when[-1]):
        return None
    values = tuple(row[COLUMNS.index(column)] for column in relation.columns)
    return None if None in values else values  # type: ignore[return-value]


def keys(relation: Relation, rows: Counter[Row]) -> dict[tuple[int | None, ...], Counter[Row]]:
    found: dict[tuple[int | None, ...], Counter[Row]] = {}
    for row, count in rows.items():
        key = tuple(row[COLUMNS.index(column)] for column in relation.parent_columns)
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
    _, asked = drawn.draw(two_sizes(source))
    chosen = sample(connection, source, asked)
    for relation in source.relations:
        if isinstance(asked.spec.rule(relation.parent), Nothing):
            continue  # asked to break
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
    less, more = drawn.draw(two_sizes(source))
    small, large = sample(connection, source, less), sample(connection, source, more)
    for name, rows in source.rows.items():
        assert small[name] <= large[name] <= Counter(rows), name


@many
@given(drawn=st.data())
def test_the_order_in_which_rows_are_stored_makes_no_difference(
    connection: psycopg.Connection[Any], drawn: st.DataObject
) -> None:
    source = drawn.draw(data())
    _, asked = drawn.draw(two_sizes(source))
    assert sample(connection, source, asked) == sample(connection, source.shuffled(), asked)


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


def shop(orphans: int) -> Data:
    """1,000 customers, with 4 orders each; every order has 2 items, each of one of 100 products."""
    rows: dict[str, list[Row]] = {
        "raw.t0": [(number, 0, None, None) for number in range(1000)],
        "raw.t1": [(number, 0, number % 1000, None) for number in range(4000)],
        "raw.t2": [(number, 0, number % (4000 + orphans), number % 100) for number in range(8000)],
        "raw.t3": [(number, 0, None, None) for number in range(100)],
    }
    relations = (
        Relation("raw.t1", ("a",), "raw.t0", ("id",)),
        Relation("raw.t2", ("a",), "raw.t1", ("id",)),
        Relation("raw.t2", ("b",), "raw.t3", ("id",)),
    )
    return Data(rows, dict.fromkeys(rows, True), relations)


@pytest.mark.parametrize("orphans", [0, 500])
def test_no_source_table_is_read_more_than_twice(connection: psycopg.Connection[Any], orphans: int) -> None:
    source = shop(orphans)
    rules: dict[str, Rule] = {
        "raw.t0": Rows(10),
        "raw.t1": ChildrenOf(("raw.t0",)),
        "raw.t2": ChildrenOf(("raw.t1",)),
        "raw.t3": Parents(),
    }
    with connection.transaction(force_rollback=True):
        tables = load(connection, source)
        tables = {name: replace(table, rows=len(source.rows[name])) for name, table in tables.items()}
        before = scans(connection, tables)
        Selection(connection, tables, SampleSpec(rules, source.relations)).run()
        assert max((scans(connection, tables) - before).values()) <= 2


def scans(connection: psycopg.Connection[Any], tables: Mapping[str, SourceTable]) -> Counter[str]:
    """How often each source table was read from its beginning to its end. Indexes were built like that, too."""
    schemas = [table.schema for table in tables.values()]
    query = "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE schemaname = ANY (%s)"
    return Counter(dict(connection.execute(query, [schemas]).fetchall()))


@pytest.mark.parametrize(("share", "children"), [(0.5, 1000), (0.0, 0)])
def test_children_of_an_empty_table_come_at_the_share_that_its_rule_asks_for(
    connection: psycopg.Connection[Any], share: float, children: int
) -> None:
    rows: dict[str, list[Row]] = {"raw.t0": [], "raw.t1": [(number, 0, number, None) for number in range(2000)]}
    relation = Relation("raw.t1", ("a",), "raw.t0", ("id",))
    spec = SampleSpec({"raw.t0": Fraction(share), "raw.t1": ChildrenOf(("raw.t0",))}, (relation,))
    chosen = sample(connection, Data(rows, {"raw.t0": True, "raw.t1": True}, (relation,)), spec)["raw.t1"]
    assert abs(chosen.total() - children) <= 4 * (2000 * share * (1 - share)) ** 0.5


def test_rows_of_a_kind_that_refers_to_nothing_come_at_the_rate_of_the_others(
    connection: psycopg.Connection[Any],
) -> None:
    parents: list[Row] = [(number, 0, None, None) for number in range(100)]
    children: list[Row] = [(number, number % 4, number % 100, None) for number in range(8000)]
    relations = tuple(
        Relation("raw.t2", ("a",), parent, ("id",), f"kind = {kind}") for kind, parent in ((1, "raw.t0"), (2, "raw.t1"))
    )
    source = Data(
        {"raw.t0": parents, "raw.t1": parents, "raw.t2": children},
        {"raw.t0": True, "raw.t1": True, "raw.t2": True},
        relations,
    )
    rules: dict[str, Rule] = {"raw.t0": Rows(10), "raw.t1": Rows(10), "raw.t2": ChildrenOf(("raw.t0", "raw.t1"))}
    chosen = sample(connection, source, SampleSpec(rules, relations))["raw.t2"]
    unattached = sum(1 for row in chosen if row[1] in (0, 3))
    assert abs(unattached - 400) <= 4 * (4000 * 0.1 * 0.9) ** 0.5


def test_keys_that_are_folded_by_the_hash_of_postgresql_are_told_apart(connection: psycopg.Connection[Any]) -> None:
    key = key_hash([("n", "bigint")], "raw.t0", 0)
    query = f"SELECT count(DISTINCT {key}) FROM (VALUES (1), (4294967296)) AS t (n)"
    assert connection.execute(query.encode()).fetchone() == (2,)


def test_a_condition_cannot_write_when_the_work_tables_are_made_first(connection: psycopg.Connection[Any]) -> None:
    source = Data({"raw.t0": [(1, 0, None, None)]}, {"raw.t0": True}, ())
    with connection.transaction(force_rollback=True), connection.transaction(force_rollback=True):
        connection.execute("CREATE TABLE public.log (id int)")
        body = "INSERT INTO public.log VALUES (1) RETURNING true"
        connection.execute(f"CREATE FUNCTION pg_temp.log() RETURNS bool LANGUAGE sql AS '{body}'".encode())
        selection = Selection(connection, load(connection, source), SampleSpec({"raw.t0": Where("pg_temp.log()")}))
        selection.create()
        connection.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            selection.run()


def test_a_rule_with_fewer_parents_takes_no_row_that_one_with_more_does_not(
    connection: psycopg.Connection[Any],
) -> None:
    """Rows for which the `when` of a relation does not hold: the other parent changes nothing about them."""
    own = Relation("raw.t0", ("a",), "raw.t0", ("id",))
    other = Relation("raw.t0", ("b",), "raw.t1", ("id",), "kind = 1")
    lonely: list[Row] = [(100 + number, None, 1, 18) for number in range(50)]
    source = Data(
        {"raw.t0": lonely, "raw.t1": [(number, None, None, None) for number in range(10)]},
        {"raw.t0": True, "raw.t1": True},
        (own, other),
    )
    less = SampleSpec({"raw.t0": ChildrenOf(("raw.t1",)), "raw.t1": Rows(5)}, (own, other))
    more = SampleSpec({"raw.t0": ChildrenOf(("raw.t0", "raw.t1")), "raw.t1": Rows(5)}, (own, other))
    small, large = (sample(connection, source, Asked(spec, {})) for spec in (less, more))
    assert small["raw.t0"]
    assert small["raw.t0"] <= large["raw.t0"]
