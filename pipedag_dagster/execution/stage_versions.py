"""What a task under `@input_stage_versions` gets: the tables of this run, and those of another version of the stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pipedag_dagster.catalog.catalog import OutputKind, StageVersion, TableVersion
from pipedag_dagster.errors import NotMaterialized
from pipedag_dagster.execution.call_outputs import CallOutputs
from pipedag_dagster.graph.flow import Output, Stage, TaskCall, outputs_in


class Inputs(Protocol):
    """The inputs of a stage run, as far as they are needed here (see `execution.inputs`)."""

    stage: Stage
    made: dict[TaskCall, Mapping[str, TableVersion]]

    def outputs_of(self, output: Output) -> CallOutputs: ...

    def other_version(self, call: TaskCall, stage: str | None = None) -> StageVersion: ...


@dataclass(frozen=True)
class StageVersions:
    """Tables and blobs by name: those of this run, and those of the other version."""

    staged: Mapping[str, TableVersion]
    other: Mapping[str, TableVersion]

    @property
    def has_blobs(self) -> bool:
        return any(table.kind is OutputKind.blob for table in (*self.staged.values(), *self.other.values()))


def stage_versions(inputs: Inputs, call: TaskCall) -> StageVersions:
    """Both versions for a call: of the outputs among its arguments, or of all tables of the stage.

    Raises:
        NotMaterialized: the other instance has not committed the stage, or an output was never made.
    """
    if call.source is not None:
        refuse_missing(call, inputs.other_version(call))
    if call.compared:
        return _chosen(inputs, call)
    staged = {table.name: table for before in call.after for table in inputs.made.get(before, {}).values()}
    version = inputs.other_version(call)
    if call.source is None:
        other = {table.name: table for table in version.tables.values() if table.task != call.name}
    else:
        others = {asset for sibling in inputs.stage.calls if sibling is not call for asset in sibling.assets}
        other = {
            table.name: table for table in version.tables.values() if table.name not in others | {table.asset} & others
        }
    kinds = {OutputKind.table, OutputKind.view} if call.task.include_views else {OutputKind.table}
    return StageVersions(*({name: t for name, t in tables.items() if t.kind in kinds} for tables in (staged, other)))


def _chosen(inputs: Inputs, call: TaskCall) -> StageVersions:
    staged: dict[str, TableVersion] = {}
    other: dict[str, TableVersion] = {}
    for output in outputs_in(call.compared):
        for asset, table in inputs.outputs_of(output).needed(output).items():
            if table.kind is OutputKind.value:
                continue
            name = table.name if table.stage == inputs.stage.name else f"{table.stage}.{table.name}"
            staged[name] = table
            counterpart = inputs.other_version(call, table.stage).tables.get(asset)
            if counterpart is not None and counterpart.kind is not OutputKind.value:
                other[name] = counterpart
    return StageVersions(staged, other)


def refuse_missing(call: TaskCall, version: StageVersion) -> None:
    """
    Raises:
        NotMaterialized: the instance that a call copies from has not committed the stage yet.
    """
    if not version.number:
        name = call.source.config.name
        raise NotMaterialized(
            f"Instance {name!r}, from which {call} copies, has not committed stage {version.stage!r} yet. "
            f"Run it first: pipedag-dagster run {name}"
        )
