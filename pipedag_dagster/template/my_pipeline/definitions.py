"""The Dagster side: one Definitions object per instance."""

from my_pipeline.flow import build
from pipedag_dagster import build_definitions

full, midi, mini = (build_definitions(build, instance=name) for name in ("full", "midi", "mini"))
