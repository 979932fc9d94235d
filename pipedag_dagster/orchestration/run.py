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
from pipedag_dagster.graph.flow import FlowGraph, Output, TaskCall
from pipedag_dagster.options import known_options
from pipedag_dagster.orchestration.assets import report
from pipedag_dagster.orchestration.definitions import define, job_name
from pipedag_dagster.orchestration.resources import cache_mode, caller_releases, release
from pipedag_dagster.versions import history

_held: ContextVar[list[tuple[ConfigContext, str]] | None] = ContextVar("held", default=None)


class StageLockContext:
    """Keeps the results of the runs inside of it readable until it ends, whatever other runs commit meanwhile.

    Nobody waits for it: it holds table versions, which are immutable, and not the stages.
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
    """What a run has done.

    Attributes:
        successful: whether all went well.
        error: what went wrong, else None.
        run_id: the id of the Dagster run.
        checks: what became of each check that was evaluated, as Dagster has it: `.asset_key`, `.check_name`,
            `.passed`, `.severity`, `.description`, `.metadata`.
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
        """Each table of the run with what was done about it and why."""
        return self.instance.store.table_store.of_run(self.run_id)

    def get(self, output: Output | TaskCall | str, as_type: type | None = None) -> Any:
        """What a task has returned, as the database has it.

        Args:
            output: the handle that the task's call returned while wiring; or the name of a table, `"stage.table"`.
            as_type: `pd.DataFrame` (the default), `pa.Table`, `pl.DataFrame` or `sa.Table`.

        Returns:
            A table, a value, or the object of a blob; for a task that returns several, all of them in the shape in
            which it has returned them.

        Raises:
            NotMaterialized: the run did not make it, or it was dropped since.
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
                f"Run {self.run_id[:8]} has no table {call.stage.name}.{asset}: it failed before, or the version "
                "was dropped since. Read results inside of `with StageLockContext():`."
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

        Without DAGSTER_HOME, Dagster keeps no history of the run; with it, the run shows in the UI.

        Args:
            config: the instance; without it the current one (`with config:`).
            cache_validation_mode, disable_cache_function, ignore_task_version: replace the instance's own
                `cache_validation` for this run.
            fail_fast: raise what went wrong, instead of returning a result that is not successful. Without it, as the
                instance is configured.

        Raises:
            PipedagError: with `fail_fast`, when the run fails.
            ConfigError: there is no such cache mode.
            WiringError: the flow cannot run as it is wired.
        """
        context = config or ConfigContext.get()
        overrides = {
            "cache_validation_mode": cache_validation_mode and cache_mode(cache_validation_mode).value,
            "disable_cache_function": disable_cache_function,
            "ignore_task_version": ignore_task_version,
        }
        definitions = define(context, [self])
        result = execute(definitions, context, overrides)
        if result.error is not None and (context.config.fail_fast if fail_fast is None else fail_fast):
            raise result.error
        return result


def execute(
    definitions: dg.Definitions,
    context: ConfigContext,
    overrides: dict[str, Any] | None = None,
    *,
    selection: list[dg.AssetKey] | None = None,
    log_level: int = logging.WARNING,
) -> Result:
    """Run the definitions of one instance, or some of its assets, in this process.

    Args:
        overrides: fields of the instance resource, for this run.
        log_level: of Dagster's own log on the console.
    """
    run_id = str(uuid.uuid4())
    chosen = {name: value for name, value in (overrides or {}).items() if value is not None}
    run_config = {
        "resources": {"instance": {"config": chosen}},
        "loggers": {"console": {"config": {"log_level": logging.getLevelName(log_level)}}},
    }
    errors: list[BaseException] = []
    job = definitions.resolve_job_def(job_name(context)).with_hooks({_collect(errors)})
    with dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else dg.DagsterInstance.ephemeral() as dagster:
        token = caller_releases.set(True)
        try:
            # A stage that failed does not keep those that do not need it from running.
            done = job.execute_in_process(
                run_config=run_config,
                instance=dagster,
                run_id=run_id,
                asset_selection=selection,
                raise_on_error=context.config.fail_fast,
            )
            if not done.success and not errors:
                # Dagster makes a failed step of Ctrl-C, and calls no hook for it.
                failed = [event.step_failure_data.error for event in done.all_events if event.is_step_failure]
                if any(error and error.cls_name == "DagsterExecutionInterruptedError" for error in failed):
                    raise KeyboardInterrupt
                raise PipedagError(f"Run {run_id} failed before its first step. Dagster's log says why.")
        except PipedagError as failure:
            errors.append(failure)
        except dg.DagsterInvalidConfigError as error:
            errors.append(ConfigError("\n".join(one.message for one in error.errors)))
        finally:
            checks = _checks(dagster, run_id)
            caller_releases.reset(token)
            held = _held.get()
            if held is None:
                release(context, run_id)
            else:
                held.append((context, run_id))
    unexpected = next((error for error in errors if not isinstance(error, PipedagError)), None)
    if unexpected is not None:
        raise unexpected
    different = {str(error): error for error in errors}
    return Result(context, run_id, _one(list(different.values())), checks)


def _checks(dagster: dg.DagsterInstance, run_id: str) -> list[dg.AssetCheckEvaluation]:
    """What became of the checks of a run, also of one that failed."""
    records = dagster.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = (record.event_log_entry.dagster_event for record in records)
    return [event.asset_check_evaluation_data for event in events if event is not None]


def rollback(context: ConfigContext, stage: str, to: int | None = None) -> StageVersion:
    """Commit the tables of an older version of a stage as a new one. With DAGSTER_HOME, Dagster shows those that
    changed as materialized, with their older data versions.

    Args:
        to: number of the version; the one before the current one without it.

    Returns:
        The version that is visible now.

    Raises:
        NotMaterialized: there is no such version, or not any more.
    """
    before, after = history.rollback(context.store.table_store, stage, to, str(uuid.uuid4()))
    if os.environ.get("DAGSTER_HOME"):
        with dg.DagsterInstance.get() as dagster:
            report(dagster, context, before, after)
    return after


def _collect(errors: list[BaseException]) -> dg.HookDefinition:
    @dg.failure_hook
    def collect(context: dg.HookContext) -> None:
        if context.op_exception is not None:
            errors.append(context.op_exception)

    return collect


def _one(errors: list[BaseException]) -> BaseException | None:
    flat = [part for error in errors for part in (error.failures if isinstance(error, SeveralFailed) else [error])]
    return SeveralFailed(flat) if len(flat) > 1 else flat[0] if flat else None
