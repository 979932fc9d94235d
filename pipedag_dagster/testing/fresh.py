"""An instance that belongs to one test."""

from __future__ import annotations

import secrets
from pathlib import Path

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.graph.flow import FlowGraph
from pipedag_dagster.looking.open_instance import OpenInstance
from pipedag_dagster.looking.running import location_of, run_instance
from pipedag_dagster.orchestration.result import Result
from pipedag_dagster.orchestration.run import Flow
from pipedag_dagster.orchestration.workspace import Location
from pipedag_dagster.versions import removal


class FreshInstance(OpenInstance):
    """An instance like another one, but with schemas of its own. It is empty until it is run.

    Args:
        origin: the instance that it is like.
        workspace: names the definitions.
    """

    def __init__(self, origin: ConfigContext, workspace: Path) -> None:
        token = secrets.token_hex(3)
        config = origin.config
        changes = {
            "instance_id": f"{config.instance_id}_{token}",
            "schema_prefix": f"t{token}_{config.schema_prefix}",
        }
        super().__init__(ConfigContext(config.model_copy(update=changes), origin.files), workspace)
        self.origin = origin

    def run(self, select: str | None = None, *, flow: FlowGraph | None = None) -> Result:
        """Run the whole flow, or a part of it, in the schemas of this instance. If its source was never run, the source
        runs first.

        Args:
            select: a stage, or `stage.task`.
            flow: the flow to run. Default: the flow of the definitions.

        Raises:
            ConfigError: the definitions have no flow for this instance.
            PipedagError: the run fails.
        """
        run_source(self.origin, self.workspace)
        flows = [flow] if flow is not None else flows_of(location_of(self.origin, self.workspace))
        if not flows:
            raise ConfigError(f"{self.workspace} has no flow for the instance {self.origin.config.name!r}.")
        chosen = [each for each in flows if select is None or select.partition(".")[0] in [s.name for s in each.stages]]
        results = [_run(each, self.instance, select) for each in chosen or flows[:1]]
        return results[-1]

    def drop(self) -> None:
        """Drop the schemas of this instance, and its blobs."""
        removal.drop(self.instance.store.table_store, force=True)
        self.instance.store.table_store.close()


def _run(flow: FlowGraph, instance: ConfigContext, select: str | None) -> Result:
    assert isinstance(flow, Flow)
    return flow.run(*([select] if select else []), config=instance, fail_fast=True)


def flows_of(location: Location) -> list[FlowGraph]:
    """The flows of definitions."""
    return list({id(stage.flow): stage.flow for stage in location.stages}.values())


def run_source(instance: ConfigContext, workspace: Path | None) -> bool:
    """Run the instance that inputs are copied from, if it was never run. If two processes do so at once, one waits for
    the other and then finds everything cached.

    Returns:
        Whether it was run.

    Raises:
        PipedagError: its run fails.
    """
    source = instance.source
    if source is None:
        return False
    store = source.store.table_store
    if store.exists() and store.records.stages():
        return False
    run_source(source, workspace)
    run_instance(source, None, workspace)
    return True
