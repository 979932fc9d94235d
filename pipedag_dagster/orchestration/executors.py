"""The `executor:` of the YAML: Dagster's own executors, made so that a run sees one version of each stage.

A run pins the stage versions that it reads, from its first step to its last. If each step is in a process of its own,
no step knows when the run ends. So the process that starts the steps removes the pins. If it was killed, the next run
of the instance removes them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError, DatabaseError
from pipedag_dagster.execution.run_pins import release
from pipedag_dagster.orchestration.tags import EXECUTOR_TAG

_EXTRAS = {
    "celery": ("dagster_celery", "celery_executor"),
    "dask": ("dagster_dask", "dask_executor"),
    "k8s": ("dagster_k8s", "k8s_job_executor"),
}
_DEFAULTS: dict[str, dict[str, Any]] = {"dask": {"cluster": {"local": {}}}}


def executor(instance: ConfigContext) -> dg.ExecutorDefinition:
    """The executor of an instance, with the options of its YAML.

    Raises:
        ConfigError: the executor is not installed, or does not have an option.
    """
    chosen = instance.config.executor
    inner = _definition(instance)
    options = _DEFAULTS.get(chosen.name, {}) | dict(chosen.options)
    if chosen.name == "in_process":
        configured = inner.configured(options, name=inner.name) if options else inner
        _validate(instance, configured)
        return configured

    def create(init: dg.InitExecutorContext) -> dg.Executor:
        config = init.executor_config
        if chosen.name == "multiprocess" and not config.get("start_method"):
            init = init._replace(executor_config={**config, "start_method": _forkserver()})
        assert inner.executor_creation_fn is not None
        result = inner.executor_creation_fn(init)
        execute = result.execute

        def execute_and_release(plan_context: Any, plan: Any) -> Iterator[dg.DagsterEvent]:
            dagster_instance, run_id = plan_context.instance, plan_context.dagster_run.run_id
            release_ended(dagster_instance, instance)
            dagster_instance.add_run_tags(run_id, {EXECUTOR_TAG: chosen.name})
            try:
                yield from execute(plan_context, plan)
            finally:
                release(instance, run_id)

        # Not a subclass or wrapper: executors look at their own class.
        result.execute = execute_and_release  # type: ignore[method-assign, assignment]
        return result

    outer = dg.ExecutorDefinition(
        name=inner.name,
        config_schema=inner.config_schema,  # type: ignore[arg-type]  # the annotation is narrower than the property's
        requirements=inner.get_requirements,
        executor_creation_fn=create,
        description=inner.description,
    ).configured(options, name=inner.name)
    _validate(instance, outer)
    return outer


def release_ended(dagster_instance: dg.DagsterInstance, instance: ConfigContext) -> None:
    """Remove the pins of runs that have ended without removing them, because their process was killed."""
    for each in filter(None, (instance, instance.source)):
        store = each.store.table_store
        try:
            if not store.exists():
                continue
            with store.database.read() as connection:
                runs = {run for run, _, _ in store.catalog.pinned(connection)}
        except DatabaseError:  # the run itself reports it
            continue
        for run_id in runs:
            run = dagster_instance.get_run_by_id(run_id)
            if run is not None and run.is_finished:
                store.unpin(run_id)


def _definition(instance: ConfigContext) -> dg.ExecutorDefinition:
    name = instance.config.executor.name
    if name not in _EXTRAS:
        return dg.in_process_executor if name == "in_process" else dg.multiprocess_executor
    module, attribute = _EXTRAS[name]
    try:
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    except ImportError as error:
        advice = f"{name} needs {module.replace('_', '-')}: pip install 'pipedag_dagster[{name}]' ({error})."
        raise ConfigError(instance.config.problem(("executor",), advice)) from None


def _validate(instance: ConfigContext, executor: dg.ExecutorDefinition) -> None:
    """Refuse options that Dagster's executor does not have when definitions are loaded, not when a run starts."""

    @dg.job(executor_def=executor)
    def nothing() -> None: ...

    try:
        dg.validate_run_config(nothing)
    except dg.DagsterInvalidConfigError as error:
        reasons = [each.message.partition(" Expected: ")[0] for each in error.errors]
        problems = [instance.config.problem(("executor", instance.config.executor.name), reason) for reason in reasons]
        raise ConfigError(problems) from None


def _forkserver() -> Mapping[str, object]:
    """Start child processes from one that has imported the same modules as this one. Dagster imports most of its
    modules late, and each child would import them again."""
    loaded = [name for name, module in sys.modules.copy().items() if getattr(module, "__spec__", None) is not None]
    return {"forkserver": {"preload_modules": [name for name in loaded if name != "__main__"]}}
