"""The command line in a plain Dagster project: partitions, `plan`, `explain` and `check` of plain assets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipedag_dagster_tests.helpers.command_line import Command

PROJECT = """\
import dagster as dg
import pandas as pd
from pipedag_dagster import build_definitions

days = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-05")


@dg.asset(group_name="raw", metadata={"pipedag/input": True})
def orders() -> pd.DataFrame:
    return pd.DataFrame({"id": [1, 2, 3], "amount": [10, 20, 30]})


@dg.asset(group_name="report")
def revenue(orders: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"amount": [orders["amount"].sum()]})


@dg.asset(group_name="raw", partitions_def=days, metadata={"partition_expr": "day"})
def events(context) -> pd.DataFrame:
    return pd.DataFrame({"day": [pd.Timestamp(context.partition_key)], "n": [1]})


@dg.asset_check(asset=revenue)
def positive() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


plain = [orders, revenue]
full, mini = (build_definitions(config="instances", instance=i, assets=plain) for i in ("full", "mini"))
parts = build_definitions(config="instances", instance="midi", assets=[*plain, events])
by_hand = dg.Definitions.merge(full, dg.Definitions(asset_checks=[positive]))
job = dg.Definitions.merge(full, dg.Definitions(jobs=[dg.define_asset_job("nightly", selection=[orders])]))
"""


@pytest.fixture
def plain(command: Command, project: Path) -> Command:
    """A command on one of the definitions of the project: `plain("full", "run", "full")`."""
    (project / "plain_project.py").write_text(PROJECT)

    def run(attribute: str, *arguments: str):  # type: ignore[no-untyped-def]
        entry = f"{{relative_path: plain_project.py, attribute: {attribute}}}"
        (project / "workspace.yaml").write_text(f"load_from: [{{python_file: {entry}}}]\n")
        return command(*arguments)

    return run


def test_plan_lists_plain_assets_as_a_run_runs_them(plain: Command) -> None:
    plan = plain("full", "plan", "full", "--check")
    assert plan.code == 1, "a run would change something"
    assert "full  2 of 2 tables would run" in plan.out
    assert "orders   runs: plain asset: it runs in every run that selects it" in plan.out
    assert "2 of 2 tables ran" in plain("full", "run", "full").out


def test_plan_of_a_copied_plain_asset_depends_on_its_source(plain: Command) -> None:
    assert "runs if full: raw.orders changes" in plain("mini", "plan", "mini").out


def test_explain_says_that_a_plain_asset_always_runs(plain: Command) -> None:
    plain("full", "run", "full")
    told = plain("full", "explain", "full", "report.revenue").out
    assert "full report.revenue  1 row, a plain asset: it runs in every run, data version" in told


def test_explain_of_an_asset_without_a_table_says_so(plain: Command) -> None:
    plain("full", "run", "full", "-s", "raw.orders")
    done = plain("full", "explain", "full", "report.revenue")
    assert "report.revenue has no table in 'full': no run has made it yet" in done.err


def test_plan_says_which_assets_are_left_out_because_they_are_partitioned(plain: Command) -> None:
    assert "Left out, because they are partitioned: raw.events. To run" in plain("parts", "plan", "midi").out


def test_a_partition_is_run_by_its_key(plain: Command) -> None:
    done = plain("parts", "run", "midi", "--partition", "2026-01-02")
    assert (done.code, "1 of 1 table ran" in done.out) == (0, True)


def test_a_range_of_partitions_is_run_in_its_order(plain: Command) -> None:
    done = plain("parts", "run", "midi", "--partitions", "2026-01-01..2026-01-03")
    assert done.out.count("1 of 1 table ran") == 3
    assert "events     3" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("-s", "raw.events"),
            "raw.events is partitioned. Say which partition: --partition KEY, or --partitions FROM..TO",
        ),
        (("--partition", "2026-01-12"), "raw.events has no partition '2026-01-12'. Did you mean"),
        (("--partition", "x"), "has no partition 'x'. The first is 2026-01-01, the last 2026-01-04."),
        (("--partitions", "2026-01-03..2026-01-01"), "2026-01-01 comes before 2026-01-03."),
        (
            ("-s", "raw.orders", "--partition", "2026-01-01"),
            "raw.orders has no partitions. Leave --partition and --partitions out.",
        ),
    ],
)
def test_a_wrong_partition_is_one_sentence(plain: Command, arguments: tuple[str, ...], message: str) -> None:
    done = plain("parts", "run", "midi", *arguments)
    assert done.code == 1
    assert message in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        (
            "by_hand",
            "Check 'positive' is of the asset revenue, which nobody makes. Did you mean 'full",
        ),
        ("job", "Failed to resolve asset job nightly"),
    ],
)
def test_check_refuses_what_is_merged_by_hand_and_belongs_to_nobody(
    plain: Command, attribute: str, message: str
) -> None:
    done = plain(attribute, "check")
    assert done.code == 1
    assert message in done.err.replace("\n", " ")
