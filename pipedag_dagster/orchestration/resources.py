"""The instance as a Dagster resource."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
from pydantic import Field, create_model

from pipedag_dagster.config.instances import CacheMode, CacheValidation
from pipedag_dagster.context import ConfigContext, PipedagConfig
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.execution.run_pins import release
from pipedag_dagster.execution.run_validation import validation
from pipedag_dagster.graph.flow import Stage
from pipedag_dagster.options import caller, refuse_unknown
from pipedag_dagster.orchestration.attrs import chosen_attrs, rewired, typed
from pipedag_dagster.orchestration.build import Build
from pipedag_dagster.orchestration.tags import EXECUTOR_TAG

caller_releases: ContextVar[bool] = ContextVar("caller_releases", default=False)
"""Set around a run in this process whose caller reads its results: its pins stay until the caller removes them."""


@functools.lru_cache(maxsize=128)
def _load(config: str, instance: str, flow: str | None, per_user: bool, stamp: tuple[object, ...]) -> ConfigContext:
    return PipedagConfig(config).get(instance, flow, per_user)


def _stamp(config: Path) -> tuple[object, ...]:
    """Changes when a file of the configuration does."""
    files = sorted(config.rglob("*.y*ml")) if config.is_dir() else [config] if config.exists() else []
    return tuple((str(file), status.st_mtime_ns, status.st_size) for file in files for status in [file.stat()])


class InstanceResource(dg.ConfigurableResource[Any]):
    """One instance of a pipeline. The cache modes and attrs can be set for one run, in the launchpad or as run config:
    `resources: {instance: {config: {cache_validation_mode: force_cache_invalid, attrs: {copy_filter_cnt: 5}}}}`.

    It contains no secret: each process of a run reads the configuration itself.
    """

    config_path: str = Field(description="The pipeline's configuration: a YAML file, or a folder of them.")
    instance: str = Field(description="Name of the instance in the configuration.")
    flow: str | None = Field(default=None, description="The flow whose settings in the configuration count.")
    per_user: bool = Field(default=False, description="One instance for each user.")
    cache_validation_mode: CacheMode | None = Field(
        default=None, description="Replaces the instance's own mode in this run."
    )
    disable_cache_function: bool | None = Field(default=None, description="Do not call cache functions in this run.")
    ignore_task_version: bool | None = Field(default=None, description="Run tasks with a version in this run.")

    attrs: dict[str, Any] | None = Field(default=None, description="Replace attrs of the instance in this run.")

    bound: ClassVar[dict[str, Any]] = {}
    """The fields that a run cannot change, because they say which instance it is (`bound_resource`)."""
    build: ClassVar[Any] = None
    """The function that builds the flows, to build them again for a run with other attrs."""
    stages: ClassVar[tuple[Stage, ...]] = ()
    """The stages of the definitions, each after the stages that it reads."""

    def __init__(self, **fields: Any) -> None:
        refuse_unknown(f"InstanceResource(…) ({caller()})", fields, type(self).model_fields)
        super().__init__(**fields)

    @property
    def context(self) -> ConfigContext:
        """The instance with its store.

        Raises:
            ConfigError: the configuration is wrong.
        """
        path = Path(self.config_path).absolute()
        return _load(str(path), self.instance, self.flow, self.per_user, _stamp(path))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the fields that say which instance it is; nothing of this process is in it. (Dagster's own
        resources cannot be pickled.)"""
        path: dict[str, Any] = {"config_path": str(Path(self.config_path).absolute())}
        own = {name: getattr(self, name) for name in InstanceResource.model_fields if name not in (*path, "attrs")}
        return functools.partial(InstanceResource, **path, **own, attrs=chosen_attrs(self.attrs) or None), ()

    def wired(self, instance: ConfigContext, stage: Stage) -> tuple[ConfigContext, Stage]:
        """The instance and the stage for this run. They are built again if the run has other attrs.

        Raises:
            ConfigError: with these attrs, the tables or their dependencies would be different.
        """
        attrs = chosen_attrs(self.attrs)
        if not attrs:
            return instance, stage
        if self.build is None:
            raise ConfigError(
                "attrs: the flow is already built. Write config.with_attrs({…}), and build the flow with the result."
            )
        return rewired(self.build, instance, stage, attrs)

    def validation(self, own: CacheValidation) -> CacheValidation:
        """The cache validation of this run: the instance's own, with the changes that the run has chosen.

        Raises:
            ConfigError: there is no mode of this name.
        """
        return validation(own, self.cache_validation_mode, self.disable_cache_function, self.ignore_task_version)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[InstanceResource]:
        """The resource for the time of a run (in one process). At the end, the pins of the run are removed.

        Raises:
            ConfigError: the run's configuration names an instance other than the one of the definitions.
        """
        for name, value in self.bound.items():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"resources.instance.config.{name} is {value!r} here and cannot be changed for one run. "
                    "Launch the run in the code location of the other instance."
                )
        try:
            yield self
        finally:
            release_at_end(context, self.context)


def release_at_end(context: dg.InitResourceContext, instance: ConfigContext) -> None:
    """Remove the pins of a run when its resource is torn down; not if the caller does so, or if this is the process of
    one step and the run goes on elsewhere (see `executors`)."""
    if context.run and not caller_releases.get():
        run = context.instance.get_run_by_id(context.run.run_id) if context.instance else None
        if run is None or EXECUTOR_TAG not in run.tags:
            release(instance, context.run.run_id)


def bound_resource(
    instance: ConfigContext, stages: Sequence[Stage] = (), build: Build | None = None
) -> InstanceResource:
    """The resource of one instance, with its stages.

    The fields that name the instance have defaults, so that the run config of a run contains only its changes. With
    `build`, a run can have other attrs.
    """
    config = instance.config
    bound: dict[str, Any] = {
        "config_path": str(instance.files.path),
        "instance": config.name,
        "per_user": config.per_user,
    }
    if config.flow is not None:
        bound["flow"] = config.flow
    fields: dict[str, Any] = {
        name: (type(value), Field(value, description=InstanceResource.model_fields[name].description))
        for name, value in bound.items()
    }
    description = InstanceResource.model_fields["attrs"].description
    attrs = typed(config.attrs, config.plain_attrs)
    fields["attrs"] = (attrs, Field(attrs(), description=description))
    model = create_model("InstanceResource", __base__=InstanceResource, __doc__=InstanceResource.__doc__, **fields)
    model.bound = bound
    model.stages = tuple(stages)
    model.build = staticmethod(build) if build is not None else None
    return model(**bound)
