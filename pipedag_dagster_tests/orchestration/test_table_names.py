"""Names that people type: of tables, which may have two, and in `sample.tables`, which may be misspelt."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from pipedag_dagster import Flow, PipedagConfig, Stage, Table, build_definitions, materialize
from pipedag_dagster.cli.main import cli
from pipedag_dagster.errors import ConfigError, NotMaterialized
from pipedag_dagster.orchestration.table_names import find_table

Instances = Callable[..., PipedagConfig]

FLOW = """\
import pandas as pd

from pipedag_dagster import Flow, Stage, Table, build_definitions, materialize


@materialize(version="1.0")
def slow():
    return Table(pd.DataFrame({"a": [1, 2]}), "Slow_6")


@materialize(version="1.0")
def fast():
    return pd.DataFrame({"a": [1]})


def build(instance):
    with Flow() as flow, Stage("raw"):
        slow(), fast()
    return flow


full = build_definitions(build, "instances", instance="full")
"""


@materialize(input=True, outputs=["orders", "items"])
def load() -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.DataFrame({"a": [1, 2, 3]}), pd.DataFrame({"a": [1, 2, 3]})


@materialize(input=True)
def slow() -> Table:
    return Table(pd.DataFrame({"a": [1, 2, 3]}), "slow_6")


def build(instance: object) -> Flow:
    with Flow("shop") as flow, Stage("raw"):
        load(), slow()
    return flow


@pytest.fixture
def command(instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    instances()
    (tmp_path / "two_names.py").write_text(FLOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "two_names", raising=False)

    def run(*args: str) -> str:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(cli, [*args, "-m", "two_names"])
        if result.exception is not None:
            raise result.exception
        return result.output

    return run


def test_both_names_of_a_table_are_understood_and_one_is_shown(command: Callable[..., str]) -> None:
    assert "slow (slow_6 in SQL)" in command("run", "full")
    assert "slow (slow_6 in SQL): 2 rows" in command("list", "full")
    for name in ("raw.slow", "raw.slow_6", "RAW.Slow_6"):
        assert "full raw.slow (slow_6 in SQL)" in command("explain", "full", name)
        for verb in ("plan", "run"):
            shown = command(verb, "full", "--select", name)
            assert "slow" in shown
            assert "fast" not in shown


def test_a_misspelt_table_is_refused_with_the_one_that_was_meant(command: Callable[..., str]) -> None:
    command("run", "full")
    with pytest.raises(NotMaterialized, match=r"No run of 'full' has made 'raw\.fsat'\. Did you mean 'raw\.fast'\?"):
        command("explain", "full", "raw.fsat")


def test_an_asset_wins_over_a_table_that_has_its_name_in_sql(instances: Instances) -> None:
    config = instances().get("full")
    build(config).run(config=config, fail_fast=True)
    store = config.store.table_store
    assert find_table("raw.slow_6", [("raw", "slow")], store) == ("raw", "slow")
    assert find_table("raw.slow_6", [("raw", "slow"), ("raw", "slow_6")], store) == ("raw", "slow_6")
    assert find_table("raw.slow_7", [("raw", "slow")], store) is None
    assert find_table("report.slow_6", [("raw", "slow")], store) is None


@pytest.mark.parametrize("name", ["raw.slow", "raw.slow_6", "RAW.SLOW_6"])
def test_a_result_is_read_by_either_name(instances: Instances, name: str) -> None:
    config = instances().get("full")
    result = build(config).run(config=config, fail_fast=True)
    assert list(result.get(name)["a"]) == [1, 2, 3]
    with pytest.raises(NotMaterialized, match=r"has no table 'raw\.slwo'\. Did you mean 'raw\.slow"):
        result.get("raw.slwo")


@pytest.mark.parametrize("name", ["slow", "slow_6"])
def test_a_sample_is_chosen_by_either_name(instances: Instances, name: str) -> None:
    attrs = "attrs: {copy_filtered_input: true, copy_source: full}"
    files = instances(midi=f"{attrs}\nsample: {{tables: {{{name}: {{rows: 1}}}}}}")
    for instance in ("full", "midi"):
        config = files.get(instance)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = build(config).run(config=config, fail_fast=True)
    assert [len(result.get(table)) for table in ("raw.slow", "raw.orders")] == [1, 3]


def test_a_misspelt_table_of_a_sample_is_refused(instances: Instances) -> None:
    files = instances(full="sample:\n  tables:\n    ordrs: {rows: 5}\n    Items: {rows: 5}\n")
    with pytest.raises(
        ConfigError, match=r"full\.yaml:3: .*ordrs: no input task makes a table 'ordrs'\. Did you mean 'orders'\?"
    ):
        build_definitions(build, files, instance="full")
    config = files.get("full")
    with pytest.raises(ConfigError, match="no input task makes a table 'ordrs'"):
        build(config).run(config=config)


def test_a_sample_of_a_table_that_no_input_task_declares_is_a_warning(instances: Instances) -> None:
    files = instances(full="sample: {tables: {weather: {rows: 5}, orders: {rows: 5}}}")
    with pytest.warns(UserWarning, match="nothing reads 'weather', because no input task") as caught:
        build_definitions(build, files, instance="full")
    warning = next(each for each in caught if "weather" in str(each.message))
    assert (Path(warning.filename).name, warning.lineno) == ("full.yaml", 1)
