"""Plain Dagster assets on an instance. Their keys begin with the instance, and small instances copy their inputs."""

# no postponed annotations: Dagster reads the annotations of a step as objects
import difflib
import graphlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import WiringError, did_you_mean
from pipedag_dagster.execution.write_one_table import CopiedRows, NewTable, Slice, write_table
from pipedag_dagster.names import TableRef
from pipedag_dagster.orchestration.io_manager import stage_and_table, table_metadata
from pipedag_dagster.orchestration.keys import group_name
from pipedag_dagster.orchestration.partitions import PARTITION, table_slice
from pipedag_dagster.orchestration.tags import INPUT, ONLY_ON
from pipedag_dagster.sampling.flow_samples import flow_sampler
from pipedag_dagster.sampling.sampler import Sampler

_KNOWN = (INPUT, ONLY_ON, PARTITION)


def assets_on(instance: ConfigContext, assets: Iterable[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The assets that an instance has: all but those with `metadata={"pipedag/only_on": […]}` of other instances.

    Raises:
        WiringError: an asset has metadata that nobody reads, or it needs an asset that the instance does not have.
    """
    assets = list(assets)
    for spec in (spec for definition in assets for spec in definition.specs):
        refuse_unknown_metadata(spec, instance.files.instance_names)
    has = {id(definition): _is_on(instance.config.name, definition) for definition in assets}
    missing = {spec.key: spec for definition in assets if not has[id(definition)] for spec in definition.specs}
    chosen = [definition for definition in assets if has[id(definition)]]
    for spec in (spec for definition in chosen for spec in definition.specs):
        for dep in spec.deps:
            if dep.asset_key in missing:
                names = list(missing[dep.asset_key].metadata[ONLY_ON])
                raise WiringError(
                    f"Asset {spec.key.to_user_string()} needs {dep.asset_key.to_user_string()}, which instance "
                    f'{instance.config.name!r} does not have. Give both the metadata {{"{ONLY_ON}": {names}}}.'
                )
    return chosen


def _is_on(name: str, definition: dg.AssetsDefinition) -> bool:
    wanted = {tuple(spec.metadata.get(ONLY_ON, [name])) for spec in definition.specs}
    if len(wanted) > 1:
        names = ", ".join(sorted(key.to_user_string() for key in definition.keys))
        raise WiringError(
            f"The assets of one function ({names}) have different {ONLY_ON}, but the function runs as a whole. "
            "Give them the same, or write several functions."
        )
    return not wanted or name in wanted.pop()


def instance_keys(
    instance: ConfigContext, assets: Iterable[dg.AssetsDefinition], tables: Iterable[tuple[str, str]] = ()
) -> dict[dg.AssetKey, dg.AssetKey]:
    """The key `[instance_id, stage, table]` of each asset, by the key that the project gives it.

    Args:
        tables: stage and name of the tables of the flows, which the assets may read as `AssetKey([stage, table])`.

    Raises:
        WiringError: two assets are the same table.
    """
    keys = {dg.AssetKey(pair): _key(instance, *pair) for pair in tables}
    taken = set(keys.values())
    for spec in (spec for definition in assets for spec in definition.specs):
        keys[spec.key] = _key(instance, *stage_and_table(spec.key, spec.group_name))
        if keys[spec.key] in taken:
            raise WiringError(f"Two assets are the table {keys[spec.key].to_user_string()}. Rename one of them.")
        taken.add(keys[spec.key])
    return keys


def instance_assets(
    instance: ConfigContext, assets: Sequence[dg.AssetsDefinition], keys: dict[dg.AssetKey, dg.AssetKey]
) -> list[dg.AssetsDefinition]:
    """The assets with their keys of the instance. If the instance copies its inputs, assets with
    `metadata={"pipedag/input": True}` are not run: a sample of the committed tables of the source takes their place.

    Args:
        keys: see `instance_keys`.

    Raises:
        WiringError: only some assets of a multi-asset are inputs.
    """
    stages = sorted({key.path[1] for key in keys.values()})
    inputs = [definition for definition in assets if _is_input(definition)]
    copied = [TableRef(*keys[key].path[1:]) for definition in inputs for key in definition.keys]
    return [
        _copying(instance, definition, keys, stages, copied)
        if instance.source is not None and definition in inputs
        else definition.with_attributes(asset_key_replacements=keys)
        for definition in assets
    ]


def input_tables(assets: Iterable[dg.AssetsDefinition]) -> list[tuple[str, str]]:
    """Stage and name of the tables that plain assets bring in from outside."""
    specs = [spec for definition in assets for spec in definition.specs if spec.metadata.get(INPUT)]
    return [stage_and_table(spec.key, spec.group_name) for spec in specs]


def refuse_unknown_metadata(spec: dg.AssetSpec, instances: Sequence[str]) -> None:
    """
    Args:
        instances: the names of all instances.

    Raises:
        WiringError: the asset has a key of metadata that looks like one of ours, but that nobody reads.
    """
    asset = f"Asset {spec.key.to_user_string()}"
    for key, value in spec.metadata.items():
        close = difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.8)
        if key not in _KNOWN and (key.startswith("pipedag/") or close):
            hint = did_you_mean(key, _KNOWN)
            raise WiringError(f"{asset}: nobody reads the metadata {key!r}.{hint}")
        if key == INPUT and not isinstance(value, bool):
            raise WiringError(f"{asset}: the metadata {INPUT!r} must be True or False, not {value!r}.")
    only_on = spec.metadata.get(ONLY_ON, [])
    if not isinstance(only_on, list | tuple):
        raise WiringError(f'{asset}: the metadata {ONLY_ON!r} must be a list of instances, such as ["full"].')
    for name in only_on:
        if name not in instances:
            hint = did_you_mean(name, instances)
            raise WiringError(f"{asset}: {ONLY_ON} names {name!r}, which is not an instance.{hint}")
    if PARTITION in spec.metadata and spec.partitions_def is None:
        raise WiringError(
            f"{asset}: nobody reads the metadata {PARTITION!r}, because the asset has no partitions. "
            "Give it partitions_def=…, or remove it."
        )


def refuse_circles(stages: Sequence[dg.AssetsDefinition], plain: Sequence[dg.AssetsDefinition]) -> None:
    """
    Raises:
        WiringError: a plain asset comes both before and after tasks of one stage. Dagster would silently split the
            stage into two steps, and so into two transactions.
    """
    steps = [*stages, *plain]
    step_of = {key: number for number, step in enumerate(steps) for key in step.keys}
    needs = {
        number: {step_of.get(dep.asset_key, number) for spec in step.specs for dep in spec.deps} - {number}
        for number, step in enumerate(steps)
    }
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        names = {number: f"stage {next(iter(step.keys)).path[1]!r}" for number, step in enumerate(stages)}
        names |= {number: f"asset {min(step.keys).to_user_string()}" for number, step in enumerate(plain, len(stages))}
        first, *others = (names[number] for number in reversed(error.args[1]))
        raise WiringError(
            f"A stage and plain assets need each other in a circle: {first} needs {', which needs '.join(others)}. A "
            "stage is committed as one, so an asset cannot come both before and after it. Move the tasks that need the "
            "asset into a stage of their own."
        ) from None


def _key(instance: ConfigContext, stage: str, table: str) -> dg.AssetKey:
    return dg.AssetKey([instance.instance_id, stage, table])


def _is_input(definition: dg.AssetsDefinition) -> bool:
    marked = {spec.key for spec in definition.specs if spec.metadata.get(INPUT)}
    if marked and marked != set(definition.keys):
        names = ", ".join(sorted(key.to_user_string() for key in definition.keys - marked))
        raise WiringError(
            f"Some assets of one function are inputs and some are not ({names}), but the function runs as a whole. "
            f'Mark them all with metadata={{"{INPUT}": True}}, or write two functions.'
        )
    return bool(marked)


def _copying(
    instance: ConfigContext,
    definition: dg.AssetsDefinition,
    keys: dict[dg.AssetKey, dg.AssetKey],
    stages: Sequence[str],
    copied: Sequence[TableRef],
) -> dg.AssetsDefinition:
    """Assets with the keys of `definition` that are copied from the source of the instance.

    Args:
        copied: all tables that are: those that refer to each other are sampled together.
    """
    source = instance.source
    assert source is not None
    specs = []
    for spec in definition.specs:
        _, stage, table = keys[spec.key].path
        original = _key(source, stage, table)
        text = f"A sample of {original.to_user_string()}, copied in place of this asset:\n\n{spec.description or table}"
        specs.append(
            spec.replace_attributes(
                key=keys[spec.key],
                deps=[original],
                code_version="copy",
                description=text,
                group_name=group_name(instance, stage),
            )
        )

    @dg.multi_asset(
        name=f"{definition.op.name}_copy",
        specs=specs,
        can_subset=True,
        backfill_policy=definition.backfill_policy,
    )
    def copy(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        run_id = context.run.run_id
        # All at once, so that this run copies one version of the source even if it commits meanwhile.
        versions = source.store.table_store.pin(run_id, stages, {table.stage for table in copied})
        instance.store.table_store.prepare(sorted(versions))
        plain = [(table.stage, table.name) for table in copied]
        sampler = flow_sampler(instance, [], versions, plain, remember=True)
        for spec in specs:
            if spec.key in context.selected_asset_keys:
                part = None
                if spec.partitions_def is not None:
                    name = spec.key.to_user_string()
                    part = table_slice(name, spec.partitions_def, context.partition_keys, spec.metadata)
                yield _copy(instance, sampler, spec.key, run_id, part)

    return copy


def _copy(
    instance: ConfigContext, sampler: Sampler, key: dg.AssetKey, run_id: str, part: Slice | None
) -> dg.MaterializeResult[Any]:
    _, stage, name = key.path
    store = instance.store.table_store
    new = _sample(sampler, f"{stage}.{name}", part)
    written = write_table(instance, TableRef(stage, name), run_id, new, part)
    metadata = table_metadata(store, written)
    return dg.MaterializeResult(asset_key=key, metadata=metadata, data_version=dg.DataVersion(written.data_version))


def _sample(sampler: Sampler, name: str, part: Slice | None) -> NewTable:
    """The sample of a table of the source. With `part`, only the rows of these partitions that are in the sample."""
    sample = sampler.of(name)
    rows = sampler.origin(sample)
    if part is not None:
        where = part.where(sample.table.columns)
        return NewTable(CopiedRows(replace(rows, content=None, content_hash=None, where=where)), sample.constraints)
    key = digest("copy", name, sample.rows.content, repr(sample.constraints))
    return NewTable(CopiedRows(rows), sample.constraints, key)
