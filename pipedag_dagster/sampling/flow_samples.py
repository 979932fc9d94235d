"""The sampler of an instance, from the flows whose input tasks it does not run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipedag_dagster.catalog.catalog import StageVersion, TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import NotMaterialized
from pipedag_dagster.graph.flow import FlowGraph, TaskCall
from pipedag_dagster.sampling.copies import copied_calls
from pipedag_dagster.sampling.sampler import Sampler
from pipedag_dagster.sampling.spec import InputTable, declared_relations, sample_spec


def source_outputs(
    instance: ConfigContext, source: ConfigContext, call: TaskCall, version: StageVersion
) -> dict[str, TableVersion]:
    """What is copied instead of running an input task, by asset: tables, and other things that a stage can hold.

    Args:
        version: of the stage of the call, in the source.

    Raises:
        NotMaterialized: the source has not committed one of them yet.
    """
    found = outputs_of(call, version)
    for asset in call.assets:
        if asset not in found:
            raise NotMaterialized(
                f"Instance {source.config.name!r}, from which {instance.config.name!r} copies its inputs, has no table "
                f"{call.stage.name}.{asset} yet. Run it first: pipedag-dagster run {source.config.name}"
            )
    return found


def outputs_of(call: TaskCall, version: StageVersion) -> dict[str, TableVersion]:
    """The outputs of a call in a stage version, by asset."""
    declared = (version.tables[asset] for asset in call.assets if asset in version.tables)
    found = {table.asset: table for table in (*version.by_task.get(call.name, ()), *declared)}
    return dict(sorted(found.items(), key=lambda item: item[1].id or 0))  # as the task returned them


def flow_sampler(
    instance: ConfigContext,
    flows: Iterable[FlowGraph],
    versions: Mapping[str, StageVersion],
    plain: Iterable[tuple[str, str]] = (),
    *,
    remember: bool,
) -> Sampler:
    """The sampler of the tables that an instance copies.

    Args:
        versions: the stages of the source. Tables of other stages are left out.
        plain: stage and name of the input tables that plain assets make.
        remember: see `Sampler`.

    Raises:
        ConfigError: the section `sample` does not fit the tables.
    """
    source, flows = instance.source, list(flows)
    assert source is not None
    tables: dict[str, TableVersion] = {}
    missing: dict[str, NotMaterialized] = {}
    for flow in flows:
        for call in copied_calls(instance, flow):
            if call.stage.name not in versions:
                continue
            try:
                found = source_outputs(instance, source, call, versions[call.stage.name]).values()
                tables |= {f"{table.stage}.{table.asset}": table for table in found if table.in_database}
            except NotMaterialized as error:  # it matters only if another table refers to one of these
                missing |= {f"{call.stage.name}.{asset}": error for asset in call.assets}
    for stage, name in plain:
        if name in versions[stage].tables:
            tables[f"{stage}.{name}"] = versions[stage].tables[name]
        else:
            missing[f"{stage}.{name}"] = NotMaterialized(
                f"Instance {instance.config.name!r} copies its inputs from {source.config.name!r}, which has no table "
                f"{stage}.{name} yet. Materialize {source.instance_id}/{stage}/{name} first."
            )
    listed = [InputTable(name, table.name, table.column_types) for name, table in tables.items()]
    listed += map(InputTable, missing)
    spec = sample_spec(instance.config, listed, [one for flow in flows for one in declared_relations(flow)])
    numbers = {stage: version.number for stage, version in versions.items()}
    return Sampler(instance, source, tables, spec, numbers=numbers, missing=missing, remember=remember)
