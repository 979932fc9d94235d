"""Both examples in one code location an instance: what `workspace.yaml` loads."""

from __future__ import annotations

from pipedag_dagster import ConfigContext, Flow, build_definitions
from pipedag_dagster.examples.flights import flow as flights
from pipedag_dagster.examples.quickstart import flow as quickstart


def build(instance: ConfigContext) -> list[Flow]:
    """Two flows, with different stages."""
    return [quickstart.build(instance), flights.build(instance)]


full, midi, mini = (build_definitions(build, instance=name) for name in ("full", "midi", "mini"))
