"""All of Dagster for one instance, in one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipedag_dagster.context import ConfigContext, PipedagConfig, find_config
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.graph.flow import FlowGraph
from pipedag_dagster.options import known_options
from pipedag_dagster.orchestration.build import Build, built
from pipedag_dagster.orchestration.deferred import Deferred, DeferredDefinitions, is_deferring
from pipedag_dagster.orchestration.flow_checks import refuse_unusable
from pipedag_dagster.orchestration.table_names import check_sample

if TYPE_CHECKING:
    import dagster as dg

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
    asset_checks: Sequence[dg.AssetsDefinition] = (),
    jobs: Sequence[Any] = (),
    schedules: Sequence[Any] = (),
    sensors: Sequence[dg.SensorDefinition] = (),
    resources: Mapping[str, Any] | None = None,
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
            or key prefix. They may name tables without the instance: `AssetKey(["raw", "orders"])`. Small instances
            copy assets with `metadata={"pipedag/input": True}`. `{"pipedag/only_on": ["full"]}` keeps an asset off
            others.
        asset_checks, jobs, schedules, sensors, resources: as `dg.Definitions` takes them. They name assets as the
            project does; the keys are replaced. What only belongs to assets of other instances is left out.

    Returns:
        Definitions with one asset group per stage, the resources `instance` and `io_manager`, the executor, schedule
        and sensors of the YAML, a job that runs the whole instance, and a job for each stage.

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

    def make() -> dg.Definitions:
        from pipedag_dagster.orchestration.definitions import define  # noqa: PLC0415
        from pipedag_dagster.orchestration.project import Project  # noqa: PLC0415

        project = Project(assets, asset_checks, jobs, schedules, sensors, resources)
        return define(chosen, flows, translator, project, build)

    if assets or asset_checks or jobs or schedules or sensors or not is_deferring():
        return make()
    return _made_later(chosen, flows, make)


def _made_later(
    instance: ConfigContext, flows: Sequence[FlowGraph], make: Callable[[], dg.Definitions]
) -> dg.Definitions:
    refuse_unusable(instance, flows)
    check_sample(instance, flows)
    stages = tuple(stage for flow in flows for stage in flow.stages)
    return cast("dg.Definitions", DeferredDefinitions(Deferred(instance, stages, make)))


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
