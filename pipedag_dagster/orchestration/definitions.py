"""All of Dagster for one instance: assets, resources, a job."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from pipedag_dagster.context import ConfigContext, PipedagConfig, find_config
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.graph.flow import FlowGraph
from pipedag_dagster.options import known_options
from pipedag_dagster.orchestration.assets import stage_assets
from pipedag_dagster.orchestration.attrs import Build, built
from pipedag_dagster.orchestration.dagster_assets import input_tables, instance_assets, refuse_circles
from pipedag_dagster.orchestration.executors import executor
from pipedag_dagster.orchestration.flow_checks import refuse_unusable
from pipedag_dagster.orchestration.io_manager import TableIOManager
from pipedag_dagster.orchestration.keys import identifier
from pipedag_dagster.orchestration.resources import bound_resource
from pipedag_dagster.orchestration.schedules import schedules
from pipedag_dagster.orchestration.sensors import sensors
from pipedag_dagster.orchestration.table_names import check_sample
from pipedag_dagster.orchestration.tags import INSTANCE_TAG
from pipedag_dagster.orchestration.translator import PipedagTranslator


@known_options()
def build_definitions(
    build: Build | None = None,
    config: str | Path | PipedagConfig | None = None,
    *,
    instance: str,
    flow: str | None = None,
    per_user: bool = False,
    translator: PipedagTranslator | None = None,
    assets: Sequence[dg.AssetsDefinition] = (),
) -> dg.Definitions:
    """The Dagster definitions of one instance of a pipeline: one code location.

    Args:
        build: takes the instance (its `.attrs` are there if the wiring depends on them) and returns the flow, or
            several flows with different stages. Without it there are only `assets`.
        config: a YAML file, a folder of them, or a loaded configuration. Without it: PIPEDAG_CONFIG, else
            `instances/` or `pipedag.yaml` in the working directory or above it, else in the folder of the file of
            `build` or above it. A relative path is looked up in the same places.
        instance: the name of the instance in the configuration.
        flow: the flow whose settings in the configuration (`flows:`) are added.
        per_user: one instance for each user.
        translator: changes what Dagster shows about each table.
        assets: plain Dagster assets. Their keys become `[instance_id, stage, table]`; the stage is the asset's group
            or key prefix. They may name tables without the instance: `AssetKey(["raw", "orders"])`. On small instances,
            assets with `metadata={"pipedag/input": True}` are copied and not run.

    Returns:
        Definitions with one asset group per stage, the resources `instance` and `io_manager`, the executor of the
        YAML, a job that runs the whole instance, a job for each stage, and the schedule and sensors of the YAML.

    Raises:
        ConfigError: the configuration has mistakes. All are listed, with file and line.
        WiringError: the flow cannot run as it is wired.

    Example:
        full, midi = (build_definitions(build, "instances", instance=name) for name in ("full", "midi"))
    """
    files = config if isinstance(config, PipedagConfig) else PipedagConfig(_config_path(config, build))
    chosen = files.get(instance, flow, per_user)
    flows = [] if build is None else built(build, chosen)
    _refuse_unread_settings(chosen, flows)
    return define(chosen, flows, translator, assets, build)


def _refuse_unread_settings(instance: ConfigContext, flows: Sequence[FlowGraph]) -> None:
    own = {each.name for each in flows} & set(instance.files.files.flow_names) - {instance.config.flow}
    if own:
        name = min(own)
        raise ConfigError(
            f"{instance.files.path} has settings for the flow {name!r} (flows.{name}), but the instance was chosen "
            f"without them. Write build_definitions(…, instance={instance.config.name!r}, flow={name!r})."
        )


def _config_path(config: str | Path | None, build: Build | None) -> str | Path | None:
    """Where a configuration is, seen from the working directory or else from the file of `build`. A worker on another
    host imports the same code, but it may have been started in any folder."""
    try:
        start = Path(inspect.getfile(inspect.unwrap(build))).absolute().parent  # type: ignore[arg-type]
    except TypeError:  # not a function
        return config
    if config is None:
        try:
            return find_config()
        except ConfigError:
            return find_config(start)
    if Path(config).exists():
        return config
    return next((folder / config for folder in (start, *start.parents) if (folder / config).exists()), config)


def define(
    instance: ConfigContext,
    flows: list[FlowGraph],
    translator: PipedagTranslator | None = None,
    assets: Sequence[dg.AssetsDefinition] = (),
    build: Build | None = None,
) -> dg.Definitions:
    """`build_definitions` for flows that are already built. Without `build`, runs cannot have other attrs.

    Raises:
        ConfigError: the configuration does not fit the flows.
        WiringError: the flows cannot run as they are wired.
    """
    stages = [stage for flow in flows for stage in flow.stages]
    names = [stage.name for stage in stages]
    refuse_unusable(instance, flows, may_be_empty=bool(assets))
    translator = translator or PipedagTranslator()
    resource = bound_resource(instance, stages, build)
    tables = [(stage.name, asset) for stage in stages for call in stage.calls for asset in call.assets]
    plain = instance_assets(instance, assets, tables)
    check_sample(instance, flows, input_tables(assets))
    of_stages = [stage_assets(instance, stage, translator) for stage in stages]
    refuse_circles(of_stages, plain)
    return dg.Definitions(
        assets=[*of_stages, *plain],
        resources={"instance": resource, "io_manager": TableIOManager(instance=resource)},
        jobs=_jobs(instance, names, plain),
        schedules=schedules(instance, job_name(instance)),
        sensors=sensors(instance, flows, job_name(instance)),
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
                dg.AssetSelection.groups(stage) - partitioned,
                description=f"The stage {stage} of {name}.",
                tags=tags,
            )
            for stage in stages
        ),
    ]


def job_name(instance: ConfigContext) -> str:
    """The name of the job that runs the whole instance."""
    return identifier(instance.instance_id)
