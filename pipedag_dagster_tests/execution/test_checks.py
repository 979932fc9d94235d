"""Checks: what must be true of a table, what happens when it is not, and what people are told."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, Table, build_definitions, materialize
from pipedag_dagster.checks import (
    Check,
    accepted_values,
    check,
    min_rows,
    not_null,
    primary_key,
    references,
    unique,
)
from pipedag_dagster.cli.main import main
from pipedag_dagster.errors import ChecksFailed, WiringError
from pipedag_dagster_tests.helpers import Connection, Instances
from pipedag_dagster_tests.helpers.launching import failure, launch, materializations

Build = Callable[[ConfigContext], Flow]
Evaluations = Mapping[str, dg.AssetCheckEvaluation]

ORDERS = pd.DataFrame(
    {
        "id": pd.array([1, 2, 2, None, 5], "Int64"),
        "customer": pd.array([10, 10, 30, 30, None], "Int64"),
        "amount": [1.0, -2.0, 3.0, -4.0, 5.0],
        "state": ["open", "paid", "pai|d", None, "open"],
    }
)
CUSTOMERS = pd.DataFrame({"id": [10, 20], "name": ["Ann", "Bob"]})


@check(severity="WARN")
def no_negative_amounts(orders: sa.Alias) -> sa.Select[Any]:
    """Nobody is paid for buying."""
    return sa.select(orders.c.id, orders.c.amount).where(orders.c.amount < 0)


def shop(
    *checks: Check, orders: pd.DataFrame = ORDERS, by_table: Mapping[str, Sequence[Check]] | None = None, **table: Any
) -> Build:
    """A flow whose `raw.orders` has these checks; `report.revenue` reads it."""

    of_load = {name: given for name, given in (by_table or {}).items() if name != "revenue"} or {"orders": checks}

    @materialize(input=True, outputs=["orders", "customers"], checks=of_load, version="1")
    def load() -> tuple[Table, Table]:
        return Table(orders, **table), Table(CUSTOMERS, primary_key="id")

    @materialize(version="1", checks=(by_table or {}).get("revenue", ()))
    def revenue(orders: pd.DataFrame) -> pd.DataFrame:
        return orders

    def build(instance: ConfigContext) -> Flow:
        with Flow("shop") as flow:
            with Stage("raw"):
                loaded, _ = load()
            with Stage("report"):
                revenue(loaded)
        return flow

    return build


def run(build: Build, config: PipedagConfig, instance: str = "full", **options: Any) -> Evaluations:
    """Run it, and give what became of the checks, by name."""
    context = config.get(instance)
    result = build(context).run(config=context, **options)
    assert result.successful, result.error
    return {each.check_name: each for each in result.checks}


def number(config: PipedagConfig, stage: str, instance: str = "full") -> int:
    return config.get(instance).store.table_store.current([stage])[stage].number


# ---- the vocabulary --------------------------------------------------------------------------------------------

CASES = {
    "unique": (unique("id"), 2, "2 of 5 rows with the id of another row: id=2 (2 rows)"),
    "unique together": (unique("id", "customer"), 0, "no bad row among 5"),
    "not null": (not_null("id"), 1, "1 of 5 rows without id: id=NULL customer=30 amount=-4 state=NULL"),
    "not null, several": (not_null("id", "customer"), 2, None),
    "primary key": (
        primary_key("id"),
        3,
        "3 of 5 rows without id, or with the id of another row: id=2 (2 rows), id=NULL",
    ),
    "min rows": (min_rows(5), 0, "5 rows"),
    "too few rows": (min_rows(1000), 995, "5 rows, but there should be 1,000 at least"),
    "accepted values": (
        accepted_values("state", ["open", "paid"]),
        1,
        "1 of 5 rows with a state other than 'open', 'paid': state=pai|d",
    ),
    "accepted numbers": (accepted_values("customer", [10, 30]), 0, "no bad row among 5"),
    "references": (
        references("customer", "raw.customers.id"),
        2,
        "2 of 5 rows with a customer that raw.customers does not have: customer=30 (2 rows)",
    ),
    "references, same name": (references("id", "raw.customers"), 4, None),
    "references, only some rows": (
        references("customer", "raw.customers.id", when="amount < 0"),
        1,
        "1 of 5 rows with a customer that raw.customers does not have: customer=30",
    ),
    "references, no such row": (
        references("customer", "raw.customers.id", when="state = 'lost' OR amount > 9"),
        0,
        "no bad row among 5",
    ),
    "query of the user": (no_negative_amounts, 2, "2 of 5 rows refused: id=2 amount=-2, id=NULL amount=-4"),
}


@pytest.mark.parametrize(("one", "bad", "message"), CASES.values(), ids=CASES)
def test_a_check_counts_the_bad_rows_and_names_some(
    instances: Instances, one: Check, bad: int, message: str | None
) -> None:
    (evaluation,) = run(shop(one), instances()).values()
    assert evaluation.passed == (bad == 0)
    assert evaluation.metadata.get("pipedag/bad_rows") == dg.MetadataValue.int(bad)
    if message is not None:
        assert words(evaluation.description) == words(message)


def words(message: str | None) -> list[str]:
    """Which of equally bad rows comes first is not said."""
    return sorted(re.split("[ ,]+", message or ""))


@pytest.mark.parametrize("frame_type", [pd.DataFrame, pl.DataFrame, pa.Table])
def test_a_function_on_data_returns_the_bad_rows(instances: Instances, frame_type: type) -> None:
    @check(input_type=frame_type)
    def first_two(orders: Any) -> Any:
        assert isinstance(orders, frame_type)
        return orders.slice(0, 2) if frame_type is pa.Table else orders.head(2)

    (evaluation,) = run(shop(first_two), instances()).values()
    assert not evaluation.passed
    said = "2 of 5 rows refused: id=1 customer=10 amount=1.0 state=open, id=2"
    assert (evaluation.description or "").startswith(said)


def test_a_check_is_called_as_the_plain_function_to_test_it() -> None:
    table = sa.table("orders", sa.column("id"), sa.column("amount"))
    assert "amount <" in str(no_negative_amounts(table))


def test_the_query_of_a_failed_check_finds_the_bad_rows(instances: Instances, connection: Connection) -> None:
    for found in run(shop(unique("id"), no_negative_amounts), instances()).values():
        text = found.metadata["pipedag/query"].value
        assert '"full_raw"."orders"' in text, "what people see, not a physical table"
        assert connection.execute(re.sub("```(sql)?", "", text).encode()).fetchall()


BROKEN: dict[str, tuple[Check, str]] = {
    "no such column": (not_null("custmer"), "raw.orders has no column 'custmer'. Did you mean 'customer'?"),
    "no such column there": (
        references("id", "raw.customers.nam"),
        "raw.customers has no column 'nam'. Did you mean 'name'?",
    ),
    "no such column in a condition": (
        references("customer", "raw.customers.id", when="amont < 0"),
        "raw.orders has no column 'amont'. Did you mean 'amount'?",
    ),
    "other types": (references("state", "raw.customers.id"), "operator does not exist"),
    "no rows": (
        check(name="number")(lambda orders: 7),
        "it returned a int. Return the query that selects the bad rows.",
    ),
    "no data": (
        check(input_type=pd.DataFrame, name="truth")(lambda orders: True),
        "it returned a bool. Return the bad rows, as a Da",
    ),
    "raises": (check(name="price")(lambda orders: orders.c.price), "AttributeError: price"),
}


@pytest.mark.parametrize(("one", "said"), BROKEN.values(), ids=BROKEN)
def test_a_check_that_cannot_be_evaluated_has_failed_and_says_why(instances: Instances, one: Check, said: str) -> None:
    (evaluation,) = run(shop(one), instances()).values()
    assert not evaluation.passed
    assert (evaluation.description or "").startswith("could not be evaluated: ")
    assert said in (evaluation.description or "")


def nothing() -> None:
    pass


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "severity": (lambda: unique("id", severity="warning"), "'ERROR' or 'WARN', not 'warning'"),  # type: ignore[arg-type]
    "blocking warning": (lambda: unique("id", blocking=True, severity="WARN"), "Choose one"),
    "no column": (lambda: unique(), "needs the names of one or more columns"),
    "no values": (lambda: accepted_values("state", "open"), "write a list"),
    "no target": (lambda: references("customer", "customers"), '"stage.table.column"'),
    "unequal": (lambda: references(["a", "b"], "raw.customers.id"), "a and b cannot refer to id"),
    "sample": (lambda: references("a", "raw.b.id", sample="all"), "'parents', 'both' or None, not 'all'"),  # type: ignore[arg-type]
    "when": (lambda: references("a", "raw.b.id", when="a ="), "when: 'a =' is not a condition in SQL"),
    "when, by chance": (lambda: references("a", "raw.b.id", when="random() < 0.5"), r"random\(\) has another result"),
    "rows": (lambda: min_rows(0), "at least 1"),
    "arguments": (lambda: check(nothing), "one argument"),  # type: ignore[misc,arg-type]
    "same name": (lambda: shop(unique("id"), unique("id")), "two checks have the name 'unique_id'"),
    "a check that is none": (lambda: materialize(checks=[len])(nothing), "Write a list of checks"),  # type: ignore[list-item]
    "columns": (lambda: materialize(columns={"id": 7})(nothing), "descriptions of columns"),  # type: ignore[dict-item]
    "owners": (lambda: materialize(owners="team:a")(nothing), r"owners=\['team:a'\]"),
}


@pytest.mark.parametrize(("wrong", "said"), MISTAKES.values(), ids=MISTAKES)
def test_what_is_declared_wrong_is_refused_where_it_is_declared(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises(WiringError, match=said):
        wrong()


@pytest.mark.parametrize(
    ("by_table", "said"),
    [
        ({"order": [unique("id")]}, "names the table 'order', which the task does not make. Did you mean 'orders'"),
        ({"orders": [references("customer", "raw.custmers.id")]}, "Did you mean 'raw.customers'"),
        ({"orders": [references("id", "report.revenue.id")]}, "stage 'report' does not have to run before 'raw'"),
        (
            {"revenue": [references("customer", "raw.customers.id", sample="both")]},
            "sample='both' has no effect, because report.revenue is computed, not sampled. Remove it.",
        ),
    ],
)
def test_a_table_that_is_not_there_is_refused_when_definitions_are_loaded(
    instances: Instances, by_table: Mapping[str, Sequence[Check]], said: str
) -> None:
    with pytest.raises(WiringError, match=re.escape(said)):
        build_definitions(shop(by_table=by_table), instances(), instance="full")


# ---- blocking --------------------------------------------------------------------------------------------------

GOOD = ORDERS.assign(id=range(5))


def test_a_blocking_check_keeps_the_old_version_visible(
    instances: Instances, dagster: dg.DagsterInstance, connection: Connection
) -> None:
    config, blocking = instances(), unique("id", blocking=True)

    def definitions(orders: pd.DataFrame, version: str) -> dg.Definitions:
        def build(instance: ConfigContext) -> Flow:
            flow = shop(blocking, orders=orders)(instance)
            flow.stages[0].calls[0].task.version = version
            return flow

        return build_definitions(build, config, instance="full")

    assert launch(definitions(GOOD, "1"), dagster).success
    failed = launch(definitions(ORDERS, "2"), dagster)
    assert not failed.success
    assert materializations(failed) == {}, "neither of the stage nor of what comes after it"
    assert connection.execute("SELECT count(DISTINCT id) FROM full_raw.orders").fetchone() == (5,)
    (evaluation,) = failed.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.blocking) == (False, True)
    assert evaluation.metadata["pipedag/committed"].value is False
    message = failure(failed)
    assert (
        "Stage 'raw': 1 of 1 blocking check failed, so it was not committed. People see version 1, as before."
        in message
    )
    assert "raw.orders: unique_id: 2 of 5 rows with the id of another row: id=2 (2 rows)" in message
    (query,) = re.findall(r"^\s*(SELECT .*unique.*|SELECT .* FROM \"full_raw__versions\".*)$", message, re.MULTILINE)[
        :1
    ]
    assert connection.execute(query.encode()).fetchall() == [(2, 2)]


def test_what_was_staged_is_used_again_when_the_check_is_fixed(instances: Instances) -> None:
    config = instances()
    context = config.get("full")
    flow = shop(unique("id", blocking=True))(context)
    with pytest.raises(ChecksFailed) as raised:
        flow.run(config=context, fail_fast=True)
    assert [(one.check.name, one.passed) for one in raised.value.results] == [("unique_id", False)]
    assert number(config, "raw") == 0
    context = config.get("full")
    result = shop(unique("id"))(context).run(config=context)
    assert {table.name: str(run.reason) for run, table in result.tables if table.stage == "raw"} == {
        "orders": "cached",
        "customers": "cached",
    }
    assert number(config, "raw") == 1


def test_a_new_blocking_check_of_what_is_committed_keeps_the_next_stages_from_running(
    instances: Instances, dagster: dg.DagsterInstance
) -> None:
    config = instances()
    assert launch(build_definitions(shop(), config, instance="full"), dagster).success
    failed = launch(build_definitions(shop(unique("id", blocking=True)), config, instance="full"), dagster)
    assert "1 of 1 blocking check failed for version 1, which people see." in failure(failed)
    assert materializations(failed) == {}


def test_a_check_that_does_not_block_is_reported_and_the_run_goes_on(
    instances: Instances, dagster: dg.DagsterInstance
) -> None:
    result = launch(build_definitions(shop(unique("id"), no_negative_amounts), instances(), instance="full"), dagster)
    assert result.success
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert {name: (each.passed, each.severity.value) for name, each in found.items()} == {
        "unique_id": (False, "ERROR"),
        "no_negative_amounts": (False, "WARN"),
    }
    target = found["unique_id"].target_materialization_data
    assert target is not None
    assert target.run_id == result.run_id, "a result belongs to the materialization that it is about"


# ---- what is evaluated, and when -------------------------------------------------------------------------------


def test_what_the_database_enforces_is_not_evaluated(instances: Instances) -> None:
    checks = (primary_key("id"), unique("id"), unique("id", "state"), not_null("id"), not_null("amount"))
    found = run(shop(*checks, orders=GOOD, primary_key="id", non_nullable="amount"), instances())
    assert {name: each.metadata["pipedag/how"].value for name, each in found.items()} == dict.fromkeys(
        (one.name for one in checks), "enforced by the database"
    )


def test_the_result_for_a_table_that_did_not_change_is_remembered(instances: Instances, tmp_path: Path) -> None:
    calls = tmp_path / "calls"

    @check(input_type=pd.DataFrame)
    def counted(orders: pd.DataFrame) -> pd.DataFrame:
        with calls.open("a") as file:
            file.write("called ")
        return orders[orders["amount"] < 0]

    config = instances()
    first, second = (run(shop(counted, unique("id")), config) for _ in range(2))
    assert calls.read_text() == "called "
    assert {each.metadata["pipedag/how"].value for each in second.values()} == {"remembered"}
    for name, before in first.items():
        assert second[name].description == before.description
        assert second[name].metadata["pipedag/bad_rows_sample"] == before.metadata["pipedag/bad_rows_sample"]


def test_a_reference_is_evaluated_again_when_the_other_table_changed(instances: Instances) -> None:
    def build(names: list[int]) -> Build:
        @materialize(outputs=["customers"], version=str(names))
        def load() -> pd.DataFrame:
            return pd.DataFrame({"id": names})

        @materialize(version="1", checks=[references("customer", "raw.customers.id")])
        def orders(customers: sa.Alias) -> pd.DataFrame:
            return pd.DataFrame({"customer": [1, 2]})

        def wired(instance: ConfigContext) -> Flow:
            with Flow("shop") as flow:
                with Stage("raw"):
                    loaded = load()
                with Stage("clean"):
                    orders(loaded)
            return flow

        return wired

    config = instances()
    assert run(build([1, 2]), config)["references_customer"].passed
    assert "customer=2" in (run(build([1]), config)["references_customer"].description or "")


def test_a_selection_evaluates_the_checks_of_what_is_selected(
    instances: Instances, dagster: dg.DagsterInstance
) -> None:
    by_table = {"orders": [min_rows(1)], "customers": [primary_key("id")]}
    definitions = build_definitions(shop(by_table=by_table), instances(), instance="full")
    result = launch(definitions, dagster, "full", "full/raw/customers")
    assert [each.check_name for each in result.get_asset_check_evaluations()] == ["primary_key_id"]


def test_a_check_can_be_launched_alone_on_what_is_committed(instances: Instances, dagster: dg.DagsterInstance) -> None:
    config = instances()
    definitions = build_definitions(shop(min_rows(1), unique("id")), config, instance="full")
    assert launch(definitions, dagster).success
    key = dg.AssetCheckKey(dg.AssetKey(["full", "raw", "orders"]), "unique_id")
    job = dg.define_asset_job("only_check", selection=dg.AssetSelection.checks(key))
    with_job = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
    result = with_job.resolve_job_def("only_check").execute_in_process(instance=dagster)
    assert [(each.check_name, each.passed) for each in result.get_asset_check_evaluations()] == [("unique_id", False)]
    assert materializations(result) == {}
    assert number(config, "raw") == 1


# ---- small instances, confidential data ------------------------------------------------------------------------


def test_on_a_small_instance_a_reference_says_that_the_table_is_a_sample(instances: Instances) -> None:
    build, config = shop(references("customer", "raw.customers.id")), instances()
    run(build, config)
    definitions = build_definitions(build, config, instance="mini")
    (own,) = (assets for assets in definitions.assets or () if getattr(assets, "check_keys", None))
    assert isinstance(own, dg.AssetsDefinition)
    (spec,) = (spec for spec in own.check_specs if spec.name == "references_customer")
    assert "The table is a sample of full/raw/orders: a missing row may not have been sampled." in (
        spec.description or ""
    )
    found = run(build, config, "mini")["references_customer"]
    assert found.metadata["pipedag/sample_of"].value == dg.AssetKey(["full", "raw", "orders"])


def test_with_preview_0_no_value_of_a_row_is_shown_anywhere(instances: Instances, dagster: dg.DagsterInstance) -> None:
    secret = ORDERS.assign(state="confidential", customer=777_777)
    config = instances(any="preview: 0\n")
    checks = (unique("state", blocking=True), references("customer", "raw.customers.id", blocking=True))
    failed = launch(build_definitions(shop(*checks, orders=secret), config, instance="full"), dagster)
    assert "5 of 5 rows with the state of another row" in failure(failed)
    everything = failure(failed) + str(failed.all_events) + str(list(dagster.all_logs(failed.run_id)))
    assert "confidential" not in everything
    assert "777777" not in everything


DEFINITIONS = """
import pandas as pd
from pipedag_dagster import Flow, Stage, build_definitions, materialize
from pipedag_dagster.checks import min_rows, unique


@materialize(checks=[min_rows(1), unique("id", severity="WARN"), unique("word")])
def orders():
    return pd.DataFrame({"id": [1, 1], "word": ["[red]", "[red]"]})


def build(instance):
    with Flow("shop") as flow, Stage("raw"):
        orders()
    return flow


full = build_definitions(build, "instances", instance="full")
"""


def test_the_summary_of_a_run_says_which_checks_failed_and_why(
    instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    instances()
    (tmp_path / "checked_shop.py").write_text(DEFINITIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    main(["run", "full", "-m", "checked_shop"])
    assert [line.strip() for line in capsys.readouterr().out.splitlines()][-3:] == [
        "checks  1 of 3 checks passed",
        "raw.orders: warning: unique_id: 2 of 2 rows with the id of another row: id=1 (2 rows)",
        "raw.orders: failed: unique_word: 2 of 2 rows with the word of another row: word=[red] (2 rows)",
    ]


def test_every_word_of_the_vocabulary_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "checks.md").read_text()
    for word in (unique, not_null, primary_key, min_rows, accepted_values, references, check):
        assert f"`{word.__name__}" in text or f"@{word.__name__}" in text
        assert inspect.getdoc(word)
