"""The function that users write, which builds the flows of an instance."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.graph.flow import FlowGraph

Build = Callable[[ConfigContext], "FlowGraph | Iterable[FlowGraph]"]
"""It takes an instance and returns its flow, or several flows with different stages."""


def built(build: Build, instance: ConfigContext) -> list[FlowGraph]:
    """The flows that `build` returns."""
    flows = build(instance)
    return [flows] if isinstance(flows, FlowGraph) else list(flows)
