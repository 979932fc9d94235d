"""Running a flow in this process: directly, or through Dagster when it keeps a history (DAGSTER_HOME)."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Self

from pipedag_dagster.catalog.catalog import StageVersion
from pipedag_dagster.config.instances import CacheMode
from pipedag_dagster.context import ConfigContext, PipedagConfig
from pipedag_dagster.errors import NoInstance, NotMaterialized, PipedagError, SeveralFailed
from pipedag_dagster.execution import cache_key
from pipedag_dagster.execution.call_outputs import CallOutputs
from pipedag_dagster.execution.progress import LoggedProgress, Progress, SharedProgress
from pipedag_dagster.execution.run_pins import release
from pipedag_dagster.execution.run_validation import cache_mode, validation
from pipedag_dagster.execution.stage_loop import run_stages
from pipedag_dagster.graph.calls import committed_reader
from pipedag_dagster.graph.external_table import ExternalTableReference
from pipedag_dagster.graph.flow import FlowGraph, Output, Stage, TaskCall
from pipedag_dagster.graph.group_node import GroupNode
from pipedag_dagster.graph.not_drawn import NotDrawn
from pipedag_dagster.graph.replaced_inputs import with_inputs
from pipedag_dagster.graph.tables import Table
from pipedag_dagster.options import known_options
from pipedag_dagster.orchestration.deferred import deferred, stages_of
from pipedag_dagster.orchestration.flow_checks import refuse_unusable
from pipedag_dagster.orchestration.result import Result, read_type
from pipedag_dagster.orchestration.table_names import check_sample
from pipedag_dagster.sampling.copies import copied_from
from pipedag_dagster.versions import history

if TYPE_CHECKING:
    import dagster as dg

    from pipedag_dagster.orchestration.partition_choice import PartitionRange

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


class Flow(FlowGraph, NotDrawn):
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
        inputs: Mapping[Output | TaskCall | str, ExternalTableReference | Table] | None = None,
        **accepted: Any,
    ) -> Result:
        """Run all stages on one instance, in this process.

        With DAGSTER_HOME the run goes through Dagster, which keeps its history: the UI shows the run. Without it the
        stages run directly, and Dagster is not imported.

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
            inputs: tables of the database that take the place of outputs in this run. Tasks that take such an output
                get the table; the task that makes it runs only if it is chosen. The columns and rows of the table are
                part of the keys of what is made from it.
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
        if fail_fast is not None and fail_fast != instance.config.fail_fast:
            instance = instance.evolve(fail_fast=fail_fast)
        flow = with_inputs(self, inputs) if inputs else self
        result = flow._run(instance, overrides, calls)
        result.flow = self
        if result.error is not None and instance.config.fail_fast:
            raise result.error
        return result

    def _run(self, instance: ConfigContext, overrides: dict[str, Any], calls: list[TaskCall] | None) -> Result:
        if has_history():
            from pipedag_dagster.orchestration.definitions import define  # noqa: PLC0415

            selection = None if calls is None else [(c.stage.name, asset) for c in calls for asset in c.assets]
            return execute(define(instance, [self]), instance, overrides, selection=selection)
        self._check(instance)
        assets: dict[str, set[str]] | None = None
        if calls is not None:
            assets = {stage.name: set() for stage in self.stages}
            for call in calls:
                assets[call.stage.name] |= set(call.assets)
        return _run_stages(instance, self.stages, overrides, assets=assets)

    def _check(self, instance: ConfigContext) -> None:
        """What `define` does for Dagster: refuse what cannot run, and read the code of the tasks."""
        refuse_unusable(instance, [self])
        check_sample(instance, [self])
        _read_code(instance, self.stages)

    def get_subflow(self, *components: Stage | GroupNode | Output | TaskCall | str) -> Subflow:
        """Some stages, groups or tasks of the flow, to be run without the others.

        Raises:
            WiringError: the flow has no such part.
        """
        return Subflow(self, components)


class Subflow(NotDrawn):
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


def _read_code(instance: ConfigContext, stages: Iterable[Stage]) -> None:
    calls = (call for stage in stages for call in stage.calls)
    cache_key.read_code(call for call in calls if copied_from(instance, call) is None)


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

    kind = as_type or read_type(call.task)
    return CallOutputs(call, tables, missing).read(output, lambda table: store.read(table, kind))


committed_reader.append(_read_committed)


