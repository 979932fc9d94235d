"""Running a flow from Python, through Dagster, in this process."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from contextvars import ContextVar, Token
from typing import Any, Self

import dagster as dg

from pipedag_dagster.catalog.catalog import RunRecord, StageVersion, TableVersion
from pipedag_dagster.config.instances import CacheMode
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError, NotMaterialized, PipedagError, SeveralFailed, did_you_mean
from pipedag_dagster.execution.call_outputs import CallOutputs
from pipedag_dagster.execution.progress import Progress
from pipedag_dagster.graph.flow import FlowGraph, Output, TaskCall
from pipedag_dagster.options import known_options
from pipedag_dagster.orchestration.assets import report
from pipedag_dagster.orchestration.definitions import define, job_name
from pipedag_dagster.orchestration.resources import cache_mode, caller_releases, release
from pipedag_dagster.orchestration.step_progress import observer
from pipedag_dagster.versions import history

_held: ContextVar[list[tuple[ConfigContext, str]] | None] = ContextVar("held", default=None)


class StageLockContext:
    """Keeps the results of the runs inside of it readable until it ends, even if other runs commit meanwhile.

    No run waits for it: it does not lock stages, it only keeps their table versions.
    """

    _token: Token[list[tuple[ConfigContext, str]] | None]

    def __enter__(self) -> Self:
        self._token = _held.set([])
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        held = _held.get() or []
        _held.reset(self._token)
        for instance, run_id in held:
            release(instance, run_id)


class Result:
    """The result of a run.

    Attributes:
        successful: whether the run succeeded.
        error: the error of a run that failed, else None.
        run_id: the id of the Dagster run.
        checks: Dagster's results of the checks that were evaluated: `.asset_key`, `.check_name`, `.passed`,
            `.severity`, `.description`, `.metadata`.
    """

    def __init__(
        self,
        instance: ConfigContext,
        run_id: str,
        error: BaseException | None,
        checks: Sequence[dg.AssetCheckEvaluation] = (),
    ) -> None:
        self.instance = instance
        self.run_id = run_id
        self.error = error
        self.checks = tuple(checks)

    @property
    def successful(self) -> bool:
        return self.error is None

    @property
    def tables(self) -> list[tuple[RunRecord, TableVersion]]:
        """Each table of the run, with what was done about it and why."""
        return self.instance.store.table_store.records.of_run(self.run_id)

    def get(self, output: Output | TaskCall | str, as_type: type | None = None) -> Any:
        """Read the result of a task from the database.

        Args:
            output: the handle that the task's call returned while wiring; or the name of a table, `"stage.table"`.
            as_type: `pd.DataFrame` (the default), `pa.Table`, `pl.DataFrame` or `sa.Table`.

        Returns:
            A table, a value, or the object of a blob. If the task returns several, all of them, in the shape in which
            the task has returned them.

        Raises:
            NotMaterialized: the run did not make the table, or its version was dropped since.
        """
        if isinstance(output, str):
            return self._read(output, as_type)
        output = Output(output) if isinstance(output, TaskCall) else output
        call = output.call
        made = {
            table.asset: table
            for run, table in self.tables
            if run.stage == call.stage.name and (table.asset in call.assets or table.task == call.name)
        }

        def missing(asset: str) -> NotMaterialized:
            return NotMaterialized(
                f"Run {self.run_id[:8]} has no table {call.stage.name}.{asset}: the run failed before, or the version "
                "was dropped since. To keep results, run and read inside of `with StageLockContext():`."
            )

        store = self.instance.store.table_store
        return CallOutputs(call, made, missing).read(output, lambda table: store.read(table, as_type))

    def _read(self, name: str, as_type: type | None) -> Any:
        """The table of a name, in Dagster or in SQL."""
        tables = {f"{table.stage}.{alias}": table for _, table in self.tables for alias in (table.name, table.asset)}
        if name.lower() not in tables:
            hint = did_you_mean(name.lower(), tables)
            raise NotMaterialized(f"Run {self.run_id[:8]} has no table {name!r}.{hint}")
        return self.instance.store.table_store.read(tables[name.lower()], as_type)


class Flow(FlowGraph):
    """The graph of a pipeline: `with Flow("shop") as flow:` around its stages.

    Args:
        name: of the flow.
    """

    @known_options()
    def run(
        self,
        config: ConfigContext | None = None,
        *,
        cache_validation_mode: str | CacheMode | None = None,
        disable_cache_function: bool | None = None,
        ignore_task_version: bool | None = None,
        fail_fast: bool | None = None,
    ) -> Result:
        """Run all stages on one instance: through Dagster, in this process.

        Without DAGSTER_HOME, Dagster keeps no history of the run. With it, the UI shows the run.

        Args:
            config: the instance; without it the current one (`with config:`).
            cache_validation_mode, disable_cache_function, ignore_task_version: replace the `cache_validation` of the
                instance for this run.
            fail_fast: raise the error of a run that fails, and do not return a result. Without it, the configuration
                of the instance decides.

        Raises:
            PipedagError: the run fails, and `fail_fast` is true.
            ConfigError: there is no such cache mode.
            WiringError: the flow cannot run as it is wired.
        """
        instance = config or ConfigContext.get()
        overrides = {
            "cache_validation_mode": cache_validation_mode and cache_mode(cache_validation_mode).value,
            "disable_cache_function": disable_cache_function,
            "ignore_task_version": ignore_task_version,
        }
        definitions = define(instance, [self])
        result = execute(definitions, instance, overrides)
        if result.error is not None and (instance.config.fail_fast if fail_fast is None else fail_fast):
            raise result.error
        return result


_INTERRUPTIONS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")  # by us, and by a task


def execute(
    definitions: dg.Definitions,
    instance: ConfigContext,
    overrides: dict[str, Any] | None = None,
    *,
    selection: list[dg.AssetKey] | None = None,
    log_level: int = logging.WARNING,
    progress: Progress | None = None,
) -> Result:
    """Run the definitions of one instance, or some of its assets, in this process.

    Args:
        overrides: fields of the instance resource, for this run.
        log_level: of Dagster's own log on the console.
        progress: is told what happens while it runs.
    """
    run_id = str(uuid.uuid4())
    chosen = {name: value for name, value in (overrides or {}).items() if value is not None}
    run_config = {
        "resources": {"instance": {"config": chosen}},
        "loggers": {"console": {"config": {"log_level": logging.getLevelName(log_level)}}},
    }
    errors: list[BaseException] = []
    job = definitions.resolve_job_def(job_name(instance)).with_hooks({_collect(errors)})
    with _dagster_instance() as dagster_instance:
        token, observed = caller_releases.set(True), observer.set(progress)
        try:
            # After a failed stage, stages that do not need it still run.
            done = job.execute_in_process(
                run_config=run_config,
                instance=dagster_instance,
                run_id=run_id,
                asset_selection=selection,
                raise_on_error=instance.config.fail_fast,
            )
            if not done.success and not errors:
                # After Ctrl-C, Dagster reports a failed step, and calls no hook.
                failed = [event.step_failure_data.error for event in done.all_events if event.is_step_failure]
                if any(error and error.cls_name in _INTERRUPTIONS for error in failed):
                    raise KeyboardInterrupt
                raise PipedagError(f"Run {run_id} failed before its first step. Dagster's log says why.")
        except PipedagError as failure:
            errors.append(failure)
        except dg.DagsterInvalidConfigError as error:
            errors.append(ConfigError("\n".join(each.message for each in error.errors)))
        finally:
            checks = _checks(dagster_instance, run_id)
            caller_releases.reset(token)
            observer.reset(observed)
            held = _held.get()
            if held is None:
                release(instance, run_id)
            else:
                held.append((instance, run_id))
    unexpected = next((error for error in errors if not isinstance(error, PipedagError)), None)
    if unexpected is not None:
        raise unexpected
    different = {str(error): error for error in errors}
    return Result(instance, run_id, _error(list(different.values())), checks)


def _dagster_instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else dg.DagsterInstance.ephemeral()


def _checks(dagster_instance: dg.DagsterInstance, run_id: str) -> list[dg.AssetCheckEvaluation]:
    """The results of the checks of a run, even if the run failed."""
    records = dagster_instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = (record.event_log_entry.dagster_event for record in records)
    return [event.asset_check_evaluation_data for event in events if event is not None]


def rollback(instance: ConfigContext, stage: str, to: int | None = None) -> StageVersion:
    """Commit the tables of an older version of a stage as a new one. With DAGSTER_HOME, Dagster shows the changed
    tables as materialized, with their older data versions.

    Args:
        to: the number of the version. Without it, the version before the current one.

    Returns:
        The version that is visible now.

    Raises:
        NotMaterialized: there is no such version any more, or there never was.
    """
    before, after = history.rollback(instance.store.table_store, stage, to, str(uuid.uuid4()))
    if os.environ.get("DAGSTER_HOME"):
        with dg.DagsterInstance.get() as dagster_instance:
            report(dagster_instance, instance, before, after)
    return after


def _collect(errors: list[BaseException]) -> dg.HookDefinition:
    @dg.failure_hook
    def collect(context: dg.HookContext) -> None:
        if context.op_exception is not None:
            errors.append(context.op_exception)

    return collect


def _error(errors: list[BaseException]) -> BaseException | None:
    flat = [part for error in errors for part in (error.failures if isinstance(error, SeveralFailed) else [error])]
    return SeveralFailed(flat) if len(flat) > 1 else flat[0] if flat else None
