"""All the Dagster there is: one Definitions an instance."""

from pathlib import Path

from my_pipeline.flow import build
from pipedag_dagster import build_definitions

INSTANCES = Path(__file__).parents[1] / "instances"

full, midi, mini = (build_definitions(build, INSTANCES, instance=name) for name in ("full", "midi", "mini"))
