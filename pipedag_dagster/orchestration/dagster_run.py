"""Running the definitions of one instance through Dagster, in this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

import dagster as dg

from pipedag_dagster.catalog.catalog import StageVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError, PipedagError
from pipedag_dagster.execution.progress import Progress
from pipedag_dagster.orchestration import commit_reports
from pipedag_dagster.orchestration.definitions import job_name
from pipedag_dagster.orchestration.keys import asset_key
from pipedag_dagster.orchestration.partition_choice import PartitionRange
from pipedag_dagster.orchestration.resources import caller_releases
from pipedag_dagster.orchestration.shown_failure import original
from pipedag_dagster.orchestration.step_progress import observer

_INTERRUPTIONS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")  # by us, and by a task


def run_job(
    definitions: dg.Definitions,
    instance: ConfigContext,
    run_id: str,
    overrides: dict[str, Any],
    *,
    selection: Iterable[tuple[str, str]] | None,
    partitions: PartitionRange | None,
    log_level: int,
    progress: Progress | None,
) -> tuple[list[BaseException], list[dg.AssetCheckEvaluation]]:
    """Run the job of an instance, or some of its assets. The pins of the run stay: the caller removes them.

    Args:
        overrides: fields of the instance resource, for this run.
        selection: stage and asset of the tables to run; None for all.
        partitions: of partitioned assets. The job of the instance leaves these out, so they run in Dagster's own job.
        log_level: of Dagster's own log on the console.

    Returns:
        The errors of the steps that failed, and the results of the checks, even if the run failed.
    """
    run_config = {
        "resources": {"instance": {"config": overrides}},
        "loggers": {"console": {"config": {"log_level": logging.getLevelName(log_level)}}},
    }
    keys = None if selection is None else [asset_key(instance.instance_id, *table) for table in selection]
    errors: list[BaseException] = []
    if partitions is None:
        job = definitions.resolve_job_def(job_name(instance))
    else:
        job = definitions.resolve_implicit_global_asset_job_def()
    job = job.with_hooks({_collect(errors)})
    with _dagster_instance() as dagster_instance:
        token, observed = caller_releases.set(True), observer.set(progress)
        try:
            # After a failed stage, stages that do not need it still run.
            done = job.execute_in_process(
                run_config=run_config,
                instance=dagster_instance,
                run_id=run_id,
                asset_selection=keys,
                partition_key=None if partitions is None else partitions.key,
                tags=None if partitions is None else partitions.tags,
                raise_on_error=instance.config.fail_fast,
            )
            if not done.success and not errors:
                # After Ctrl-C, Dagster reports a failed step, and calls no hook.
                failed = [event.step_failure_data.error for event in done.all_events if event.is_step_failure]
                if any(error and error.cls_name in _INTERRUPTIONS for error in failed):
                    raise KeyboardInterrupt
                raise PipedagError(f"Run {run_id} failed before its first step. Dagster's log says why.")
        except PipedagError as failure:
            errors.append(original(failure))
        except dg.DagsterInvalidConfigError as error:
            errors.append(ConfigError("\n".join(each.message for each in error.errors)))
        finally:
            caller_releases.reset(token)
            observer.reset(observed)
        return errors, _checks(dagster_instance, run_id)


def _dagster_instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else dg.DagsterInstance.ephemeral()


def _checks(dagster_instance: dg.DagsterInstance, run_id: str) -> list[dg.AssetCheckEvaluation]:
    """The results of the checks of a run, even if the run failed."""
    records = dagster_instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = (record.event_log_entry.dagster_event for record in records)
    return [event.asset_check_evaluation_data for event in events if event is not None]


def _collect(errors: list[BaseException]) -> dg.HookDefinition:
    @dg.failure_hook
    def collect(context: dg.HookContext) -> None:
        if context.op_exception is not None:
            errors.append(original(context.op_exception))

    return collect


def report_rollback(instance: ConfigContext, before: StageVersion, after: StageVersion) -> None:
    """Show the tables that a rollback has changed as materialized, with their older data versions."""
    with dg.DagsterInstance.get() as dagster_instance:
        commit_reports.report_rollback(dagster_instance, instance, before, after)