def execute(
    definitions: dg.Definitions,
    instance: ConfigContext,
    overrides: dict[str, Any] | None = None,
    *,
    selection: Collection[tuple[str, str]] | None = None,
    partitions: PartitionRange | None = None,
    log_level: int = logging.WARNING,
    progress: Progress | None = None,
) -> Result:
    """Run the definitions of one instance, or some of its assets, in this process: through Dagster if it keeps a
    history, or if the run needs something that only Dagster does.

    Args:
        overrides: fields of the instance resource, for this run.
        selection: stage and asset of the tables to run; None for all.
        partitions: of partitioned assets.
        log_level: of Dagster's own log on the console.
        progress: is told what happens while it runs.
    """
    chosen = {name: value for name, value in (overrides or {}).items() if value is not None}
    stages = None if has_history() or "attrs" in chosen else _stages_alone(definitions, selection)
    if stages is not None:
        assets: dict[str, set[str]] | None = None
        if selection is not None:
            assets = {each.name: set() for each in stages}
            for stage, asset in selection:
                assets[stage].add(asset)
        if deferred(definitions) is not None:  # else they have read it
            _read_code(instance, stages)
        return _run_stages(instance, stages, chosen, assets=assets, progress=progress)

    from pipedag_dagster.orchestration.dagster_run import run_job  # noqa: PLC0415

    run_id = str(uuid.uuid4())
    with _released(instance, run_id):
        errors, checks = run_job(
            definitions,
            instance,
            run_id,
            chosen,
            selection=selection,
            partitions=partitions,
            log_level=log_level,
            progress=progress,
        )
    return _result(instance, run_id, errors, lambda: checks)


def has_history() -> bool:
    """Whether Dagster keeps a history here, in which a run should be."""
    return bool(os.environ.get("DAGSTER_HOME"))


def _stages_alone(definitions: dg.Definitions, selection: Collection[tuple[str, str]] | None) -> Sequence[Stage] | None:
    """The stages of definitions; None when a plain asset of Dagster is to be run, too."""
    stages = stages_of(definitions)
    if deferred(definitions) is not None:  # they have no plain assets
        return stages
    ours = {(stage.name, asset) for stage in stages for call in stage.calls for asset in call.assets}
    if selection is None:
        keys = [key for assets in definitions.assets or () for key in getattr(assets, "keys", [None])]
        selection = [("", "") if key is None else (key.path[1], key.path[2]) for key in keys]
    return stages if ours.issuperset(selection) else None


def _run_stages(
    instance: ConfigContext,
    stages: Sequence[Stage],
    overrides: Mapping[str, Any],
    *,
    assets: Mapping[str, Collection[str]] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run stages directly. Dagster is not imported."""
    run_id = str(uuid.uuid4())
    with _released(instance, run_id):
        try:
            done = run_stages(
                instance,
                stages,
                run_id,
                assets=assets,
                validation=validation(instance.config.cache_validation, **overrides),
                progress=SharedProgress(LoggedProgress(), progress),
            )
        except PipedagError as error:
            return _result(instance, run_id, [error], tuple)

    def checks() -> Sequence[dg.AssetCheckEvaluation]:
        if not done.checks:
            return ()
        from pipedag_dagster.orchestration.asset_checks import evaluations  # noqa: PLC0415

        return evaluations(instance, stages, done.checks)

    return _result(instance, run_id, done.errors, checks)


@contextmanager
def _released(instance: ConfigContext, run_id: str) -> Iterator[None]:
    """Remove the pins of a run at its end, or at the end of the `StageLockContext` around it."""
    try:
        yield
    finally:
        held = _held.get()
        if held is None:
            release(instance, run_id)
        else:
            held.append((instance, run_id))


def _result(
    instance: ConfigContext,
    run_id: str,
    errors: Sequence[BaseException],
    checks: Callable[[], Sequence[dg.AssetCheckEvaluation]],
) -> Result:
    unexpected = next((error for error in errors if not isinstance(error, PipedagError)), None)
    if unexpected is not None:
        raise unexpected
    different = {str(error): error for error in errors}
    return Result(instance, run_id, _error(list(different.values())), checks)


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
    if has_history():
        from pipedag_dagster.orchestration.dagster_run import report_rollback  # noqa: PLC0415

        report_rollback(instance, before, after)
    return after


def _error(errors: list[BaseException]) -> BaseException | None:
    return SeveralFailed(errors) if len(errors) > 1 else errors[0] if errors else None
