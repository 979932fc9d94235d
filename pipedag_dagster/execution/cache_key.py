"""What the result of a task depends on, and why the task runs when that has changed."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.catalog.reason import NEW, Reason, ReasonKind
from pipedag_dagster.config.instances import CacheMode, CacheValidation, InstanceConfig
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import FreshInput, TaskFailed, WiringError
from pipedag_dagster.fingerprint.code_text import CodeText
from pipedag_dagster.fingerprint.fingerprint import content_hash, fingerprint, libraries
from pipedag_dagster.fingerprint.module_origin import public_name
from pipedag_dagster.frame_types import FrameType, batch_class, data_type
from pipedag_dagster.graph.flow import TaskCall

log = logging.getLogger(__name__)

TABLE_PART = "table"
"""In the key of a table that a lazy task has written itself: which of its tables it is. Other keys are of calls."""

_FINGERPRINT = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Key:
    """What a task's result depends on.

    Attributes:
        parts: by name, to tell later which one has changed: `task`, `code`, `arguments` (hash by name), `inputs` (data
            version by name), `classes` (fingerprints of the user's classes that have objects in the inputs), `source`
            (data version by name, of tables of another instance) and `cache` (hash of the cache function's value). For
            lazy tasks also `text` and `query`: the returned queries, without and with the data versions of the tables
            in them. They replace the inputs of a lazy task, because tables that its query does not mention do not
            matter.
    """

    parts: Mapping[str, Any]

    @functools.cached_property
    def task_key(self) -> str:
        """The key without the parts that stand for outside data: the cache function's value, and the source."""
        left_out = {"cache", "source"}
        if "query" in self.parts:
            left_out |= {"query"} if "source" in self.parts else {"inputs"}
        return content_hash(_by_name({name: part for name, part in self.parts.items() if name not in left_out}))

    @functools.cached_property
    def cache_key(self) -> str:
        return digest(self.task_key, str(self.parts.get("cache")), self.source_key)

    @functools.cached_property
    def source_key(self) -> str:
        """A hash of the tables of another instance that the task reads; for a lazy task, of those in its query."""
        return source_key(self.parts)


def source_key(parts: Mapping[str, Any]) -> str:
    """A hash of the tables of another instance that a task read."""
    return content_hash(_by_name(parts.get("query", parts["source"]))) if "source" in parts else ""


def _by_name(parts: Any) -> Any:
    """Parts in the order of their names: the catalog keeps no other order."""
    if isinstance(parts, Mapping):
        return {name: _by_name(parts[name]) for name in sorted(parts)}
    return [_by_name(part) for part in parts] if isinstance(parts, list | tuple) else parts


class CacheWarning(UserWarning):
    """Fix the code, or pin its version: otherwise the task may run too often, or not often enough."""


@dataclass(frozen=True)
class TaskCode:
    """The code of a task as the catalog keeps it with each result: the text, and the libraries that it uses."""

    text: CodeText = field(default_factory=CodeText)
    libraries: Mapping[str, str] = field(default_factory=dict)


_versions: WeakKeyDictionary[TaskCall, str] = WeakKeyDictionary()
_codes: WeakKeyDictionary[TaskCall, TaskCode] = WeakKeyDictionary()
_first: WeakKeyDictionary[TaskCall, TaskCall] = WeakKeyDictionary()
"""For a call whose code was read with that of another call of the same task: that other call."""
_told: set[tuple[str, str, int]] = set()


def read_code(calls: Iterable[TaskCall]) -> None:
    """Read the code of these calls, of each task once. This is done when definitions are made, or when a run begins: a
    task that changes constants of its module while it runs does not change the code. Warnings about the code are given
    now."""
    first_of: dict[int, TaskCall] = {}
    for call in calls:
        first = first_of.setdefault(id(call.task), call)
        _first.pop(call, None)
        if first is not call:
            _first[call] = first
            continue
        _codes.pop(call, None)
        _tell_of_salt(call)
        _versions[call] = call.task.version or _fingerprint(call)


def task_code_version(call: TaskCall) -> str:
    """The code version of a call's task: `version=`, else a fingerprint. Also Dagster's `code_version`."""
    call = _first.get(call, call)
    if call not in _versions:
        read_code([call])
    return _versions[call]


def know(call: TaskCall, version: str, code: TaskCode) -> None:
    """Take the code of a call as another process has read it."""
    _versions[call], _codes[call] = version, code


def task_code(call: TaskCall) -> TaskCode:
    """The code that a call runs. Of a task with a version it is read when it is needed first, and without its data:
    the version may be there because a fingerprint is expensive, or not possible."""
    call = _first.get(call, call)
    task_code_version(call)
    if call not in _codes:
        try:
            found = fingerprint(call.task.fn, data=False)
            _codes[call] = TaskCode(found.code, libraries(call.task, found))
        except Exception as error:  # objects of users may raise anything when they are looked at
            log.debug("the code of %s cannot be read: %s", call, error)
            _codes[call] = TaskCode()
    return _codes[call]


def _fingerprint(call: TaskCall) -> str:
    found = fingerprint(call.task.fn)
    _codes[call] = TaskCode(found.code, libraries(call.task, found))
    if found.unstable and not call.task.lazy:  # the query of a lazy task is compared, not its code
        listed = "".join(f"\n  {name}: {what}" for name, what in found.unstable.items())
        _warn(
            call.task.fn,
            f"Task {call.task.name!r}: parts of its code cannot be fingerprinted. When they change, the task may not "
            f'run again. Pin the version by hand: @materialize(version="1.0").{listed}',
        )
    return found.version


def _tell_of_salt(call: TaskCall) -> None:
    function = call.task.cache
    salted = () if function is None else fingerprint(function).salted
    if salted:
        assert function is not None
        _warn(
            function,
            f"Task {call.task.name!r}: its cache function {_name(function)}() uses {', '.join(salted)}. "
            "Python's hash() of a text and id() are others in every process, so the input would always be fresh. "
            "Write hashlib.sha256(text.encode()).hexdigest() instead.",
        )


def _warn(function: Callable[..., Any], message: str) -> None:
    """A warning at the user's own line. Once: Python itself would show it for each instance that is defined, because
    Dagster changes its filters all the time."""
    file, line = _place(function)
    if (message, file, line) not in _told:
        _told.add((message, file, line))
        warnings.warn_explicit(message, CacheWarning, file, line)


def _place(function: Callable[..., Any]) -> tuple[str, int]:
    code = getattr(inspect.unwrap(function), "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return ("<unknown>", 0) if code is None else (code.co_filename, code.co_firstlineno)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def argument_hashes(call: TaskCall) -> dict[str, str]:
    """A hash for each argument of a call; inputs count by where they are in it. So do the options of the task that say
    how it gets its inputs and which of its results is which table.

    Raises:
        WiringError: an argument has no stable content.
    """
    task, kind = call.task, call.task.input_type
    options = {
        "outputs=": task.outputs,
        "nout=": task.nout,
        "input_type=": None if kind is None else _type_name(kind),
        "call_context=": task.call_context,
        "add_input_source=": task.add_input_source or None,
    }
    return {name: content_hash(value, f"{call}: argument {name!r}") for name, value in call.arguments.items()} | {
        name: content_hash(value) for name, value in options.items() if value is not None
    }


def _type_name(kind: Any) -> str:
    batch = batch_class(kind)
    return public_name(kind) if batch is None else f"Iterator[{public_name(batch)}]"


def dtypes(call: TaskCall, config: InstanceConfig) -> dict[str, str]:
    """The dtypes of the pandas DataFrames that a task gets, where they are not the usual ones."""
    kind = call.task.input_type
    is_pandas = kind is None or data_type(batch_class(kind) or kind) is FrameType.PANDAS
    return {"dtype backend": "arrow"} if is_pandas and is_arrow_backed(call, config) else {}


def is_arrow_backed(call: TaskCall, config: InstanceConfig) -> bool:
    """Whether the pandas DataFrames that a task gets have columns of Arrow: by its own choice, or its instance's."""
    return (call.task.dtype_backend or config.dtype_backend) == "arrow"


class Arguments(Protocol):
    """Gives the arguments of a call: those with the given names, or all (None)."""

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
    file, line = _place(function)
    which = f"{call}: its cache function {_name(function)}()"
    args, kwargs = arguments.of_cache_function(None if takes_all else {parameter.name for parameter in parameters})
    try:
        value = function(*args, **kwargs)
    except Exception as error:
        raise TaskFailed(f"{which} failed: {type(error).__name__}: {error} ({file}:{line})") from error
    try:
        return content_hash(value, "it returned", code=False)
    except WiringError as error:
        raise TaskFailed(f"{which} cannot be used ({file}:{line}): {error}") from error


def must_run(call: TaskCall, validation: CacheValidation, *, reads_source: bool, is_copied: bool) -> bool:
    """Whether the mode makes the call run, whatever the catalog has."""
    if validation.mode is CacheMode.force_cache_invalid:
        return True
    if validation.mode is CacheMode.force_fresh_input and (reads_source or call.task.cache is not None):
        return True
    # A call that is copied does not run its task, so the version of the task does not matter.
    return validation.ignore_task_version and call.task.version is not None and not is_copied


def ignores(validation: CacheValidation) -> tuple[bool, bool]:
    """Whether the mode ignores the values of cache functions, and whether it ignores changes in the source."""
    ignore = validation.mode is CacheMode.ignore_fresh_input
    return ignore or validation.disable_cache_function, ignore


def usable(found: Iterable[TableVersion], key: Key, validation: CacheValidation) -> list[TableVersion]:
    """The tables with this key that the mode allows to be used."""
    no_function, no_source = ignores(validation)
    if not no_function:
        return [table for table in found if table.cache_key == key.cache_key]
    same = [table for table in found if table.task_key == key.task_key]
    return [table for table in same if no_source or source_key(table.parts) == key.source_key]


def assert_not_fresh(call: TaskCall, validation: CacheValidation, *, reads_source: bool, reason: Reason) -> None:
    """With `assert_no_fresh_input`, refuse to run a task that brings data in, unless it has `allow_fresh_input=True`.

    Raises:
        FreshInput
    """
    if call.task.allow_fresh_input or not (reads_source or call.task.cache is not None):
        return
    if validation.mode is CacheMode.assert_no_fresh_input:
        raise FreshInput(
            f"{call} would read its source again ({reason}), but cache_validation.mode is assert_no_fresh_input. "
            "Run it with --cache-mode normal to take the fresh input in, or with --cache-mode ignore_fresh_input to go "
            "on without (flow.run(cache_validation_mode=…), or cache_validation_mode in Dagster's launchpad)."
        )


def why(key: Key, before: TableVersion | None, code: Callable[[], list[str]] = list) -> Reason:
    """Why a task runs, compared with its table before.

    Args:
        code: gives the names of what has changed in its code, as far as that is known.
    """
    if before is None:
        return NEW
    old, new = before.parts, key.parts
    if old.get("code") != new.get("code"):
        fingerprints = all(_FINGERPRINT.fullmatch(str(parts.get("code"))) for parts in (old, new))
        names = code() if fingerprints else []
        if names:
            return Reason(ReasonKind.code, tuple(names))
        return Reason(ReasonKind.version, (str(old.get("code")), str(new.get("code"))))
    if old.get("text") != new.get("text"):
        return Reason(ReasonKind.query)
    changed = _changed(old.get("classes") or {}, new.get("classes") or {})
    if changed:
        return Reason(ReasonKind.code, tuple(address.rpartition(":")[2] for address in changed))
    changed = _changed(old.get("arguments") or {}, new.get("arguments") or {})
    if changed:
        return Reason(ReasonKind.argument, changed)
    for part in ("inputs", "source"):
        changed = _changed(old.get(part) or {}, new.get(part) or {})
        if changed:
            return Reason(ReasonKind.input, changed)
    return Reason(ReasonKind.fresh_input if old.get("cache") != new.get("cache") else ReasonKind.forced)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(name for name in {*old, *new} if old.get(name) != new.get(name)))
