"""One instance of a pipeline as a component of a `dg` project: a `defs.yaml` takes the place of `definitions.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

from pipedag_dagster.context import find_config
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.function_reference import function_at
from pipedag_dagster.orchestration.build_definitions import build_definitions


class _ScaffoldOptions(BaseModel):
    flow: str = Field(
        default="my_pipeline.flow:build",
        description="The function that gets the instance and returns the flow: `module:function`.",
    )
    instance: str = Field(default="{{ env.PIPELINE_INSTANCE }}", description="Name of the instance.")


class PipelineScaffolder(dg.Scaffolder[_ScaffoldOptions]):
    """Writes the `defs.yaml` of `dg scaffold defs pipedag_dagster.PipelineComponent NAME --flow module:function`."""

    @classmethod
    def get_scaffold_params(cls) -> type[_ScaffoldOptions]:
        return _ScaffoldOptions

    def scaffold(self, request: dg.ScaffoldRequest[_ScaffoldOptions]) -> None:
        dg.scaffold_component(request, request.params.model_dump())


@dg.scaffold_with(PipelineScaffolder)
class PipelineComponent(dg.Component, dg.Model, dg.Resolvable):
    """One instance of a pipeline. A `dg` project has one: choose it by an environment variable.

    type: pipedag_dagster.PipelineComponent
    attributes:
      flow: my_pipeline.flow:build
      instance: "{{ env.PIPELINE_INSTANCE }}"
    """

    flow: str = Field(description="The function that gets the instance and returns the flow: `module:function`.")
    instance: str = Field(description="Name of the instance in the configuration.")
    config: str | None = Field(
        default=None,
        description="The configuration, relative to the folder of this file: a YAML file, or a folder of them. Without "
        "it: PIPEDAG_CONFIG, else `instances/` or `pipedag.yaml` here or in a folder above.",
    )
    flow_name: str | None = Field(
        default=None, description="The name of the flow whose settings in the configuration (`flows:`) are added."
    )
    per_user: bool = Field(default=False, description="One instance for each user.")

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of the instance.

        Raises:
            ConfigError: there is no such function, or the configuration has mistakes. All are listed.
            WiringError: the flow cannot run as it is wired.
        """
        config = find_config(context.path) if self.config is None else context.path / self.config
        return build_definitions(
            _function(self.flow), config, instance=self.instance, flow=self.flow_name, per_user=self.per_user
        )


def _function(reference: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    try:
        return function_at(reference, "my_pipeline.flow:build")
    except ValueError as error:
        raise ConfigError(f"flow: {error}") from None
