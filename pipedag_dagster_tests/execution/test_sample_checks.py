"""The check that a sample has what its rows refer to, and what Dagster shows about a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from pipedag_dagster import Flow, Stage, Table, build_definitions, materialize
from pipedag_dagster.context import ConfigContext, PipedagConfig
from pipedag_dagster_tests.helpers import Instances, Query
from pipedag_dagster_tests.helpers.launching import launch, materializations

RELATION = """
sample:
  relations: [flights.plane -> planes.number]
  tables:
    planes: parents
    flights: {rows: 20}
"""


def build(instance: ConfigContext) -> Any:
    @materialize(input=True, outputs=["flights", "planes"], version="1.0")
    def load() -> Any:
        flights = pd.DataFrame({"id": range(100), "plane": [number % 40 for number in range(100)]})
        return Table(flights, primary_key="id"), pd.DataFrame({"number": range(30)})

    with Flow("flights") as flow, Stage("raw"):
        load()
    return flow


@pytest.fixture
def config(instances: Instances) -> PipedagConfig:
    small = "attrs: {copy_filtered_input: true, copy_source: full}"
    return instances(midi=small + RELATION, mini=small)


def run(config: PipedagConfig, name: str) -> Any:
    instance = config.get(name)
    return build(instance).run(config=instance, fail_fast=True)


def check_of(result: Any) -> dg.AssetCheckEvaluation:
    (check,) = [check for check in result.checks if check.check_name == "sample_references"]
    return check


def test_a_sample_has_what_its_rows_refer_to(config: PipedagConfig) -> None:
    run(config, "full")
    check = check_of(run(config, "midi"))
    assert check.passed
    assert check.asset_key == dg.AssetKey(["midi", "raw", "flights"])
    assert check.metadata["pipedag/broken_references"].value == 0
    assert "20.00%" in str(check.metadata["pipedag/relations"].value)  # orphans of the source


def test_a_reference_that_was_broken_by_hand_fails_the_check(config: PipedagConfig, query: Query) -> None:
    run(config, "full")
    run(config, "midi")
    ((physical,),) = query("SELECT physical FROM midi_pipedag.table_version WHERE asset = 'planes'")
    query(f"DELETE FROM midi_raw__versions.{physical}")
    query("DELETE FROM midi_pipedag.check_result")
    check = check_of(run(config, "midi"))
    assert not check.passed
    assert "refer to a row that only the source has" in str(check.description)


def test_what_was_found_is_remembered(config: PipedagConfig) -> None:
    run(config, "full")
    run(config, "midi")
    check = check_of(run(config, "midi"))
    assert check.metadata["pipedag/how"].value == "remembered"
    assert "20.00%" in str(check.metadata["pipedag/relations"].value)


def test_instances_without_relations_or_a_source_have_no_such_check(config: PipedagConfig) -> None:
    assert not run(config, "full").checks
    assert not run(config, "mini").checks


def test_dagster_shows_the_part_of_the_source_and_why(
    config: PipedagConfig, tmp_path: Path, dagster: dg.DagsterInstance
) -> None:
    results = {
        name: launch(build_definitions(build, tmp_path / "instances", instance=name), dagster, name)
        for name in ("full", "midi")
    }
    shown = {name: one.value for name, one in materializations(results["midi"])["midi/raw/flights"].metadata.items()}
    assert shown["pipedag/source_rows"] == 100
    assert shown["pipedag/share_of_source"] == 0.2
    assert shown["pipedag/rows_by_reason"] == {"rule": 20}
    assert shown["pipedag/broken_references"] == 0
