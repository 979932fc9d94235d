"""A stage as Dagster assets: one subsettable multi-asset, so one step, so one transaction."""

import inspect  # no postponed annotations here: Dagster looks at those of a step as objects
import re
from collections.abc import Iterator

import dagster as dg
import pandas as pd
import sqlalchemy as sa

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.execution.cache import task_code_version
from pipedag_dagster.execution.stage_run import Outcome, StageResult, run_stage
from pipedag_dagster.flow import Stage, TaskCall
from pipedag_dagster.orchestration.resources import InstanceResource
from pipedag_dagster.store.catalog import StageVersion, TableVersion


def asset_key(instance_id: str, stage: str, asset: str) -> dg.AssetKey:
    """The key of a table: `[instance_id, stage, table]`."""
    return dg.AssetKey([instance_id, stage, asset])


def identifier(name: str) -> str:
    """`name` in the letters that Dagster allows for jobs, steps and kinds.

    >>> identifier("full-1")
    'full_1'
    """
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def stage_assets(config: ConfigContext, stage: Stage) -> dg.AssetsDefinition:
    """The tables of a stage as assets. Launching some of them runs only those."""
    specs = [spec for call in stage.calls for spec in _specs(config, call)]
    name = identifier(f"{config.instance_id}__{stage.name}")

    @dg.multi_asset(name=name, specs=specs, can_subset=True)
    def run(context: dg.AssetExecutionContext, instance: InstanceResource) -> Iterator[dg.MaterializeResult[None]]:
        selected = {key.path[-1] for key in context.selected_asset_keys}
        result = run_stage(
            config,
            stage,
            context.run.run_id,
            assets=selected,
            validation=instance.validation(config.config.cache_validation),
            tell=context.log.info,
        )
        # Only now, after the commit: Dagster never says that a table is there that is not.
        yield from _results(context, config, result, selected)

    return run


def _specs(instance: ConfigContext, call: TaskCall) -> Iterator[dg.AssetSpec]:
    task, stage = call.task, call.stage.name
    copies = task.input and instance.source is not None
    for slot in call.slots:
        source = instance.source if copies else call.source
        if source is not None:
            source_stage = getattr(call.source_stage, "name", stage) if not copies else stage
            deps = [asset_key(source.instance_id, source_stage, slot.asset)]
        else:
            needed = ((output.call.stage.name, slot.asset) for output in call.inputs for slot in output.slots)
            deps = [asset_key(instance.instance_id, *pair) for pair in dict.fromkeys(needed)]
        yield dg.AssetSpec(
            asset_key(instance.instance_id, stage, slot.asset),
            deps=deps,
            group_name=stage,
            code_version="copy" if copies else task_code_version(call, again=True),
            description=_description(call, deps[0] if copies else None),
            # The lineage graph shows nothing else by which to tell the tables of several instances apart.
            kinds={identifier(instance.instance_id), "postgres", "table" if copies else _kind(call)},
        )


def _description(call: TaskCall, original: dg.AssetKey | None) -> str | None:
    text = inspect.getdoc(call.task.fn)
    if original is None:
        return text
    return f"A sample of {original.to_user_string()}, copied in place of this task:\n\n{text or call.name}"


def _kind(call: TaskCall) -> str:
    kind = call.task.input_type
    if kind is not None and issubclass(kind, sa.FromClause):
        return "sql"
    return "pandas" if kind is None or issubclass(kind, pd.DataFrame) else kind.__module__.partition(".")[0]


def _results(
    context: dg.AssetExecutionContext, instance: ConfigContext, result: StageResult, selected: set[str]
) -> Iterator[dg.MaterializeResult[None]]:
    schemas = instance.store.table_store.schemas
    for outcome in result.outcomes:
        declared = set(outcome.call.assets)
        for asset, table in outcome.tables.items():
            key = asset_key(instance.instance_id, table.stage, asset)
            where = (
                f"{instance.store.table_store.database.engine.url.database}.{schemas(table.stage).current}.{table.name}"
            )
            metadata = _metadata(outcome, table, where, result)
            if asset in selected:
                yield dg.MaterializeResult(
                    asset_key=key, metadata=metadata, data_version=dg.DataVersion(table.data_version)
                )
            elif asset not in declared:
                # A table that was not known before the task ran is reported too.
                tags = {"dagster/data_version": table.data_version}
                context.log_event(dg.AssetMaterialization(key, metadata=metadata, tags=tags))


def report(dagster: dg.DagsterInstance, instance: ConfigContext, before: StageVersion, after: StageVersion) -> None:
    """Tell Dagster of a stage version that no run of Dagster has made: a materialization of each table that has
    changed, with its data version."""
    store = instance.store.table_store
    where = f"{store.database.engine.url.database}.{store.schemas(after.stage).current}"
    for asset, table in after.tables.items():
        old = before.tables.get(asset)
        if old is None or old.data_version != table.data_version:
            metadata = _of_table(table, f"{where}.{table.name}") | {
                "pipedag/stage_version": dg.MetadataValue.int(after.number),
                "pipedag/previous_stage_version": dg.MetadataValue.int(before.number),
            }
            key = asset_key(instance.instance_id, after.stage, asset)
            tags = {"dagster/data_version": table.data_version}
            dagster.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata, tags=tags))


def _metadata(outcome: Outcome, table: TableVersion, where: str, result: StageResult) -> dict[str, dg.MetadataValue]:
    return _of_table(table, where) | {
        "pipedag/reason": dg.MetadataValue.text(outcome.reason),
        "pipedag/cached": dg.MetadataValue.bool(outcome.cached),
        "pipedag/seconds": dg.MetadataValue.float(round(outcome.seconds, 3)),
        "pipedag/stage_version": dg.MetadataValue.int(result.version),
        "pipedag/previous_stage_version": dg.MetadataValue.int(result.previous),
    }


def _of_table(table: TableVersion, where: str) -> dict[str, dg.MetadataValue]:
    key = set(table.primary_key)
    columns = [
        dg.TableColumn(
            column.name,
            column.type,
            constraints=dg.TableColumnConstraints(
                nullable=column.nullable, unique=key == {column.name}, other=["primary key"] * (column.name in key)
            ),
        )
        for column in table.columns
    ]
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/table_name": dg.MetadataValue.text(where),
        "dagster/row_count": dg.MetadataValue.int(table.rows),
        "dagster/column_schema": dg.MetadataValue.table_schema(dg.TableSchema(columns)),
        "pipedag/bytes": dg.MetadataValue.int(table.bytes),
    }
    if table.libraries:
        metadata["pipedag/libraries"] = dg.MetadataValue.json(dict(table.libraries))
    if table.query is not None:
        metadata["pipedag/query"] = dg.MetadataValue.md(f"```sql\n{table.query}\n```")
    return metadata
