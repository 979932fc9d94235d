"""Where the steps of a run are: the `executor:` of the YAML, by Dagster's own executors.

A run sees one version of every stage from its first step to its last. Where each step is in a process of its own, none
of them knows when the run has ended; the process that hands the steps out does. So that one gives up what the run has
pinned. What a killed one has left is given up by the next run of the instance that finds the run ended.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError, DatabaseError
from pipedag_dagster.orchestration.resources import release
from pipedag_dagster.orchestration.tags import EXECUTOR_TAG

_EXTRAS = {
    "celery": ("dagster_celery", "celery_executor"),
    "dask": ("dagster_dask", "dask_executor"),
    "k8s": ("dagster_k8s", "k8s_job_executor"),
}
_DEFAULTS: dict[str, dict[str, Any]] = {"dask": {"cluster": {"local": {}}}}


def executor(context: ConfigContext) -> dg.ExecutorDefinition:
    """The executor of an instance, with the options of its YAML.

    Raises:
        ConfigError: it is not installed, or does not know an option.
    """
    chosen = context.config.executor
    inner = _definition(context)
    options = _DEFAULTS.get(chosen.name, {}) | dict(chosen.options)
    if chosen.name == "in_process":
        configured = inner.configured(options, name=inner.name) if options else inner
        _validate(context, configured)
        return configured

    def create(init: dg.InitExecutorContext) -> dg.Executor:
        config = init.executor_config
        if chosen.name == "multiprocess" and not config.get("start_method"):
            init = init._replace(executor_config={**config, "start_method": _forkserver()})
        assert inner.executor_creation_fn is not None
        made = inner.executor_creation_fn(init)
        execute = made.execute

        def held(plan_context: Any, plan: Any) -> Iterator[dg.DagsterEvent]:
            dagster, run_id = plan_context.instance, plan_context.dagster_run.run_id
            release_ended(dagster, context)
            dagster.add_run_tags(run_id, {EXECUTOR_TAG: chosen.name})
            try:
                yield from execute(plan_context, plan)
            finally:
                release(context, run_id)

        # No subclass and no wrapper: executors look at their own class.
        made.execute = held  # type: ignore[method-assign, assignment]
        return made

    outer = dg.ExecutorDefinition(
        name=inner.name,
        config_schema=inner.config_schema,  # type: ignore[arg-type]  # it takes what it gives
        requirements=inner.get_requirements,
        executor_creation_fn=create,
        description=inner.description,
    ).configured(options, name=inner.name)
    _validate(context, outer)
    return outer


def release_ended(dagster: dg.DagsterInstance, context: ConfigContext) -> None:
    """Give up what runs have pinned that have ended without doing so, because their process was killed."""
    for instance in filter(None, (context, context.source)):
        store = instance.store.table_store
        try:
            if not store.exists():
                continue
            with store.database.read() as connection:
                runs = {run for run, _, _ in store.catalog.pinned(connection)}
        except DatabaseError:  # the run itself says so
            continue
        for run_id in runs:
            run = dagster.get_run_by_id(run_id)
            if run is not None and run.is_finished:
                store.unpin(run_id)


def _definition(context: ConfigContext) -> dg.ExecutorDefinition:
    name = context.config.executor.name
    if name not in _EXTRAS:
        return dg.in_process_executor if name == "in_process" else dg.multiprocess_executor
    module, attribute = _EXTRAS[name]
    try:
        found: dg.ExecutorDefinition = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        advice = f"{name} needs {module.replace('_', '-')}: pip install 'pipedag_dagster[{name}]' ({error})."
        raise ConfigError(context.config.problem(("executor",), advice)) from None
    return found


def _validate(context: ConfigContext, executor: dg.ExecutorDefinition) -> None:
    """Refuse options that Dagster's executor does not have, now and not when a run starts."""

    @dg.job(executor_def=executor)
    def nothing() -> None: ...

    try:
        dg.validate_run_config(nothing)
    except dg.DagsterInvalidConfigError as error:
        reasons = [one.message.partition(" Expected: ")[0] for one in error.errors]
        problems = [context.config.problem(("executor", context.config.executor.name), reason) for reason in reasons]
        raise ConfigError(problems) from None


def _forkserver() -> Mapping[str, object]:
    """Start children from a process that has imported already what this one has: most of it Dagster imports late, and
    each child would do so again."""
    loaded = [name for name, module in list(sys.modules.items()) if getattr(module, "__spec__", None) is not None]
    return {"forkserver": {"preload_modules": [name for name in loaded if name != "__main__"]}}
