"""Other `attrs` for one run: in the launchpad, as run config, or with `pipedag-dagster run --attr`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import dagster as dg
from pydantic import Field, create_model

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.graph.flow import FlowGraph, Stage
from pipedag_dagster.orchestration.build import Build, built
from pipedag_dagster.sampling.copies import source_of

_SECRET = re.compile("pass|secret|token|credential|key", re.IGNORECASE)
_TYPES: tuple[type, ...] = (bool, int, float, str, dict, list)


def typed(attrs: Mapping[Any, Any], plain: Collection[Any]) -> type[dg.Config]:
    """The attrs of an instance as a config class of Dagster: the launchpad shows their names and types, and refuses
    others.

    Args:
        plain: the attrs that were written without a placeholder. It shows their values, too, unless they are called
            something like a secret.
    """
    fields: dict[str, Any] = {}
    for number, (name, value) in enumerate(attrs.items()):
        if isinstance(name, str):
            attr_type = next((each for each in _TYPES if type(value) is each), None)
            annotation: Any = Any if attr_type is None else attr_type | None
            # By alias, because an attr may have the name of an attribute of pydantic's models.
            is_shown = attr_type is not None and name in plain and not _SECRET.search(name)
            default = value if is_shown else None
            fields[f"attr_{number}"] = (annotation, Field(default=default, alias=name))
    return create_model("Attrs", __base__=dg.Config, **fields)


def chosen_attrs(attrs: Any) -> dict[str, Any]:
    """The attrs that a run has chosen: those that differ from the instance's own."""
    if not isinstance(attrs, dg.Config):
        return {name: value for name, value in (attrs or {}).items() if value is not None}
    own = {field.alias: field.default for field in type(attrs).model_fields.values()}
    values = attrs.model_dump(by_alias=True)
    return {name: value for name, value in values.items() if value is not None and value != own[name]}


def rewired(
    build: Build, instance: ConfigContext, stage: Stage, attrs: Mapping[str, Any]
) -> tuple[ConfigContext, Stage]:
    """The instance with other attrs, and the stage of the flow that is built with them.

    Raises:
        ConfigError: with these attrs the flow has other tables or dependencies than the definitions.
    """
    other = instance.with_attrs(attrs)
    flows = {flow.name: flow for flow in built(build, other)}
    flow = flows.get(stage.flow.name)
    if flow is None or _wiring(other, flow) != _wiring(instance, stage.flow):
        names = ", ".join(f"attrs.{name}" for name in attrs)
        raise ConfigError(
            f"With the {names} of this run, {instance.config.name!r} has other tables or dependencies than Dagster "
            f"knows. Change {names} in {instance.config.file}, and reload the code location."
        )
    return other, next(each for each in flow.stages if each.name == stage.name)


def _wiring(instance: ConfigContext, flow: FlowGraph) -> list[tuple[object, ...]]:
    """The part of a flow that Dagster knows: its tables, what each one needs, and the instance that it is copied
    from."""
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
