"""Cache functions that are ready to use, and several of them together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    ConfigContext,
    Flow,
    PipedagConfig,
    Stage,
    environment,
    file_content,
    materialize,
    table_content,
)
from pipedag_dagster.errors import WiringError


@pytest.fixture
def full(instances: Callable[..., PipedagConfig]) -> ConfigContext:
    return instances().get("full")


def runs(full: ConfigContext, cache: Any, change: Callable[[], Any]) -> list[bool]:
    """Whether a task with this cache function runs: at first, again, and after a change."""
    ran: list[int] = []

    @materialize(cache=cache, version="1")
    def load() -> pd.DataFrame:
        ran.append(1)
        return pd.DataFrame({"x": [len(ran)]})

    with Flow("shop") as flow, Stage("raw"):
        load()
    found = []
    for step in (lambda: None, lambda: None, change):
        step()
        before = len(ran)
        assert flow.run(config=full).successful
        found.append(len(ran) > before)
    return found


@pytest.mark.parametrize("change", ["changed", "removed", "added to a folder"])
def test_another_content_of_a_file_is_fresh_input(full: ConfigContext, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    file = folder / "rates.csv"
    file.write_text("1")
    changes: dict[str, Callable[[], Any]] = {
        "changed": lambda: file.write_text("2"),
        "removed": file.unlink,
        "added to a folder": lambda: (folder / "new.csv").write_text("1"),
    }
    watched = folder if change == "added to a folder" else file
    assert runs(full, file_content(watched), changes[change]) == [True, False, True]


def test_a_relative_path_starts_at_the_module_that_names_it() -> None:
    assert file_content("test_cache_functions.py").paths == {"test_cache_functions.py": Path(__file__).resolve()}


def test_another_value_of_a_variable_is_fresh_input(full: ConfigContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_REGION", "north")
    change = lambda: monkeypatch.setenv("SHOP_REGION", "south")  # noqa: E731
    assert runs(full, environment("SHOP_REGION"), change) == [True, False, True]
    assert "south" not in str(environment("SHOP_REGION")())


def test_other_rows_of_a_foreign_table_are_fresh_input(full: ConfigContext, database_url: sa.URL) -> None:
    with psycopg.connect(database_url.render_as_string(hide_password=False), autocommit=True) as erp:
        erp.execute("CREATE SCHEMA erp CREATE TABLE orders (id int)")
        change = lambda: erp.execute("INSERT INTO erp.orders VALUES (1)")  # noqa: E731
        assert runs(full, table_content("erp.orders"), change) == [True, False, True]


def test_several_cache_functions_count_together(
    full: ConfigContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = lambda: monkeypatch.setenv("SHOP_REGION", "south")  # noqa: E731
    cache = [file_content(tmp_path / "rates.csv"), environment("SHOP_REGION"), lambda: 1]
    assert runs(full, cache, change) == [True, False, True]


def test_each_of_several_gets_the_arguments_that_it_names(full: ConfigContext) -> None:
    seen: list[Any] = []

    def of_region(region: str) -> None:
        seen.append(region)

    def of_nothing() -> None:
        seen.append("nothing")

    @materialize(cache=[of_region, of_nothing], version="1")
    def load(region: str, year: int) -> pd.DataFrame:
        return pd.DataFrame({"x": [year]})

    with Flow("shop") as flow, Stage("raw"):
        load("north", 2024)
    assert flow.run(config=full).successful
    assert seen == ["north", "nothing"]


def test_what_is_no_function_is_refused() -> None:
    def load() -> None: ...

    with pytest.raises(WiringError, match="cache must be a function, or a list of functions"):
        materialize(cache=["rates.csv"])(load)
