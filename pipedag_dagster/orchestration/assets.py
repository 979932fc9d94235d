"""A stage as Dagster assets: one subsettable multi-asset, so one step, so one transaction."""

from collections.abc import Iterator  # no postponed annotations here: Dagster looks at those of a step as objects

import dagster as dg

from pipedag_dagster.catalog.catalog import StageVersion, TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ChecksFailed
from pipedag_dagster.execution.check_runner import CheckResult
from pipedag_dagster.execution.stage_run import StageResult, run_stage
from pipedag_dagster.graph.flow import Stage
from pipedag_dagster.orchestration import metadata
from pipedag_dagster.orchestration.asset_checks import check_result, check_specs
from pipedag_dagster.orchestration.keys import asset_key, identifier
from pipedag_dagster.orchestration.resources import InstanceResource
from pipedag_dagster.orchestration.tags import run_tags
from pipedag_dagster.orchestration.translator import PipedagTranslator, TableProps, asset_specs

Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]


def stage_assets(config: ConfigContext, stage: Stage, translator: PipedagTranslator) -> dg.AssetsDefinition:
    """The tables of a stage as assets. Launching some of them runs only those.

    Raises:
        WiringError: Dagster does not allow what a task says about its tables.
    """
    described = list(asset_specs(config, stage, translator))
    tables = {props.table: props for props, _ in described}

    @dg.multi_asset(
        name=identifier(f"{config.instance_id}__{stage.name}"),
        specs=[spec for _, spec in described],
        check_specs=[check for props, _ in described for check in check_specs(props)],
        can_subset=True,
    )
    def run(context: dg.AssetExecutionContext, instance: InstanceResource) -> Results:
        selected, checks = _selected(context)
        here, wired = instance.wired(config, stage)
        try:
            result = run_stage(
                here,
                wired,
                context.run.run_id,
                assets=selected,
                checks=checks,
                validation=instance.validation(config.config.cache_validation),
                tell=context.log.info,
            )
        except ChecksFailed as error:
            yield from _checks(config, tables, error.results, None)
            raise
        context.instance.add_run_tags(context.run.run_id, run_tags(here, wired, result))
        # Only now, after the commit: Dagster never says that a table is there that is not.
        yield from _results(context, config, result, selected)
        yield from _checks(config, tables, result.checks, result.seen)

    return run


def _selected(context: dg.AssetExecutionContext) -> tuple[set[str], set[tuple[str, str]]]:
    """The tables of the stage that the run has selected, and their checks, by table and name.

    dagster-dask loses the selection on the way to the step, so the run is asked too.
    """
    run, tables, checks = context.run, context.selected_asset_keys, context.selected_asset_check_keys
    if run.asset_selection:  # without one, the job says what runs
        tables = tables & run.asset_selection
        checks = {key for key in checks if key.asset_key in run.asset_selection} | (
            checks & (run.asset_check_selection or set())
        )
    return {key.path[-1] for key in tables}, {(key.asset_key.path[-1], key.name) for key in checks}


def _checks(
    config: ConfigContext,
    tables: dict[str, TableProps],
    results: tuple[CheckResult, ...],
    seen: tuple[TableVersion, ...] | None,
) -> Iterator[dg.AssetCheckResult]:
    for result in results:
        yield check_result(tables[result.asset], result, config.store.table_store, seen)


def _results(
    context: dg.AssetExecutionContext, instance: ConfigContext, result: StageResult, selected: set[str]
) -> Iterator[dg.MaterializeResult[None]]:
    made = [(outcome, asset, table) for outcome in result.outcomes for asset, table in outcome.tables.items()]
    shown = [
        (outcome, asset, table)
        for outcome, asset, table in made
        if asset in selected or asset not in outcome.call.assets
    ]
    store = instance.store.table_store
    known = metadata.of_tables(store, ((table, outcome.call.task.about) for outcome, _, table in shown))
    for outcome, asset, table in shown:
        key = asset_key(instance.instance_id, table.stage, asset)
        told = metadata.of_outcome(outcome, result) | known[asset]
        if asset in selected:
            yield dg.MaterializeResult(asset_key=key, metadata=told, data_version=dg.DataVersion(table.data_version))
        else:
            # A table that was not known before the task ran is reported too.
            tags = {"dagster/data_version": table.data_version}
            context.log_event(dg.AssetMaterialization(key, metadata=told, tags=tags))


def report(dagster: dg.DagsterInstance, instance: ConfigContext, before: StageVersion, after: StageVersion) -> None:
    """Tell Dagster of a stage version that no run of Dagster has made: a materialization of each table that has
    changed, with its data version."""
    known = metadata.of_rollback(instance.store.table_store, after, before)
    for asset, table in after.tables.items():
        old = before.tables.get(asset)
        if old is None or old.data_version != table.data_version:
            key = asset_key(instance.instance_id, after.stage, asset)
            tags = {"dagster/data_version": table.data_version}
            dagster.report_runless_asset_event(dg.AssetMaterialization(key, metadata=known[asset], tags=tags))
