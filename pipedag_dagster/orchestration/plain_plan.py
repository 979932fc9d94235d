"""What a run would do about plain assets: they have no cache key, so they run whenever they are selected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipedag_dagster.execution.plan import Action, PlannedTable
from pipedag_dagster.orchestration.tags import INPUT
from pipedag_dagster.orchestration.workspace import Location

RUNS = "plain asset: it runs in every run that selects it"


def plan_plain(location: Location, tables: Iterable[tuple[str, str]]) -> Iterator[PlannedTable]:
    """
    Args:
        tables: that would be run. Those of flows are skipped.
    """
    of_flows = {(stage.name, asset) for stage in location.stages for call in stage.calls for asset in call.assets}
    specs = {tuple(spec.key.path[1:]): spec for assets in location.assets() for spec in assets.specs}
    source = location.instance.source
    for stage, asset in tables:
        if (stage, asset) in of_flows:
            continue
        if source is not None and specs[stage, asset].metadata.get(INPUT):
            # Which rows belong to the sample is only known when it is taken.
            yield PlannedTable(stage, asset, Action.perhaps, "", (f"{source.config.name}: {stage}.{asset}",))
        else:
            yield PlannedTable(stage, asset, Action.runs, RUNS)
