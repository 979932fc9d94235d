"""`pipedag-dagster sample plan` and `sample why`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipedag_dagster_tests.helpers import Query
from pipedag_dagster_tests.helpers.command_line import Command

RULES = """
attrs: {copy_filtered_input: true, copy_source: full}
sample:
  relations: [orders.customer -> customers.id]
  keep: [{table: orders, where: id = 3, because: it broke the report}]
  tables: {orders: {where: id <= 1}, customers: parents}
"""


@pytest.fixture
def shop(full: Command, project: Path) -> Command:
    """The shop has run in full. midi has the orders 1 and 3, and their customers."""
    (project / "instances" / "midi.yaml").write_text(RULES)
    return full


def test_a_plan_shows_rows_rules_reasons_and_what_each_relation_brings(shop: Command) -> None:
    out = shop("sample", "plan", "midi").out
    assert re.search(r"raw\.orders +2 +3 +66\.7% +where: id <= 1 +1 kept, 1 chosen by", out)
    assert re.search(r"raw\.customers +2 +2 +100\.0% +parents +2 referred to", out)
    assert re.search(r"raw\.orders\.customer -> raw\.customers\.id +2 ", out)


def test_a_plan_writes_nothing(shop: Command, query: Query) -> None:
    shop("sample", "plan", "midi")
    assert query("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'midi%'") == []


def test_a_plan_that_a_run_would_refuse_fails_and_names_the_relation(shop: Command, project: Path) -> None:
    (project / "instances" / "midi.yaml").write_text(RULES + "  max_rows: 3\n")
    done = shop("sample", "plan", "midi")
    assert done.code == 1
    assert "max_rows is 3" in done.out
    assert "2 of them come along by raw.orders.customer -> raw.customers.id" in done.out


@pytest.mark.parametrize(
    ("table", "condition", "chain"),
    [
        ("raw.orders", "id = 1", ["raw.orders id=1", "rule of the table chose it: where: id <= 1"]),
        ("orders", "id = 3", ["raw.orders id=3", "is kept, by id = 3, because: it broke the report"]),
        ("customers", "id = 2", ["raw.customers id=2", "is referred to", "\n  raw.orders id=3", "is kept"]),
    ],
)
def test_the_chain_from_a_row_to_what_chose_it(shop: Command, table: str, condition: str, chain: list[str]) -> None:
    out = shop("sample", "why", "midi", table, condition).out
    places = [out.index(part) for part in chain]
    assert places == sorted(places)


def test_a_row_that_is_not_in_the_sample_says_how_to_keep_it(shop: Command) -> None:
    out = shop("sample", "why", "midi", "raw.orders", "id = 2").out
    assert "This row is not in the sample of midi." in out
    assert 'pipedag-dagster keep raw.orders "id = 2"' in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("midi", "raw.order", "id = 1"), "no input task makes a table 'raw.order'. Did you mean 'raw.orders'?"),
        (("midi", "raw.orders", "id = 99"), "no row of raw.orders in full is meant by id = 99"),
        (("midi", "raw.orders", "ID ="), "The database refuses 'ID ='"),
        (("full", "raw.orders", "id = 1"), "Instance 'full' reads its inputs itself"),
    ],
)
def test_a_mistake_is_explained(shop: Command, arguments: tuple[str, ...], message: str) -> None:
    done = shop("sample", "why", *arguments)
    assert done.code == 1
    assert message in done.err


def test_a_source_that_never_ran_is_named(command: Command, project: Path) -> None:
    (project / "instances" / "midi.yaml").write_text(RULES)
    done = command("sample", "plan", "midi")
    assert done.code == 1
    assert "pipedag-dagster run full" in done.err
