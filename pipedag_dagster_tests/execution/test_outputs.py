"""What a task returns beside tables: values, several and nested outputs; constants as arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from pipedag_dagster import (
    Blob,
    ConfigContext,
    Flow,
    Result,
    Stage,
    StageLockContext,
    Table,
    materialize,
)
from pipedag_dagster.errors import NotMaterialized, TaskFailed, UnstorableResult
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.helpers.two_tasks import Economy, Line, orders, same

Made = Callable[[], Any]


@pytest.fixture
def full(instances: Instances) -> ConfigContext:
    return instances().get("full")


class Pair(NamedTuple):
    left: Any
    right: Any


# Values

VALUES: dict[str, Any] = {
    "int": 10**30,
    "float": 1e22,
    "whole float": 1.0,
    "minus zero": -0.0,
    "nan": math.nan,
    "infinity": [math.inf, -math.inf],
    "text": "ä\0\ud800'\"\\",
    "None": None,
    "bool": {"yes": True, "no": False},
    "order of keys": {"b": 1, "a": 2},
    "keys": {1: "one", None: 2, "$output": 3},
    "tuple": (1, [2, (3,)], ()),
    "empty": [[], {}, ""],
    "dataclass": Economy(1, {"eur": 1.5}),
    "named tuple": Pair(1, Pair(2, [3])),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_value_comes_to_other_tasks_as_it_was(full: ConfigContext, value: Any) -> None:
    line = Line(full, value)
    with StageLockContext():
        result = line.run()
        assert same(result.get(line.made), value)
    assert same(line.seen, [value])
    assert math.copysign(1, line.seen[0]) == -1 if value == 0.0 and not isinstance(value, list | dict | tuple) else True


def test_a_value_that_is_the_same_again_changes_nothing_downstream(full: ConfigContext) -> None:
    line = Line(full, {"rate": 1.5})
    line.run()
    assert line.ran == ["make", "look"]
    assert line.again({"rate": 1.5}) == ["make"]
    assert line.again({"rate": 1.6}) == ["make", "look"]
    assert line.seen[-1] == {"rate": 1.6}


UNSTORABLE_VALUES: dict[str, tuple[Any, str]] = {
    "a set": ({1}, r"raw\.make returned set, which neither a table nor JSON can hold\. .*Blob\(…\)"),
    "deep inside": ({"a": [0, object()]}, r"raw\.make returned, at \['a'\]\[1\], object"),
    "a date": (pd.Timestamp("2024-01-01"), r"returned Timestamp"),
    "too large": ("x" * 1_000_001, r"raw\.make is a value of 1,000,003 characters .*Blob\(…\)"),
    "a dict with tuples as keys": ({(1, 2): 3}, "a dict whose keys are neither text nor whole numbers"),
}


@pytest.mark.parametrize(("value", "message"), UNSTORABLE_VALUES.values(), ids=UNSTORABLE_VALUES)
def test_what_is_no_json_is_refused_with_what_to_write(full: ConfigContext, value: Any, message: str) -> None:
    with pytest.raises(UnstorableResult, match=message):
        Line(full, value).run()


def test_what_contains_itself_is_refused(full: ConfigContext) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnstorableResult, match="contains itself"):
        Line(full, lambda: loop).run()


def test_a_class_that_nobody_can_import_is_refused(full: ConfigContext) -> None:
    @dataclass
    class Local:
        x: int

    with pytest.raises(UnstorableResult, match="Local, whose class is defined inside a function"):
        Line(full, Local(1)).run()


# Several and nested outputs

NESTED: dict[str, tuple[Made, dict[str, Any], Callable[[Any], Any], Any, dict[str, str]]] = {
    "a list of tables": (
        lambda: [Table(orders(1), "first"), orders(2)],
        {},
        lambda made: made,
        [orders(1), orders(2)],
        {"make": "json", "first": "table", "make_1": "table"},
    ),
    "a dict of a table, a blob and a number": (
        lambda: {"sales": orders(1), "model": Blob({1, 2}), "n": 3},
        {},
        lambda made: made,
        {"sales": orders(1), "model": {1, 2}, "n": 3},
        {"make": "json", "make_sales": "table", "make_model": "blob"},
    ),
    "parts by key": (
        lambda: {"a": [orders(1), {"n": 3}], "b": orders(2)},
        {},
        lambda made: [made["a"][0], made["a"][1]["n"]],
        [orders(1), 3],
        {"a_0": "table", "a_1_n": "json", "b": "table"},
    ),
    "the whole, and a part": (
        lambda: {"A": orders(1), "n": 3},
        {},
        lambda made: (made, made["a"]),
        ({"A": orders(1), "n": 3}, orders(1)),
        {"a": "table"},
    ),
    "fields of a dataclass": (
        lambda: Economy(orders(1), {"eur": 1.5}),
        {},
        lambda made: {"x": made.sales, "y": made.rates, "z": made.rates["eur"]},
        {"x": orders(1), "y": {"eur": 1.5}, "z": 1.5},
        {"sales": "table", "rates_eur": "json"},
    ),
    "a dataclass": (
        lambda: Economy(orders(1), {"eur": 1.5}),
        {},
        lambda made: made,
        Economy(orders(1), {"eur": 1.5}),
        {"make": "json", "make_sales": "table"},
    ),
    "declared, a dict of them": (
        lambda: {"rates": {"eur": 1.5}, "sales": orders(1)},
        {"outputs": ["sales", "rates"]},
        lambda made: made,
        {"rates": {"eur": 1.5}, "sales": orders(1)},
        {"sales": "table", "rates": "json"},
    ),
    "declared, a dataclass": (
        lambda: Economy(orders(1), {"eur": 1.5}),
        {"outputs": ["sales", "rates", "note"]},
        lambda made: [made["rates"]["eur"], made["note"], made],
        [1.5, "none", Economy(orders(1), {"eur": 1.5})],
        {"sales": "table", "rates": "json", "note": "json"},
    ),
    "numbered, with a list in it": (
        lambda: (orders(1), [orders(2), 7]),
        {"nout": 2},
        lambda made: [made[1][0], made[1][1], made],
        [orders(2), 7, (orders(1), [orders(2), 7])],
        {"make": "table", "make_2": "json", "make_2_0": "table"},
    ),
    "one declared, nested": (
        lambda: {"deep": orders(1)},
        {},
        lambda made: made["deep"],
        orders(1),
        {"deep": "table"},
    ),
    "nothing": (lambda: [], {}, lambda made: made, [], {"make": "json"}),
}


@pytest.mark.parametrize(("value", "options", "take", "seen", "kinds"), NESTED.values(), ids=NESTED)
def test_nested_outputs_come_back_in_the_shape_in_which_they_were_returned(
    full: ConfigContext, value: Made, options: dict[str, Any], take: Any, seen: Any, kinds: dict[str, str]
) -> None:
    line = Line(full, value, options, take)
    with StageLockContext():
        result = line.run()
        assert {table.asset: table.kind for run, table in result.tables if run.stage == "raw"} == kinds
        returned = value()
        plain = {"sales": orders(1), "model": {1, 2}, "n": 3} if "model" in str(kinds) else returned
        tables = [orders(1), orders(2)] if "first" in kinds else plain
        assert same(result.get(line.made), tables)
    assert same(line.seen, [seen])
    line.run()
    assert line.ran == []
    assert differences(full.store.table_store) == []


def test_each_part_decides_for_itself_what_is_cached(full: ConfigContext) -> None:
    line = Line(full, lambda: {"a": orders(1), "n": 1}, take=lambda made: made["a"])
    line.run()
    assert line.again(lambda: {"a": orders(1), "n": 2}) == ["make"]
    assert line.again(lambda: {"a": orders(2), "n": 2}) == ["make", "look"]
    line.take = lambda made: made["n"]
    line.run()
    assert line.again(lambda: {"a": orders(3), "n": 2}) == ["make"]
    line.take = lambda made: made
    line.run()
    for value in ({"a": orders(4), "n": 2}, {"a": orders(4), "n": 5}, {"n": 5, "a": orders(4)}):
        assert line.again(lambda value=value: value) == ["make", "look"]


def test_a_part_that_is_not_there_is_named(full: ConfigContext) -> None:
    with pytest.raises(UnstorableResult, match=r"raw\.make did not return 'b'"):
        Line(full, lambda: {"a": orders()}, take=lambda made: made["b"]).run()
    line = Line(full, lambda: (orders(), {"x": 1}), {"nout": 2}, take=lambda made: made[1]["y"])
    with pytest.raises(
        NotMaterialized, match=r"raw\.make\[1\]\['y'\] is not in what .* returned: there is no part 'y'"
    ):
        line.run()


def test_two_calls_that_return_a_table_of_one_name_are_refused(full: ConfigContext) -> None:
    @materialize(version="1")
    def many() -> Any:
        return [Table(orders(), "sales")]

    with Flow() as flow, Stage("raw"):
        many(), many()
    with pytest.raises(TaskFailed, match=r"two tables 'sales': one by 'many' and one by 'many_2'"):
        flow.run(full, fail_fast=True)


def test_outputs_in_a_dataclass_are_inputs(full: ConfigContext) -> None:
    line = Line(full, lambda: orders(7), take=lambda made: Economy([made], {"x": 1.0}))
    line.run()
    assert same(line.seen, [Economy([orders(7)], {"x": 1.0})])


# Constants


def test_constants_and_defaults_are_arguments_like_any_other(full: ConfigContext) -> None:
    ran: list[tuple[int, Any]] = []

    def run(factor: int, default: Any) -> Result:
        @materialize(version="1")
        def scaled(table: pd.DataFrame, by: int = 1, extra: Any = default) -> pd.DataFrame:
            ran.append((by, extra))
            return table * by

        @materialize(version="1")
        def load() -> pd.DataFrame:
            return orders()

        with Flow() as flow, Stage("raw"):
            table = load()
            parts = [scaled(table), scaled(table, factor), scaled(table, by=10)]
        ran.clear()
        with StageLockContext():
            result = flow.run(full, fail_fast=True)
            assert [result.get(part)["amount"].tolist()[0] for part in parts] == [1, factor, 10]
        return result

    run(2, {"path": Path("a")})
    assert sorted(ran, key=str) == [(1, {"path": Path("a")}), (10, {"path": Path("a")}), (2, {"path": Path("a")})]
    run(2, {"path": Path("a")})
    assert ran == []
    result = run(3, {"path": Path("a")})
    assert ran == [(3, {"path": Path("a")})]
    assert {run.asset: str(run.reason) for run, _ in result.tables}["scaled_2"] == "argument changed (by)"
    run(3, {"path": Path("b")})
    assert len(ran) == 3
