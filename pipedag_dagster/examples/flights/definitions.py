"""The Dagster side: one code location per instance."""

from pipedag_dagster import build_definitions
from pipedag_dagster.examples.flights.flow import build

full, midi, mini = (build_definitions(build, instance=name) for name in ("full", "midi", "mini"))
