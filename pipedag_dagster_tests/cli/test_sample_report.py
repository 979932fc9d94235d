"""`pipedag-dagster sample report`."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest

from pipedag_dagster_tests.helpers import SIZES, Query
from pipedag_dagster_tests.helpers.command_line import Command, ShopAfter

RELATION = """
sample:
  relations: [orders.customer -> customers.id]
"""


@pytest.fixture
def database_template(shop_after: ShopAfter) -> str:
    return shop_after("full", "midi", midi=SIZES["midi"] + RELATION)


@pytest.fixture
def midi(command: Command, project: Path) -> Command:
    """The shop has run in full and midi. Orders of midi bring their customers along."""
    with (project / "instances" / "midi.yaml").open("a") as file:
        file.write(RELATION)
    return command


def test_the_report_shows_rows_reasons_and_relations(midi: Command) -> None:
    out = midi("sample", "report", "midi").out
    assert re.search(r"raw\.orders +2 +3 +66\.7% +2 chosen by rule", out)
    assert re.search(r"raw\.customers +2 +2 +100\.0%", out)
    assert "0 broken references" in out


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(midi: Command, tmp_path: Path) -> None:
    file = tmp_path / "midi.html"
    assert str(file) in midi("sample", "report", "midi", "--html", str(file)).out.replace("\n", "")
    text = file.read_text()
    assert "<svg" in text
    assert "raw.orders.customer -&gt; raw.customers.id" in text
    assert not re.search(r"<script|<link|src=|url\(|https?:", text)


def test_dagster_shows_where_the_page_is(midi: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    file = tmp_path / "midi.html"
    assert midi("sample", "report", "midi", "--html", str(file)).code == 0
    with dg.DagsterInstance.get() as dagster:
        (record,) = dagster.fetch_observations(dg.AssetKey(["midi", "raw", "orders"]), limit=1).records
    assert record.asset_observation is not None
    assert record.asset_observation.metadata["pipedag/sample_report"].value == str(file)


def test_an_instance_that_copies_nothing_has_no_report(midi: Command) -> None:
    done = midi("sample", "report", "full")
    assert done.code == 1
    assert "Instance 'full' reads its inputs itself" in done.err


def test_an_instance_that_never_ran_says_what_to_run(midi: Command) -> None:
    done = midi("sample", "report", "mini")
    assert done.code == 1
    assert "pipedag-dagster run mini" in done.err


def test_the_query_for_weights_runs_in_the_small_instance(midi: Command, query: Query) -> None:
    text = midi("sample", "weights", "midi", "raw.orders").out
    rows = query(text)
    assert len(rows) == 2
    assert all(row[-1] > 1 for row in rows)  # each stands for more than itself


def test_a_table_that_is_not_copied_has_no_weights(midi: Command) -> None:
    done = midi("sample", "weights", "midi", "raw.order")
    assert done.code == 1
    assert "Choose one of: raw.orders, raw.customers" in done.err
