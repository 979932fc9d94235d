"""The Dagster side: one Definitions object per instance.

pipedag-dagster run full_fresh -m pipedag_dagster.examples.fresh_and_stable.definitions
"""

from pathlib import Path

from pipedag_dagster import PipedagConfig, build_definitions
from pipedag_dagster.examples.fresh_and_stable.flow import build

files = PipedagConfig(Path(__file__).parent / "instances")
full_fresh, full, midi, mini = (
    build_definitions(build, files, instance=name) for name in ("full_fresh", "full", "midi", "mini")
)
