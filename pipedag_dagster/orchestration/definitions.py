"""All of Dagster for one instance: assets, resources, a job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.graph.flow import FlowGraph
from pipedag_dagster.orchestration.assets import stage_assets
from pipedag_dagster.orchestration.build import Build
from pipedag_dagster.orchestration.dagster_assets import (
    assets_on,
    input_tables,
    instance_assets,
    instance_keys,
    refuse_circles,
)
from pipedag_dagster.orchestration.executors import executor
from pipedag_dagster.orchestration.flow_checks import refuse_unusable
from pipedag_dagster.orchestration.io_manager import TableIOManager
from pipedag_dagster.orchestration.keys import identifier
from pipedag_dagster.orchestration.project import NO_PROJECT, Project, on_instance
from pipedag_dagster.orchestration.resources import bound_resource
from pipedag_dagster.orchestration.schedules import schedules as instance_schedules
from pipedag_dagster.orchestration.sensors import sensors as instance_sensors
from pipedag_dagster.orchestration.table_names import check_sample
from pipedag_dagster.orchestration.tags import INSTANCE_TAG
from pipedag_dagster.orchestration.translator import PipedagTranslator


def define(
    instance: ConfigContext,
    flows: Sequence[FlowGraph],
    translator: PipedagTranslator | None = None,
    project: Project = NO_PROJECT,
    build: Build | None = None,
) -> dg.Definitions:
    """The definitions of an instance, for flows that are already built. Without `build`, runs cannot have other attrs.

    Raises:
        ConfigError: the configuration does not fit the flows.
        WiringError: the flows cannot run as they are wired.
    """
    stages = [stage for flow in flows for stage in flow.stages]
    refuse_unusable(instance, flows, may_be_empty=bool(project.assets))
    project.refuse_wrong_names(instance)
    resource = bound_resource(instance, stages, build)
    tables = [(stage.name, asset) for stage in stages for call in stage.calls for asset in call.assets]
    own = assets_on(instance, project.assets)
    keys = instance_keys(instance, own, tables)
    plain = instance_assets(instance, own, keys)
    check_sample(instance, flows, input_tables(own))
    of_stages = [stage_assets(instance, stage, translator or PipedagTranslator()) for stage in stages]
    refuse_circles(of_stages, plain)

    def originals() -> list[dg.AssetsDefinition]:
        short = {keys[dg.AssetKey(pair)]: dg.AssetKey(pair) for pair in tables}
        return [*(stage.with_attributes(asset_key_replacements=short) for stage in of_stages), *project.assets]

    resources = {**(project.resources or {}), "instance": resource, "io_manager": TableIOManager(instance=resource)}
    others = on_instance(project, instance, keys, resources, originals)
    return dg.Definitions(
        assets=[*of_stages, *plain],
        asset_checks=others.asset_checks,
        resources=resources,
        jobs=[*_jobs(instance, [stage.name for stage in stages], plain), *others.jobs],
        schedules=[*instance_schedules(instance, job_name(instance)), *others.schedules],
        sensors=[*instance_sensors(instance, flows, job_name(instance)), *others.sensors],
        executor=executor(instance),
    )


def _jobs(
    instance: ConfigContext, stages: Iterable[str], plain: Iterable[dg.AssetsDefinition]
) -> list[Any]:  # Dagster does not export their class
    """The job that runs the whole instance, and one for each stage: `full`, `full_raw`."""
    whole, name = job_name(instance), instance.instance_id
    tags = {INSTANCE_TAG: name}
    # Partitioned assets are left out of a job that has others: one run could not say which partition it is for.
    partitioned = dg.AssetSelection.assets(*(key for each in plain if each.partitions_def for key in each.keys))
    everything: dg.AssetSelection = dg.AssetSelection.all()
    if stages or any(not each.partitions_def for each in plain):
        everything -= partitioned
    return [
        dg.define_asset_job(whole, everything, description=f"All stages of {name}.", tags=tags),
        *(
            dg.define_asset_job(
                f"{whole}_{stage}",
                dg.AssetSelection.key_prefixes([name, stage]) - partitioned,
                description=f"The stage {stage} of {name}.",
                tags=tags,
            )
            for stage in stages
        ),
    ]


def job_name(instance: ConfigContext) -> str:
    """The name of the job that runs the whole instance."""
    return identifier(instance.instance_id)
