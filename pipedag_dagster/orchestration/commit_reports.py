"""Telling Dagster of table versions that were committed without it: by a rollback, or by a run without DAGSTER_HOME.

They become materializations without a run, as Dagster has them for everything that is made elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import dagster as dg

from pipedag_dagster.catalog.catalog import StageVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import DatabaseError
from pipedag_dagster.graph.flow import FlowGraph, Stage
from pipedag_dagster.orchestration import metadata
from pipedag_dagster.orchestration.keys import asset_key
from pipedag_dagster.orchestration.schedules import status
from pipedag_dagster.orchestration.tags import DATA_VERSION


def report_rollback(
    dagster_instance: dg.DagsterInstance, instance: ConfigContext, before: StageVersion, after: StageVersion
) -> None:
    """Report the tables that a rollback has changed as materialized, with their older data versions."""
    changed = {
        asset
        for asset, table in after.tables.items()
        if asset not in before.tables or before.tables[asset].data_version != table.data_version
    }
    for event in _materializations(instance, after, changed):
        dagster_instance.report_runless_asset_event(event)


def commit_sensor(instance: ConfigContext, flows: Sequence[FlowGraph], job: str) -> dg.SensorDefinition | None:
    """The sensor of `report_commits:`, which compares the committed data versions with those that Dagster knows, and
    reports the others; None if the YAML has none."""
    section = instance.config.report_commits
    if section is None:
        return None
    stages = [stage for flow in flows for stage in flow.stages]

    @dg.sensor(
        name=f"{job}_report_commits",
        minimum_interval_seconds=section.interval,
        default_status=dg.DefaultSensorStatus[status(section)],
        description=f"Shows what {instance.instance_id} has committed without Dagster: with another history, or none.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            events = list(_unknown(context.instance, instance, stages))
        except DatabaseError as error:  # the message says what helps; the next tick tries again
            return dg.SkipReason(str(error))
        return dg.SensorResult(asset_events=events) if events else dg.SkipReason("Dagster knows all committed tables.")

    return sensor


def _unknown(
    dagster_instance: dg.DagsterInstance, instance: ConfigContext, stages: Sequence[Stage]
) -> Iterator[dg.AssetMaterialization]:
    """The tables of tasks whose committed data version is not the latest that Dagster has."""
    store = instance.store.table_store
    if not store.exists():
        return
    committed = store.current([stage.name for stage in stages])
    keys = [asset_key(instance.instance_id, name, asset) for name, each in committed.items() for asset in each.tables]
    known = dict(_known(dagster_instance, keys))
    for stage in stages:
        version, tasks = committed[stage.name], {call.name for call in stage.calls}
        unknown = {
            asset
            for asset, table in version.tables.items()
            if table.task in tasks  # not of a plain asset, which only Dagster runs
            and known.get(asset_key(instance.instance_id, stage.name, asset)) != table.data_version
        }
        yield from _materializations(instance, version, unknown, stage)


def _known(
    dagster_instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]
) -> Iterator[tuple[dg.AssetKey, str | None]]:
    """The latest data versions that Dagster has, of the assets that it has seen."""
    for record in dagster_instance.get_asset_records(keys) if keys else ():
        event = record.asset_entry.last_materialization
        made = event.asset_materialization if event else None
        if made is not None:
            yield made.asset_key, (made.tags or {}).get(DATA_VERSION)


def _materializations(
    instance: ConfigContext, version: StageVersion, assets: Iterable[str], stage: Stage | None = None
) -> Iterator[dg.AssetMaterialization]:
    """
    Args:
        assets: the tables of the version that are meant.
        stage: has the descriptions of columns.
    """
    abouts = {asset: call.task.about for call in stage.calls for asset in call.assets} if stage else {}
    tables = [version.tables[asset] for asset in sorted(assets)]
    shown = metadata.of_tables(instance.store.table_store, [(table, abouts.get(table.asset)) for table in tables])
    for table in tables:
        yield dg.AssetMaterialization(
            asset_key(instance.instance_id, version.stage, table.asset),
            metadata=shown[table.asset] | metadata.of_stage_version(version.number),
            tags={DATA_VERSION: table.data_version},
        )
