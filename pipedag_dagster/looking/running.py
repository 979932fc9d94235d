"""Running the flow of an instance that somebody looks at: it is found as the command line finds it."""

from __future__ import annotations

from pathlib import Path

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.orchestration.result import Result
from pipedag_dagster.orchestration.run import execute
from pipedag_dagster.orchestration.workspace import Location, locations, nearest_workspace


def run_instance(instance: ConfigContext, select: str | None, workspace: Path | None) -> Result:
    """Run all of an instance, or the part that `select` names.

    Args:
        workspace: names the definitions. Without it, the nearest one, in the working directory or a folder above it.

    Raises:
        PipedagError: the run fails.
        ConfigError: the workspace has no definitions for this instance.
    """
    found = location_of(instance, workspace)
    result = execute(found.definitions, found.instance, selection=found.select(select) if select else None)
    if result.error is not None:
        raise result.error
    return result


def location_of(instance: ConfigContext, workspace: Path | None) -> Location:
    """The definitions of an instance: those that write to the same schemas.

    Raises:
        ConfigError: there are none.
    """
    workspace = workspace or nearest_workspace()
    loaded = locations(workspace=workspace)
    for location in loaded:
        if _place(location.instance) == _place(instance):
            return location
    names = ", ".join(sorted({location.instance.config.name for location in loaded}))
    raise ConfigError(
        f"{workspace} has no definitions for the instance {instance.config.name!r} of {instance.files.path}, only for: "
        f"{names}."
    )


def _place(instance: ConfigContext) -> tuple[object, ...]:
    config = instance.config
    return (config.pipeline, config.instance_id, str(config.url), config.schema_prefix, config.schema_suffix)
