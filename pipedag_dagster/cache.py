"""Whether a task must run: what its result depends on, and what to say when that has changed."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipedag_dagster.config import CacheMode, CacheValidation
from pipedag_dagster.errors import FreshInput, TaskFailed
from pipedag_dagster.fingerprint import code_version, content_hash, digest
from pipedag_dagster.flow import Output, Stage, TaskCall
from pipedag_dagster.store.catalog import TableVersion

CACHED = "cached"


@dataclass(frozen=True)
class Key:
    """What a task's result depends on. `parts` are kept by name, to tell later which one has changed.

    parts: `task`, `code`, `arguments` (hash by name), `inputs` (data version by name), `cache` (hash of the cache
    function's value), and of lazy tasks `text` and `query`: what was returned, without and with the data versions of
    the tables in it. These stand for the inputs of a lazy task: what its query does not mention does not count.
    """

    parts: Mapping[str, Any]

    @property
    def task_key(self) -> str:
        left_out = {"cache", "inputs"} if "query" in self.parts else {"cache"}
        return content_hash({name: part for name, part in self.parts.items() if name not in left_out})

    @property
    def cache_key(self) -> str:
        return digest(self.task_key, str(self.parts.get("cache")))


def task_code_version(call: TaskCall) -> str:
    """The code version of a call's task: `version=`, else a fingerprint. Also Dagster's `code_version`."""
    return call.task.version or code_version(call.task.fn)


def argument_hashes(call: TaskCall) -> dict[str, str]:
    """A hash for each argument of a call; inputs count by where they are in it.

    Raises:
        WiringError: an argument has no stable content.
    """
    return {
        name: content_hash(_without_outputs(value), f"{call}: argument {name!r}")
        for name, value in call.arguments.items()
    }


def _without_outputs(value: Any) -> Any:
    if isinstance(value, Output):
        return ("output", str(value))
    if isinstance(value, Stage):
        return ("stage", value.name)
    if isinstance(value, dict):
        return {key: _without_outputs(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_outputs(part) for part in value]
    return value


class Arguments(Protocol):
    """Gives the arguments of a call, by name or all (None)."""

    def of_cache_function(self, names: Collection[str] | None) -> tuple[tuple[Any, ...], dict[str, Any]]: ...


def cache_value(call: TaskCall, arguments: Arguments) -> str:
    """Call the cache function of a task with those of the task's arguments that it names, and hash what it returns.

    Raises:
        TaskFailed: it raised, or returned something without stable content.
    """
    function = call.task.cache
    assert function is not None
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    label = getattr(function, "__name__", repr(function))
    args, kwargs = arguments.of_cache_function(None if takes_all else {parameter.name for parameter in parameters})
    try:
        return content_hash(function(*args, **kwargs), f"what {label}() returned")
    except Exception as error:
        raise TaskFailed(f"{call}: its cache function {label}() failed: {type(error).__name__}: {error}") from error


def must_run(call: TaskCall, validation: CacheValidation, *, reads_source: bool) -> bool:
    """Whether the mode makes the task run, whatever the catalog has."""
    if validation.mode is CacheMode.force_cache_invalid:
        return True
    if validation.mode is CacheMode.force_fresh_input and (reads_source or call.task.cache is not None):
        return True
    return validation.ignore_task_version and call.task.version is not None


def assert_not_fresh(call: TaskCall, validation: CacheValidation, *, reads_source: bool, reason: str) -> None:
    """With `assert_no_fresh_input`, refuse to run a task that brings data in.

    Raises:
        FreshInput
    """
    if validation.mode is CacheMode.assert_no_fresh_input and (reads_source or call.task.cache is not None):
        raise FreshInput(
            f"{call} would read its source again ({reason}), but cache_validation.mode is assert_no_fresh_input. "
            "Run it with mode normal to take the fresh input in, or with ignore_fresh_input to go on without."
        )


def why(key: Key, before: TableVersion | None) -> str:
    """Why a task runs, compared with what it made last."""
    if before is None:
        return "new"
    old, new = before.parts, key.parts
    if old.get("code") != new.get("code"):
        return f"code changed ({old.get('code')} → {new.get('code')})"
    if old.get("text") != new.get("text"):
        return "query changed"
    for part, text in (("arguments", "argument changed"), ("inputs", "input changed")):
        changed = _changed(old.get(part) or {}, new.get(part) or {})
        if changed:
            return f"{text}: {', '.join(changed)}"
    return "fresh input" if old.get("cache") != new.get("cache") else "forced"


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
