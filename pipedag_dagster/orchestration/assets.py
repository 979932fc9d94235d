"""A stage as Dagster assets: one subsettable multi-asset, so one step, so one transaction."""

# No postponed annotations: Dagster reads the annotations of a step as objects.
from collections.abc import Iterable, Iterator
from pathlib import Path

import dagster as dg

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ChecksFailed
from pipedag_dagster.execution.cache_key import read_code
from pipedag_dagster.execution.check_result import CheckResult
from pipedag_dagster.execution.progress import SharedProgress
from pipedag_dagster.execution.sample_checks import sample_checks
from pipedag_dagster.execution.stage_result import StageResult
from pipedag_dagster.execution.stage_run import run_stage
from pipedag_dagster.graph.flow import Stage
from pipedag_dagster.orchestration import metadata
from pipedag_dagster.orchestration.asset_checks import check_result, check_specs
from pipedag_dagster.orchestration.keys import asset_key, identifier
from pipedag_dagster.orchestration.resources import InstanceResource
from pipedag_dagster.orchestration.shown_failure import shown_failures
from pipedag_dagster.orchestration.step_progress import StepProgress, observer
from pipedag_dagster.orchestration.tags import DATA_VERSION, run_tags
from pipedag_dagster.orchestration.translator import PipedagTranslator, TableProps, asset_specs
from pipedag_dagster.sampling.copies import copied_from

Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]


def stage_assets(instance: ConfigContext, stage: Stage, translator: PipedagTranslator) -> dg.AssetsDefinition:
    """The tables of a stage as assets. A launch of some of them runs only those.

    Raises:
        WiringError: Dagster does not allow the description of a table.
    """
    read_code(call for call in stage.calls if copied_from(instance, call) is None)
    specs = list(asset_specs(instance, stage, translator))
    tables = {props.table: props for props, _ in specs}
    of_samples = sample_checks(instance, stage.flow)

    def results(context: dg.AssetExecutionContext) -> Results:
        resource: InstanceResource = context.resources.instance
        selected, checks = _selected(context)
        rewired, wired_stage = resource.wired(instance, stage)
        try:
            result = run_stage(
                rewired,
                wired_stage,
                context.run.run_id,
                assets=selected,
                checks=checks,
                validation=resource.validation(instance.config.cache_validation),
                progress=SharedProgress(StepProgress(context.log), observer.get()),
            )
        except ChecksFailed as error:
            yield from _checks(instance, tables, error.results, None)
            raise
        context.instance.add_run_tags(context.run.run_id, run_tags(rewired, wired_stage, result))
        # Only after the commit, so that Dagster never shows a table that does not exist.
        yield from _results(context, instance, result, selected)
        yield from _checks(instance, tables, result.checks, result.seen)

    @dg.multi_asset(
        name=identifier(f"{instance.instance_id}__{stage.name}"),
        specs=[spec for _, spec in specs],
        check_specs=[
            check for props, _ in specs for check in check_specs(props, of_samples.get(f"{stage.name}.{props.table}"))
        ],
        required_resource_keys={"instance"},
        can_subset=True,
    )
    def run(context: dg.AssetExecutionContext) -> Results:
        with shown_failures(f"pipedag-dagster run {instance.config.name} --select {stage.name}"):
            yield from results(context)

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
    instance: ConfigContext,
    tables: dict[str, TableProps],
    results: tuple[CheckResult, ...],
    seen: tuple[TableVersion, ...] | None,
) -> Iterator[dg.AssetCheckResult]:
    for result in results:
        yield check_result(tables[result.asset], result, instance.store.table_store, seen)


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
    relations = {check.asset: metadata.of_relations(check.relations) for check in result.checks if check.relations}
    for outcome, asset, table in shown:
        key = asset_key(instance.instance_id, table.stage, asset)
        shown_metadata = metadata.of_outcome(outcome, asset, result) | known[asset] | relations.get(asset, {})
        if asset in selected:
            yield dg.MaterializeResult(
                asset_key=key, metadata=shown_metadata, data_version=dg.DataVersion(table.data_version)
            )
        else:
            # A table that nobody knew before the task ran is reported, too.
            tags = {DATA_VERSION: table.data_version}
            context.log_event(dg.AssetMaterialization(key, metadata=shown_metadata, tags=tags))


def link_report(
    dagster_instance: dg.DagsterInstance, instance: ConfigContext, tables: Iterable[str], file: Path
) -> None:
    """Show with each of the tables (`stage.asset`) where the report on their sample is."""
    for name in tables:
        stage, _, asset = name.partition(".")
        shown = {"pipedag/sample_report": dg.MetadataValue.path(str(file.resolve()))}
        observation = dg.AssetObservation(asset_key(instance.instance_id, stage, asset), metadata=shown)
        dagster_instance.report_runless_asset_event(observation)
