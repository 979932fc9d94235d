"""A run through Dagster and a run without it do the same: DAGSTER_HOME decides only whether there is a history."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, StageLockContext, Table, materialize
from pipedag_dagster.checks import unique
from pipedag_dagster.errors import ChecksFailed, ConfigError, SeveralFailed, TaskFailed, WiringError
from pipedag_dagster_tests.helpers import Instances

DIRECTLY, THROUGH_DAGSTER = "directly", "through Dagster"


@pytest.fixture(params=[DIRECTLY, THROUGH_DAGSTER], autouse=True)
def way(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == THROUGH_DAGSTER:
        home = tmp_path / "dagster_home"
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        monkeypatch.setenv("DAGSTER_HOME", str(home))
    return str(request.param)


@pytest.fixture
def full(instances: Instances) -> ConfigContext:
    return instances(any="fail_fast: false\n").get("full")


@materialize(input=True, outputs=["orders"], version="1.0")
def load(rows: int = 3) -> Table:
    return Table(pd.DataFrame({"id": range(rows), "x": [1, 1, 2][:rows]}), primary_key="id")


@materialize(lazy=True, input_type=sa.Table)
def copy(orders: sa.Alias) -> Table:
    return Table(sa.select(orders.c.id), primary_key="id")


@materialize(version="1.0")
def fails(*inputs: pd.DataFrame) -> pd.DataFrame:
    raise ValueError("on purpose")


@materialize(version="1.0", checks=[unique("x", blocking=True)])
def doubtful(orders: pd.DataFrame) -> pd.DataFrame:
    return orders


@materialize(version="1.0", checks=[unique("x", severity="WARN")])
def suspicious(orders: pd.DataFrame) -> pd.DataFrame:
    return orders


def wired(*later: Any) -> Flow:
    """Stage `raw`, and for each task a stage that reads it: `stage_0`, `stage_1`."""
    with Flow("shop") as flow:
        with Stage("raw"):
            orders = load()
        for number, task in enumerate(later):
            with Stage(f"stage_{number}"):
                task(orders)
    return flow


def did(result: Any) -> dict[str, str]:
    return {f"{record.stage}.{record.asset}": str(record.reason) for record, _ in result.tables}


def pins(instance: ConfigContext) -> list[Any]:
    store = instance.store.table_store
    with store.database.read() as connection:
        return store.catalog.pinned(connection)


def test_a_run_makes_its_tables_and_the_second_finds_them(full: ConfigContext) -> None:
    flow = wired(copy)
    assert did(flow.run(full)) == {"raw.orders": "new", "stage_0.copy": "new"}
    result = flow.run(full)
    assert result.successful
    assert did(result) == {"raw.orders": "cached", "stage_0.copy": "cached"}
    assert list(result.get("stage_0.copy")["id"]) == [0, 1, 2]


def test_a_small_instance_copies_its_inputs(config: PipedagConfig) -> None:
    for name, rows in (("full", 3), ("midi", 2)):
        assert len(wired(copy).run(config.get(name)).get("stage_0.copy")) == rows


def test_after_a_failed_stage_the_others_run(full: ConfigContext) -> None:
    result = wired(fails, copy).run(full)
    assert isinstance(result.error, TaskFailed)
    assert "ValueError: on purpose" in str(result.error)
    assert any("The next run reuses what has finished" in note for note in result.error.__notes__)
    assert did(result) == {"raw.orders": "new", "stage_1.copy": "new"}


def test_what_needs_a_failed_stage_does_not_run(full: ConfigContext) -> None:
    with Flow("shop") as flow:
        with Stage("raw"):
            broken = fails()
        with Stage("middle"):
            middle = copy(broken)
        with Stage("last"):
            copy(middle)
    result = flow.run(full)
    assert isinstance(result.error, TaskFailed)
    assert did(result) == {}


def test_with_fail_fast_no_other_stage_runs_and_the_error_is_raised(config: PipedagConfig) -> None:
    full = config.get("full")
    with pytest.raises(TaskFailed, match="on purpose"):
        wired(fails, copy).run(full, fail_fast=True)


def test_several_failures_are_one_error(full: ConfigContext) -> None:
    with Flow("shop") as flow:
        for name in ("one", "two"):
            with Stage(name):
                fails()
    assert isinstance(flow.run(full).error, SeveralFailed)


@pytest.mark.parametrize(("task", "severity"), [(doubtful, "ERROR"), (suspicious, "WARN")])
def test_checks_have_the_same_results(full: ConfigContext, task: Any, severity: str) -> None:
    result = wired(task).run(full)
    assert isinstance(result.error, ChecksFailed) == (severity == "ERROR")
    (check,) = (each for each in result.checks if each.check_name == "unique_x")
    assert (check.passed, check.severity.value, check.asset_key.path) == (
        False,
        severity,
        ["full", "stage_0", task.name],
    )
    assert check.description == "2 of 3 rows with the x of another row: x=1 (2 rows)"
    assert check.metadata["pipedag/bad_rows"].value == 2
    assert ("pipedag/committed" in check.metadata) == (severity == "ERROR")


def test_pins_are_released_at_the_end(full: ConfigContext) -> None:
    with StageLockContext():
        assert wired(copy).run(full).successful
        assert pins(full)
    assert wired(fails).run(full).error
    assert not pins(full)


def test_the_modes_of_the_cache_are_those_of_the_run(full: ConfigContext) -> None:
    flow = wired(copy)
    flow.run(full)
    assert did(flow.run(full, cache_validation_mode="force_cache_invalid")) == {
        "raw.orders": "forced",
        "stage_0.copy": "forced",
    }
    with pytest.raises(ConfigError, match="cache_validation_mode"):
        flow.run(full, cache_validation_mode="no_such_mode")


def test_a_flow_without_a_stage_is_refused(full: ConfigContext) -> None:
    with Flow("shop") as flow:
        pass
    with pytest.raises(WiringError, match="has no stage"):
        flow.run(full)


def test_an_interruption_is_one(full: ConfigContext) -> None:
    @materialize(version="1.0")
    def interrupted(orders: pd.DataFrame) -> pd.DataFrame:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wired(interrupted).run(full)
    assert not pins(full)


def test_without_a_history_a_run_does_not_import_dagster(
    instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    instances()
    (tmp_path / "program.py").write_text(
        "import sys\n"
        "import pandas as pd\n"
        "from pipedag_dagster import Flow, PipedagConfig, Stage, materialize\n"
        "@materialize\n"
        "def load(): return pd.DataFrame({'id': [1]})\n"
        "with Flow() as flow, Stage('raw'):\n"
        "    load()\n"
        "assert flow.run(PipedagConfig('instances').get('full')).successful\n"
        "print('dagster' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(way == THROUGH_DAGSTER)


def test_messages_are_in_the_log(full: ConfigContext, caplog: pytest.LogCaptureFixture, way: str) -> None:
    with caplog.at_level(logging.INFO):
        wired(copy).run(full)
    if way == DIRECTLY:  # Dagster has a log of its own
        assert any("raw.orders: staged 3 rows" in text for text in caplog.messages)
    assert wired(copy).run(full).successful
