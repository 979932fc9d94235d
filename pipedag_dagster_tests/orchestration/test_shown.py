"""What Dagster shows of a table before it is made: its group, and where its code is."""

from __future__ import annotations

import inspect
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from pipedag_dagster import ConfigContext, Flow, Stage, build_definitions, materialize
from pipedag_dagster.errors import ConfigError
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.helpers.launching import launch, metadata


@materialize(version="1")
def orders() -> pd.DataFrame:
    return pd.DataFrame({"id": range(10)})


def build(instance: ConfigContext) -> Flow:
    with Flow("shop") as flow, Stage("raw"):
        orders()
    return flow


def spec(definitions: dg.Definitions, key: str) -> dg.AssetSpec:
    return definitions.resolve_asset_graph().get(dg.AssetKey.from_user_string(key)).to_asset_spec()


def test_the_group_of_a_table_is_its_stage(instances: Instances) -> None:
    definitions = build_definitions(build, instances(), instance="full")
    assert spec(definitions, "full/raw/orders").group_name == "raw"


def test_the_group_can_have_the_instance_in_its_name(instances: Instances, dagster: dg.DagsterInstance) -> None:
    definitions = build_definitions(build, instances(full='group_name: "{instance_id}: {stage}"'), instance="full")
    assert spec(definitions, "full/raw/orders").group_name == "full__raw"
    assert launch(definitions, dagster, "full_raw").success, "the job of a stage does not depend on its group"


@pytest.mark.parametrize("template", ["all", "{stages}", "{stage", "{0}{stage}"])
def test_a_group_without_the_stage_is_refused(instances: Instances, template: str) -> None:
    with pytest.raises(ConfigError, match=r"full.yaml:1.*must contain \{stage\}"):
        instances(full=f'group_name: "{template}"').get("full")


def test_each_table_refers_to_the_line_of_its_task(instances: Instances) -> None:
    definitions = build_definitions(build, instances(), instance="full")
    (reference,) = spec(definitions, "full/raw/orders").metadata["dagster/code_references"].code_references
    assert (reference.file_path, reference.label) == (__file__, "orders")
    assert reference.line_number == inspect.getsourcelines(orders.fn)[1]


def test_references_can_be_links_to_a_repository(instances: Instances) -> None:
    definitions = build_definitions(build, instances(), instance="full")
    (linked,) = dg.link_code_references_to_git(
        [each for each in definitions.assets or () if isinstance(each, dg.AssetsDefinition)],
        git_url="https://github.com/shop/shop",
        git_branch="main",
        file_path_mapping=dg.AnchorBasedFilePathMapping(
            local_file_anchor=Path(__file__), file_anchor_path_in_repository="test_shown.py"
        ),
    )
    assert isinstance(linked, dg.AssetsDefinition)
    (metadata,) = linked.metadata_by_key.values()
    (reference,) = metadata["dagster/code_references"].code_references
    assert reference.url.startswith("https://github.com/shop/shop/tree/main/test_shown.py#L")


def test_the_size_is_for_plots_and_for_people(instances: Instances, dagster: dg.DagsterInstance) -> None:
    result = launch(build_definitions(build, instances(), instance="full"), dagster)
    assert metadata(result, "pipedag/bytes")["full/raw/orders"] >= 8192
    assert metadata(result, "pipedag/size")["full/raw/orders"].endswith("kB")
