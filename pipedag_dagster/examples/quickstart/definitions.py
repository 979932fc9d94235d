"""The Dagster side: one Definitions object per instance.

dagster asset materialize -m pipedag_dagster.examples.quickstart.definitions -a mini --select '*'
"""

from pipedag_dagster import build_definitions
from pipedag_dagster.examples.quickstart.flow import build

full, midi, mini = (build_definitions(build, instance=name) for name in ("full", "midi", "mini"))
