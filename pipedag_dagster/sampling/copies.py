"""Which calls of an instance get their data from another instance."""

from __future__ import annotations

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.graph.flow import FlowGraph, TaskCall


def copied_from(instance: ConfigContext, call: TaskCall) -> ConfigContext | None:
    """The instance whose tables are copied instead of running this call; None when the call runs."""
    return instance.source if call.task.input else None


def copied_calls(instance: ConfigContext, flow: FlowGraph) -> list[TaskCall]:
    """All calls of a flow whose tables are copied from the source of an instance."""
    return [call for stage in flow.stages for call in stage.calls if copied_from(instance, call) is not None]


def source_of(instance: ConfigContext, call: TaskCall) -> ConfigContext | None:
    """The other instance that this call reads: because its tables are copied, or because the task copies them by hand
    (`@input_stage_versions`). None when it reads its own instance only."""
    by_hand: ConfigContext | None = call.source
    return by_hand or copied_from(instance, call)
