"""The example with two full instances: one follows the source, the other one only when it is told to."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from pipedag_dagster import PipedagConfig
from pipedag_dagster.cli.main import cli
from pipedag_dagster.errors import FreshInput
from pipedag_dagster.examples import fresh_and_stable
from pipedag_dagster.examples.fresh_and_stable.flow import orders_file

MODULE = "pipedag_dagster.examples.fresh_and_stable.definitions"
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, database_url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Type `pipedag-dagster run …` where there is a file of orders."""
    monkeypatch.setenv("SHOP_DB", database_url.render_as_string(hide_password=False))
    monkeypatch.setenv("SHOP_ORDERS", str(tmp_path / "orders.csv"))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    importlib.import_module(MODULE)
    write_orders(0)

    def type_in(*words: str) -> Result:
        return CliRunner().invoke(cli, ["run", *words, "-m", MODULE])

    return type_in


def write_orders(first: int) -> None:
    """What the outside world does: 50 orders from this id on."""
    ids = range(first, first + 50)
    frame = pd.DataFrame({"id": ids, "customer": [f"c{i % 3}" for i in ids], "amount": 10})
    frame.to_csv(orders_file(), index=False)


def ids(instance: str) -> list[int]:
    """The orders that an instance has."""
    files = PipedagConfig(Path(fresh_and_stable.__path__[0]) / "instances")
    store = files.get(instance).store.table_store
    frame = store.read(store.current(["raw"])["raw"].tables["orders"])
    return sorted(frame["id"])


def done(result: Result) -> str:
    assert result.exception is None, result.exception
    return result.output


def test_full_fresh_follows_the_source_and_full_only_when_it_is_told_to(run: Run) -> None:
    done(run("full_fresh"))
    done(run("full", "--cache-mode", "normal"))
    for instance in ("midi", "mini"):
        done(run(instance))
    assert [len(ids(instance)) for instance in ("full_fresh", "full", "midi", "mini")] == [50, 50, 20, 2]

    write_orders(1000)
    assert "fresh input" in done(run("full_fresh"))
    refused = run("full")
    assert isinstance(refused.exception, FreshInput)
    assert "raw.load would read its source again (fresh input)" in str(refused.exception)
    assert "--cache-mode normal" in str(refused.exception)
    assert (ids("full_fresh")[0], ids("full")[0]) == (1000, 0)
    assert "0 of 2 tables ran" in done(run("midi"))
    assert "0 of 2 tables ran" in done(run("full", "--cache-mode", "ignore_fresh_input"))

    assert "2 of 2 tables ran" in done(run("full", "--cache-mode", "normal"))
    for instance in ("midi", "mini"):
        assert "input changed: full: raw.orders" in done(run(instance))
    assert all(min(ids(instance)) >= 1000 for instance in ("full_fresh", "full", "midi", "mini"))
    assert "0 of 2 tables ran" in done(run("full"))
