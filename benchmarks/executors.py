"""What a step costs where each one is a process of its own: `python benchmarks/executors.py`.

A pipeline with a chain of stages that do next to nothing runs with each executor, in a Dagster instance with SQLite
storage. The seconds between the end of one step and the start of the next one are what starting a process costs.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import dagster as dg

STAGES = 4
FLOW = f"""
import pandas as pd
from pipedag_dagster import Flow, Stage, build_definitions, materialize

@materialize(version="1")
def step(df: pd.DataFrame | None = None):
    return pd.DataFrame({{"a": [1]}})

def build(instance):
    with Flow("bench") as flow:
        table = None
        for number in range({STAGES}):
            with Stage(f"stage_{{number}}"):
                table = step(table)
    return flow

full = build_definitions(build, "instances", instance="full")
"""
EXECUTORS = {
    "in_process": "in_process",
    "multiprocess, spawn (Dagster's default)": "{multiprocess: {start_method: {spawn: {}}}}",
    "multiprocess (ours: forkserver, all modules preloaded)": "multiprocess",
}


def measure(folder: Path, executor: str) -> tuple[float, float]:
    """Seconds of the run, and the median of those between two steps."""
    (folder / "instances" / "__any__.yaml").write_text(
        "name: bench\ntable_store: {args: {url: embedded, schema_prefix: '{instance_id}_'}}\n"
        f"cache_validation: {{mode: force_cache_invalid}}\nexecutor: {executor}\n"
    )
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "yes"}
    command = [str(Path(sys.executable).parent / "dagster"), "asset", "materialize", "-m", "bench_flow", "-a", "full"]
    subprocess.run([*command, "--select", "*"], cwd=folder, env=environment, check=True, capture_output=True)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (record,) = instance.get_run_records(limit=1)
        stats = sorted(instance.get_run_step_stats(record.dagster_run.run_id), key=lambda one: one.start_time or 0)
        times = [(one.start_time or 0, one.end_time or 0) for one in stats]
        between = [start - end for (_, end), (start, _) in itertools.pairwise(times)]
        return times[-1][1] - times[0][0], statistics.median(between)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench_flow.py").write_text(FLOW)
        (folder / "instances").mkdir()
        (folder / "instances" / "full.yaml").touch()
        measure(folder, "in_process")  # the embedded server starts
        try:
            for title, executor in EXECUTORS.items():
                seconds, between = measure(folder, executor)
                print(f"| {title} | {seconds:.1f} s | {between:.2f} s |")
        finally:
            subprocess.run([str(Path(sys.executable).parent / "pipedag-dagster"), "stop"], cwd=folder, check=True)


if __name__ == "__main__":
    main()
