"""An option that nobody reads is an error that says what was meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import (
    Blob,
    Flow,
    InstanceResource,
    PipedagConfig,
    RawSql,
    Stage,
    Table,
    TableIOManager,
    View,
    build_definitions,
    checks,
    input_stage_versions,
    materialize,
)
from pipedag_dagster.errors import UnknownOption, WiringError


def load() -> pd.DataFrame:
    return pd.DataFrame({"id": [1]})


@pytest.mark.parametrize(
    ("option", "meant"),
    [("verison", "version"), ("cahe", "cache"), ("output", "outputs"), ("inputs", "input"), ("colums", "columns")],
)
def test_a_misspelt_option_of_a_task_names_the_task_and_its_line(option: str, meant: str) -> None:
    line = inspect.getsourcelines(load)[1]
    expected = rf"Task 'load' \(.*test_options\.py:{line}\): there is no option '{option}'\. Did you mean '{meant}'\?"
    with pytest.raises(UnknownOption, match=expected):
        materialize(**{option: "2"})(load)  # type: ignore[arg-type]


def test_options_of_the_other_decorator_are_unknown() -> None:
    with pytest.raises(UnknownOption, match="there is no option 'pass_args'"):
        materialize(pass_args=["attrs"])(load)  # type: ignore[call-overload]
    with pytest.raises(UnknownOption, match="there is no option 'input'"):
        input_stage_versions(input=True)(load)  # type: ignore[call-arg]


def test_what_is_decorated_must_be_a_function() -> None:
    with pytest.raises(WiringError, match=r"@materialize takes a function, not '1\.0'"):
        materialize("1.0")  # type: ignore[call-overload]


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str, str]] = {
    "Table": (Table, ([1],), "primary_ky", "primary_key"),
    "Blob": (Blob, ([1],), "nme", "name"),
    "RawSql": (RawSql, ("SELECT 1",), "nme", "name"),
    "View": (View, (sa.text("SELECT 1"),), "sort", "sort_by"),
    "Stage": (Stage, ("raw",), "nme", "name"),
    "FlowGraph": (Flow, (), "nme", "name"),
    "build_definitions": (build_definitions, (), "translater", "translator"),
    "PipedagConfig": (PipedagConfig, (), "pth", "path"),
    "TableIOManager": (TableIOManager, (), "instnce", "instance"),
    "InstanceResource": (InstanceResource, (), "per_usr", "per_user"),
    "unique": (checks.unique, ("id",), "blockng", "blocking"),
    "not_null": (checks.not_null, ("id",), "severty", "severity"),
    "primary_key": (checks.primary_key, ("id",), "nme", "name"),
    "min_rows": (checks.min_rows, (1,), "row", "rows"),
    "accepted_values": (checks.accepted_values, ("id", [1]), "blockng", "blocking"),
    "references": (checks.references, ("id", "raw.items.id"), "target_column", "target_columns"),
    "check": (checks.check, (), "input_typ", "input_type"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_misspelt_option_of_a_public_function_names_the_line_of_the_call(name: str) -> None:
    function, arguments, option, meant = CALLS[name]
    expected = rf"{name}\(…\) \(.*test_options\.py:\d+\): there is no option '{option}'\. Did you mean '{meant}'"
    with pytest.raises(UnknownOption, match=expected):
        function(*arguments, **{option: 1})


def test_an_unknown_option_is_a_type_error_too() -> None:
    with pytest.raises(TypeError):
        Table([1], primry_key="id")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"primary_key": 5}, "primary_key=5 is not a column"),
        ({"primary_key": ["id", "id"]}, "names the column 'id' twice"),
        ({"indexes": [["id", 5]]}, "indexes=.* is not a column"),
        ({"non_nullable": [None]}, "non_nullable=.* is not a column"),
    ],
    ids=["a number", "twice", "in an index", "nothing"],
)
def test_what_is_not_a_column_of_a_table_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WiringError, match=message):
        Table([1], **options)


def test_one_text_is_one_index() -> None:
    assert Table([1], indexes="customer").indexes == (("customer",),)
