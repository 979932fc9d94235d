"""Weights estimate the totals of the source without bias."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from statistics import mean, stdev

import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.errors import SampleError
from pipedag_dagster.sampling.report import CommittedSample
from pipedag_dagster.sampling.rules import (
    ChildrenOf,
    EdgeCases,
    Fraction,
    Keep,
    Parents,
    Relation,
    Rows,
    Rule,
    SampleSpec,
)
from pipedag_dagster.sampling.selection import SETTINGS, Selection
from pipedag_dagster.sampling.source_tables import Connection, SourceTable
from pipedag_dagster.sampling.weights import table_weight, weight

SEEDS = 4_000 if os.environ.get("PIPEDAG_TORTURE") == "long" else 400
NAME = "raw.claims"
COLUMNS = (Column("id", "integer"), Column("category", "text"), Column("amount", "integer"))
TABLE = SourceTable(NAME, "weights", "claims", COLUMNS, ("id",))
_chance = random.Random(0)
ROWS = [(number, _chance.choice("AAAAAABBBC"), _chance.randrange(100)) for number in range(150)]
ROWS += [(150, "D", 10), (151, "D", 90), (152, "E", 50)]


@pytest.fixture(scope="module")
def connection(server_url: sa.URL) -> Iterator[Connection]:
    with psycopg.connect(server_url.render_as_string(hide_password=False)) as connection:
        connection.execute("CREATE SCHEMA weights")
        connection.execute("CREATE TABLE weights.claims (id int PRIMARY KEY, category text, amount int)")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO weights.claims VALUES (%s, %s, %s)", ROWS)
        connection.execute(SETTINGS)
        yield connection
        connection.rollback()


def estimates(connection: Connection, spec: SampleSpec) -> dict[str, tuple[float, float]]:
    """The estimated count and sum of each category, from one sample."""
    with connection.transaction(force_rollback=True):
        selection = Selection(connection, {NAME: TABLE}, spec)
        selection.run()
        query = (
            f"SELECT t.category, sum(w), sum(w * t.amount) FROM {TABLE.sql} AS t "
            f"CROSS JOIN LATERAL (SELECT {weight(connection, TABLE, spec)} AS w) AS weighted "
            f"WHERE t.ctid IN (SELECT handle FROM {selection.handles(NAME)}) GROUP BY 1"
        )
        return {row[0]: (float(row[1]), float(row[2])) for row in connection.execute(query.encode())}


@pytest.mark.parametrize(
    ("rule", "keep"),
    [
        (Rows(20), ()),
        (Rows(10, {"category": 2}), ()),
        (Rows(15, {"category": 1}), (Keep(NAME, "amount > 90"),)),
        (Fraction(0.15), ()),
    ],
    ids=["rows", "rows and per value", "rows, per value and keep", "fraction"],
)
def test_counts_and_sums_by_category_have_no_bias(connection: Connection, rule: Rule, keep: tuple[Keep, ...]) -> None:
    found = [estimates(connection, SampleSpec({NAME: rule}, (), keep, seed=seed)) for seed in range(SEEDS)]
    for category in "ABCDE":
        amounts = [row[2] for row in ROWS if row[1] == category]
        for at, truth in enumerate((len(amounts), sum(amounts))):
            values = [one.get(category, (0.0, 0.0))[at] for one in found]
            error = stdev(values) / math.sqrt(SEEDS)
            assert abs(mean(values) - truth) <= 3 * error + 1e-6, (category, at, mean(values), truth, error)


CHILD = "raw.payments"
CHILDREN = SourceTable(CHILD, "weights", "payments", (Column("id", "integer"), Column("claim", "integer")), ("id",))
CLAIM = Relation(CHILD, ("claim",), NAME, ("id",))


def payments(connection: Connection, seed: int) -> dict[str, float]:
    """The estimated numbers of payments: of claims, of claims that do not exist, of no claim."""
    rules = {NAME: Rows(25, {"category": 1}), CHILD: ChildrenOf((NAME,))}
    spec = SampleSpec(rules, (CLAIM,), edge_cases=EdgeCases(orphans=1), seed=seed)
    tables = {NAME: TABLE, CHILD: CHILDREN}
    with connection.transaction(force_rollback=True):
        selection = Selection(connection, tables, spec)
        selection.run()
        reasons = {why.name: count for why, count in selection.counts(NAME).items()}
        committed = {name: CommittedSample(table, table, reasons) for name, table in tables.items()}
        query = (
            "SELECT CASE WHEN claim IS NULL THEN 'none' WHEN claim > 152 THEN 'orphans' ELSE 'children' END, "
            f"sum({table_weight(connection, CHILD, committed, spec)}) FROM {CHILDREN.sql} AS t "
            f"WHERE t.ctid IN (SELECT handle FROM {selection.handles(CHILD)}) GROUP BY 1"
        )
        return {row[0]: float(row[1]) for row in connection.execute(query.encode())}


def test_children_orphans_and_rows_without_a_reference_have_no_bias(connection: Connection) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("CREATE TABLE weights.payments (id int PRIMARY KEY, claim int)")
        chance = random.Random(1)
        rows = [(number, chance.choice([None, chance.randrange(200), chance.randrange(153)])) for number in range(300)]
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO weights.payments VALUES (%s, %s)", rows)
        found = [payments(connection, seed) for seed in range(SEEDS)]
    truth = {
        "none": sum(claim is None for _, claim in rows),
        "orphans": sum(claim is not None and claim > 152 for _, claim in rows),
        "children": sum(claim is not None and claim <= 152 for _, claim in rows),
    }
    for name, count in truth.items():
        values = [one.get(name, 0.0) for one in found]
        assert abs(mean(values) - count) <= 3 * stdev(values) / math.sqrt(SEEDS), (name, mean(values), count)


def test_a_value_with_few_rows_is_known_exactly(connection: Connection) -> None:
    found = estimates(connection, SampleSpec({NAME: Rows(10, {"category": 2})}))
    assert (found["D"], found["E"]) == ((2, 100), (1, 50))


def test_a_row_that_was_not_drawn_weighs_nothing(connection: Connection) -> None:
    query = f"SELECT sum({weight(connection, TABLE, SampleSpec({NAME: Rows(0)}))}) FROM {TABLE.sql} AS t"
    assert connection.execute(query.encode()).fetchone() == (0,)


def test_a_rule_that_draws_no_rows_has_no_weights(connection: Connection) -> None:
    with pytest.raises(SampleError, match="draws no single rows"):
        weight(connection, TABLE, SampleSpec({NAME: Parents()}, edge_cases=EdgeCases()))
