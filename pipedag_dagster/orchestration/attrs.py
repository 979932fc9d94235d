"""Other `attrs` for one run: in the launchpad, as run config, or by `pipedag-dagster run --attr`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dagster as dg
from pydantic import Field, create_model

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.graph.flow import FlowGraph, Stage
from pipedag_dagster.sampling.copies import source_of

Build = Callable[[ConfigContext], "FlowGraph | Iterable[FlowGraph]"]
"""What users write: a function from an instance to its flow, or to several flows with different stages."""

_TYPES: tuple[type, ...] = (bool, int, float, str, dict, list)


def built(build: Build, context: ConfigContext) -> list[FlowGraph]:
    """The flows that `build` returns."""
    flows = build(context)
    return [flows] if isinstance(flows, FlowGraph) else list(flows)


def typed(attrs: Mapping[Any, Any]) -> type[dg.Config]:
    """The attrs of an instance as config of Dagster: so the launchpad knows their names and types, and refuses others.

    Their values are not part of it: one may come from the environment because it is a secret.
    """
    fields: dict[str, Any] = {}
    for number, (name, value) in enumerate(attrs.items()):
        if isinstance(name, str):
            kind = next((kind for kind in _TYPES if type(value) is kind), None)
            annotation: Any = Any if kind is None else kind | None
            # Any name may be that of an attr, also one that a model of pydantic has already.
            fields[f"attr_{number}"] = (annotation, Field(default=None, alias=name))
    return create_model("Attrs", __base__=dg.Config, **fields)


def given(attrs: Any) -> dict[str, Any]:
    """Those that a run has chosen."""
    values = attrs.model_dump(by_alias=True) if isinstance(attrs, dg.Config) else attrs or {}
    return {name: value for name, value in values.items() if value is not None}


def rewired(
    build: Build, context: ConfigContext, stage: Stage, attrs: Mapping[str, Any]
) -> tuple[ConfigContext, Stage]:
    """The instance with other attrs, and the stage as the flow has it when it is built with them.

    Raises:
        ConfigError: the wiring would be another one than that of the definitions.
    """
    other = context.with_attrs(attrs)
    flows = {flow.name: flow for flow in built(build, other)}
    flow = flows.get(stage.flow.name)
    if flow is None or _wiring(other, flow) != _wiring(context, stage.flow):
        names = ", ".join(f"attrs.{name}" for name in attrs)
        raise ConfigError(
            f"With {names} as this run has it, {context.config.name!r} has other tables or dependencies than those "
            f"that Dagster knows. Change {names} in {context.config.file}, and reload the code location."
        )
    return other, next(one for one in flow.stages if one.name == stage.name)


def _wiring(instance: ConfigContext, flow: FlowGraph) -> list[tuple[object, ...]]:
    """What Dagster knows of a flow: tables, what each one needs, and from which instance it is copied."""
    return [
        (
            stage.name,
            call.name,
            call.slots,
            [(str(output.call), output.slots) for output in call.inputs],
            None if (source := source_of(instance, call)) is None else source.instance_id,
            str(call.source_stage or ""),
        )
        for stage in flow.stages
        for call in stage.calls
    ]
