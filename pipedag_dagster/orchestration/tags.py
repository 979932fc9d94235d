"""Marks on Dagster's objects. A run has tags: its instance, and the stage versions that it has read and written."""

from __future__ import annotations

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.execution.stage_result import StageResult
from pipedag_dagster.graph.flow import Stage

INPUT = "pipedag/input"
"""Metadata of an asset that brings data in from outside: `metadata={"pipedag/input": True}`."""
ONLY_ON = "pipedag/only_on"
"""Metadata of an asset that only some instances have, because it sends mail, say: `{"pipedag/only_on": ["full"]}`."""
INSTANCE_TAG = "pipedag/instance"
EXECUTOR_TAG = "pipedag/executor"
"""The executor of a run whose steps are in other processes."""
DATA_VERSION = "dagster/data_version"
"""Dagster's tag of a materialization: what the table holds."""
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
"""Dagster's tags of a run for several partitions."""


def run_tags(instance: ConfigContext, stage: Stage, result: StageResult) -> dict[str, str]:
    """The tags that a stage adds to its run: `pipedag/reads/raw: 12`, `pipedag/reads/full/raw: 7` for another instance,
    and `pipedag/writes/report: 3` if it has committed a version."""
    tags = {INSTANCE_TAG: instance.instance_id}
    tags |= {f"pipedag/reads/{name}": str(number) for name, number in result.reads.items()}
    if result.version != result.previous:
        tags[f"pipedag/writes/{stage.name}"] = str(result.version)
    return tags
