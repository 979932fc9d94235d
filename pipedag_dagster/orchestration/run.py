"""Running a flow from Python, through Dagster, in this process."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterable, Sequence
from contextvars import ContextVar, Token
from typing import Any, Self

import dagster as dg

from pipedag_dagster.catalog.catalog import StageVersion
from pipedag_dagster.config.instances import CacheMode
from pipedag_dagster.context import ConfigContext, PipedagConfig
from pipedag_dagster.errors import ConfigError, NoInstance, NotMaterialized, PipedagError, SeveralFailed
from pipedag_dagster.execution.call_outputs import CallOutputs
from pipedag_dagster.execution.progress import Progress
from pipedag_dagster.graph.calls import committed_reader
from pipedag_dagster.graph.flow import FlowGraph, Output, Stage, TaskCall
from pipedag_dagster.graph.group_node import GroupNode
from pipedag_dagster.options import known_options
from pipedag_dagster.orchestration.assets import report
from pipedag_dagster.orchestration.definitions import define, job_name
from pipedag_dagster.orchestration.resources import cache_mode, caller_releases, release
from pipedag_dagster.orchestration.result import Result
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


_ACCEPTED = ("ignore_position_hashes", "orchestration_engine", "trace_hook")
log = logging.getLogger(__name__)


class Flow(FlowGraph):
    """The graph of a pipeline: `with Flow("shop") as flow:` around its stages.

    Args:
        name: of the flow.
    """

    @known_options(*_ACCEPTED)
    def run(
        self,
        *components: Stage | GroupNode | Output | TaskCall | str | ConfigContext,
        config: ConfigContext | None = None,
        stages: Iterable[Stage | str] = (),
        cache_validation_mode: str | CacheMode | None = None,
        disable_cache_function: bool | None = None,
        ignore_task_version: bool | None = None,
        fail_fast: bool | None = None,
        **accepted: Any,
    ) -> Result:
        """Run all stages on one instance: through Dagster, in this process.

        Without DAGSTER_HOME, Dagster keeps no history of the run. With it, the UI shows the run.

        Args:
            components: what to run, instead of everything: stages, groups, outputs of tasks, or their names. What they
                need of other tasks is read from the committed versions. (The instance may come first, too.)
            config: the instance. Without it, the current one (`with config:`); without that, `PipedagConfig.default`
                with the settings of this flow.
            stages: more stages to run.
            cache_validation_mode, disable_cache_function, ignore_task_version: replace the `cache_validation` of the
                instance for this run.
            fail_fast: raise the error of a run that fails, and do not return a result. Without it, the configuration
                of the instance decides.
            accepted: `ignore_position_hashes`, `orchestration_engine` and `trace_hook` of pydiverse.pipedag have no
                effect: inputs are found by what they are, not by their position, and Dagster runs the flow.

        Raises:
            PipedagError: the run fails, and `fail_fast` is true.
            ConfigError: there is no such cache mode, or no instance.
            WiringError: the flow cannot run as it is wired, or has no such part.
        """
        parts = [*components, *stages]
        if parts and isinstance(parts[0], ConfigContext):
            config = parts.pop(0)  # type: ignore[assignment]
        for name, value in accepted.items():
            if value:
                log.warning("flow.run(%s=…) has no effect.", name)
        instance = config or _current_instance(self.name)
        overrides = {
            "cache_validation_mode": cache_validation_mode and cache_mode(cache_validation_mode).value,
            "disable_cache_function": disable_cache_function,
            "ignore_task_version": ignore_task_version,
        }
        calls = self.chosen_calls(parts) if parts else None
        definitions = define(instance, [self])
        selection = None if calls is None else _keys(instance, calls)
        if fail_fast is not None and fail_fast != instance.config.fail_fast:
            instance = instance.evolve(fail_fast=fail_fast)
        result = execute(definitions, instance, overrides, selection=selection)
        result.flow = self
        if result.error is not None and instance.config.fail_fast:
            raise result.error
        return result

    def get_subflow(self, *components: Stage | GroupNode | Output | TaskCall | str) -> Subflow:
        """Some stages, groups or tasks of the flow, to be run without the others.

        Raises:
            WiringError: the flow has no such part.
        """
        return Subflow(self, components)


class Subflow:
    """Some parts of a flow: `flow.get_subflow("raw", "report.ranking").run()`."""

    def __init__(self, flow: Flow, components: Sequence[Any]) -> None:
        self.flow = flow
        self.components = tuple(components)
        self.calls = flow.chosen_calls(components) if components else [c for stage in flow.stages for c in stage.calls]

    def get_tasks(self) -> list[TaskCall]:
        """The calls that are part of it."""
        return self.calls

    def run(self, **options: Any) -> Result:
        """As `Flow.run`, for these parts."""
        return self.flow.run(*self.components, **options)


def _current_instance(flow: str) -> ConfigContext:
    try:
        return ConfigContext.get()
    except NoInstance:
        return PipedagConfig.default.get(flow=flow)


def _keys(instance: ConfigContext, calls: Iterable[TaskCall]) -> list[dg.AssetKey]:
    return [dg.AssetKey([instance.instance_id, call.stage.name, asset]) for call in calls for asset in call.assets]


def _read_committed(output: Output, as_type: type | None) -> Any:
    """What the current instance has committed for an output."""
    instance = _current_instance(output.call.stage.flow.name)
    store, call = instance.store.table_store, output.call
    tables = {
        asset: table
        for asset, table in store.current([call.stage.name])[call.stage.name].tables.items()
        if asset in call.assets or table.task == call.name
    }

    def missing(asset: str) -> NotMaterialized:
        name = instance.config.name
        return NotMaterialized(f"Instance {name!r} has no table {call.stage.name}.{asset} yet. Run the flow first.")

    return CallOutputs(call, tables, missing).read(output, lambda table: store.read(table, as_type))


committed_reader.append(_read_committed)

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
