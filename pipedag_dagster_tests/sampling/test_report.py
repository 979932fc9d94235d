"""How a sample compares with its source: references, columns, rare rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.sampling.report import CommittedSample, TableReport, report, summary
from pipedag_dagster.sampling.rules import ChildrenOf, Relation, Rows, Rule, SampleSpec
from pipedag_dagster.sampling.source_tables import Connection, SourceTable
from pipedag_dagster_tests.helpers.profiles import Remembered

COLUMNS = {"id": "integer", "plane": "integer", "carrier": "text", "delay": "numeric", "note": "text", "data": "json"}
PLANES = {"number": "integer"}
RELATION = Relation("raw.flights", ("plane",), "raw.planes", ("number",))
Row = tuple[Any, ...]


@pytest.fixture
def transaction(server_url: sa.URL) -> Iterator[Connection]:
    with psycopg.connect(server_url.render_as_string(hide_password=False)) as connection:
        connection.execute("CREATE SCHEMA report")
        yield connection
        connection.rollback()


def create(connection: Connection, name: str, physical: str, columns: dict[str, str], rows: list[Row]) -> SourceTable:
    body = ", ".join(f"{column} {kind}" for column, kind in columns.items())
    connection.execute(f"CREATE TABLE report.{physical} ({body})".encode())
    marks = ", ".join(["%s"] * len(columns))
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO report.{physical} VALUES ({marks})".encode(), rows)
    return SourceTable(name, "report", physical, tuple(Column(*column) for column in columns.items()))


def flights(count: int) -> list[Row]:
    chance = random.Random(0)
    return [
        (
            number,
            chance.choice([None, chance.randrange(60)]),
            chance.choice("AABBBCDE"),
            chance.choice([None, chance.randrange(1000)]),
            "x" * chance.randrange(200) + str(number),
            '{"a": 1}',
        )
        for number in range(count)
    ]


FULL = flights(3000)
ALL_PLANES = [(number,) for number in range(50)]


def compared(
    connection: Connection,
    sample: list[Row],
    planes: list[Row],
    store: Remembered | None = None,
    rule: Rule | None = None,
) -> dict[str, TableReport]:
    tables = {
        name: CommittedSample(
            create(connection, name, f"sample_{physical}", columns, ours),
            create(connection, name, f"full_{physical}", columns, theirs),
            {"rule": len(ours)},
        )
        for name, physical, columns, ours, theirs in (
            ("raw.flights", "flights", COLUMNS, sample, FULL),
            ("raw.planes", "planes", PLANES, planes, ALL_PLANES),
        )
    }
    rules = {"raw.flights": rule or Rows(len(sample)), "raw.planes": Rows(len(planes))}
    reports = report(connection, connection, tables, SampleSpec(rules, (RELATION,)), store or Remembered())
    return {one.name: one for one in reports}


def test_a_copy_of_everything_has_no_distance(transaction: Connection) -> None:
    for table in compared(transaction, FULL, ALL_PLANES).values():
        assert table.share == 1
        for column in table.columns:
            assert column.source == column.sample or not column.source.exact
            assert (column.distance, column.missing, column.edge_cases) == (0, (), ())


def test_statistics_are_those_of_a_plain_count(transaction: Connection) -> None:
    (table,) = (one for one in compared(transaction, FULL[:200], ALL_PLANES).values() if one.name == "raw.flights")
    for at, column in enumerate(table.columns[:4]):
        for rows, statistics in ((FULL, column.source), (FULL[:200], column.sample)):
            values = [row[at] for row in rows]
            given = [value for value in values if value is not None]
            assert statistics.nulls == len(values) - len(given)
            assert statistics.distinct == len(set(given)) or not statistics.exact
            assert abs(statistics.distinct - len(set(given))) <= 0.1 * len(set(given))
            if statistics.by == "categories":
                assert statistics.categories == Counter(map(str, given))
            else:
                points = [int(point) for point in statistics.grid]
                counts = Counter(sum(point <= value for point in points) for value in given)
                assert statistics.counts == [counts[place] for place in range(len(points) + 1)]
    assert [column.source.by for column in table.columns] == [
        "values", "values", "categories", "values", "lengths", "categories",
    ]  # fmt: skip


def test_broken_references_are_told_from_orphans(transaction: Connection) -> None:
    planes = [(number,) for number in range(40)]
    table = compared(transaction, FULL[:500], planes)["raw.flights"]
    (relation,) = table.relations
    numbers = [row[1] for row in FULL[:500] if row[1] is not None]
    assert table.broken == sum(40 <= number < 50 for number in numbers)
    assert relation.sample.orphans == sum(number >= 40 for number in numbers)
    assert relation.source.orphans == sum(row[1] is not None and row[1] >= 50 for row in FULL)
    assert relation.sample.unset == 500 - len(numbers)
    assert relation.source.children_per_parent == sum(row[1] is not None and row[1] < 50 for row in FULL) / 50


def test_what_is_missing_is_named(transaction: Connection) -> None:
    few = sorted((row for row in FULL if row[2] != "D" and row[3] is not None), key=lambda row: row[3])[:300]
    columns = {column.name: column for column in compared(transaction, few, ALL_PLANES)["raw.flights"].columns}
    assert columns["carrier"].missing == ("D",)
    assert columns["delay"].edge_cases == ("NULL", "largest")


def test_a_distance_is_near_when_chance_explains_it(transaction: Connection) -> None:
    table = compared(transaction, random.Random(1).sample(FULL, 300), ALL_PLANES)["raw.flights"]
    assert not table.far


def test_a_sample_of_the_lowest_values_is_far(transaction: Connection) -> None:
    lowest = sorted(FULL, key=lambda row: (row[3] is None, row[3]))[:300]
    table = compared(transaction, lowest, ALL_PLANES)["raw.flights"]
    assert [column.name for column in table.far] == ["delay"]
    (delay,) = table.far
    values = [row[3] for row in FULL if row[3] is not None]
    top = lowest[-1][3]
    assert abs(delay.distance - (1 - sum(value <= top for value in values) / len(values))) < 0.03


def test_children_of_one_parent_count_once(transaction: Connection) -> None:
    sample = [row for row in FULL if row[1] is not None and row[1] < 10]
    table = compared(transaction, sample, ALL_PLANES, rule=ChildrenOf(("raw.planes",)))["raw.flights"]
    assert table.effective is not None
    assert 9 < table.effective <= 10


def test_the_source_is_counted_once(transaction: Connection) -> None:
    store = Remembered()
    first = compared(transaction, FULL[:100], ALL_PLANES, store)
    transaction.execute("TRUNCATE report.full_flights")
    transaction.execute("DROP TABLE report.sample_flights, report.sample_planes")
    transaction.execute("ALTER TABLE report.full_planes RENAME TO unused")
    transaction.execute("ALTER TABLE report.full_flights RENAME TO unused_too")
    second = compared(transaction, FULL[:100], ALL_PLANES, store)
    assert first == second
    assert len(store.bodies) == 3


def test_the_summary_is_one_line(transaction: Connection) -> None:
    text = summary(list(compared(transaction, FULL[:300], [(number,) for number in range(40)]).values()))
    assert "broken references" in text
    assert "\n" not in text
