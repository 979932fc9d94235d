"""Whether there is fresh input for an instance, for its sensors. Nothing is run, changed or pinned.

The input is compared with what the instance has, not with what the sensor saw last. After somebody has run the instance
by hand, the sensor does not start another run that does nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pipedag_dagster.config.instances import CacheValidation
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import PipedagError
from pipedag_dagster.execution import cache_key
from pipedag_dagster.execution.inputs import Arguments, Inputs, Unpinned
from pipedag_dagster.execution.run_task import TaskRunner
from pipedag_dagster.graph.flow import FlowGraph, Stage, TaskCall, outputs_in
from pipedag_dagster.sampling.copies import source_of


@dataclass
class FreshInputs:
    """Input that an instance has not read yet.

    Attributes:
        changed: the calls that would read it.
        seen: what was compared, by name: the number of a stage version, or a hash. It changes with each change of the
            input, even with a change back to an earlier state.
        failures: of cache functions.
    """

    changed: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    failures: list[PipedagError] = field(default_factory=list)


def of_source(instance: ConfigContext, flows: Iterable[FlowGraph]) -> FreshInputs:
    """What has changed in the stages of other instances that this one copies from. Their other stages do not matter.

    Raises:
        NotMaterialized: a table that is copied was never committed.
        DatabaseError: a database cannot be reached.
    """
    fresh = FreshInputs()
    for stage, calls in _stages(flows, lambda call: source_of(instance, call) is not None):
        inputs = _inputs(instance, stage)
        runner = TaskRunner(inputs, CacheValidation())
        for call in calls:
            with instance:
                key = None if runner.must_choose(call) else runner.key(call).key
            fresh.seen |= {f"{one.instance}/{one.stage}": str(one.number) for one in inputs.sources(call)}
            before = inputs.base.tables.get(call.assets[0])
            if (
                before is None
                or key is None
                or cache_key.source_key(before.parts) != key.source_key
                or before.parts.get("cache") != key.parts.get("cache")
            ):
                fresh.changed.append(str(call))
    return fresh


def of_cache_functions(instance: ConfigContext, flows: Iterable[FlowGraph]) -> FreshInputs:
    """The tasks whose cache function returns another value than when they last ran. When one cache function fails, the
    others are called all the same.

    Raises:
        DatabaseError: the database cannot be reached.
    """
    fresh = FreshInputs()
    for stage, calls in _stages(flows, lambda call: source_of(instance, call) is None and asks(call) == ""):
        inputs = _inputs(instance, stage)
        for call in calls:
            try:
                with instance:
                    value = cache_key.cache_value(call, Arguments(inputs, call))
            except PipedagError as failure:
                fresh.failures.append(failure)
                continue
            before = inputs.base.tables.get(call.assets[0])
            # With the version of the stage, going back to an older value is told from the first time.
            fresh.seen[str(call)] = f"{value} after version {inputs.base.number}"
            if before is None or before.parts.get("cache") != value:
                fresh.changed.append(str(call))
    return fresh


def asks(call: TaskCall) -> str | None:
    """Whether the cache function of a call can be called without running a task: "" if it can, else the reason why not.
    None when the task has no cache function."""
    function = call.task.cache
    if function is None:
        return None
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = {parameter.name for parameter in parameters}
    tables = [name for name, value in call.arguments.items() if (takes_all or name in names) and any(outputs_in(value))]
    return f"its cache function takes the table {tables[0]!r}" if tables else ""


def _stages(flows: Iterable[FlowGraph], wanted: Callable[[TaskCall], bool]) -> Iterator[tuple[Stage, list[TaskCall]]]:
    for flow in flows:
        for stage in flow.stages:
            calls = [call for call in stage.calls if wanted(call)]
            if calls:
                yield stage, calls


def _inputs(instance: ConfigContext, stage: Stage) -> Inputs:
    names = stage.flow.stage_names
    pins = instance.store.table_store.current(names)
    source_pins = instance.source.store.table_store.current(names) if instance.source else {}
    return Unpinned(instance, stage, "", pins[stage.name], pins, source_pins)
