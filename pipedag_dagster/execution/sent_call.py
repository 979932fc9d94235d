"""A call on its way to a worker.

The function of a task travels as the name of its module and itself, where the worker can import it; otherwise as code
(cloudpickle), as in a notebook. Tables travel by name, never as data. Of the other calls of the flow only what they
have returned travels, and an instance as its settings: the worker needs no file of the host.
"""

from __future__ import annotations

import functools
import importlib
import io
import json
import marshal
import os
import pickle
import secrets
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any
from weakref import WeakKeyDictionary

import cloudpickle

from pipedag_dagster.catalog.catalog import StageVersion, TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import WiringError, WorkerLost
from pipedag_dagster.execution.cache_key import Key, TaskCode
from pipedag_dagster.execution.inputs import Inputs
from pipedag_dagster.execution.observed import Reads
from pipedag_dagster.execution.stage_versions import StageVersions
from pipedag_dagster.graph.flow import FlowGraph, Slot, Stage, TaskCall
from pipedag_dagster.graph.task import Task


@dataclass(frozen=True)
class SentCall:
    """What a worker needs to run a call.

    Attributes:
        tables: what the calls have returned whose outputs it takes, by `str(call)`.
        versions: what a task under `@input_stage_versions` gets.
        compare: see `OutputWriter`.
        code_version, code: of the task, as the host has read it.
        is_importable: the worker imports the function.
        levels: of the host's loggers.
    """

    instance: ConfigContext
    call: TaskCall
    run_id: str
    key: Key
    inputs: Mapping[str, TableVersion]
    covered: Reads
    tables: Mapping[str, Mapping[str, TableVersion]]
    versions: StageVersions | None
    compare: bool
    code_version: str
    code: TaskCode
    is_importable: bool
    levels: Mapping[str, int]


class SentInputs(Inputs):
    """The inputs of a call, in a worker."""

    def __init__(self, sent: SentCall) -> None:
        stage: Any = sent.call.stage
        super().__init__(sent.instance, stage, sent.run_id, StageVersion(stage.name, 0, {}), {}, {})
        self._sent = sent

    def tables_of(self, call: TaskCall) -> Mapping[str, TableVersion]:
        """What the host has sent of it."""
        return self._sent.tables[str(call)]

    def stage_versions(self, call: TaskCall) -> StageVersions:
        """What the host has sent of it."""
        assert self._sent.versions is not None
        return self._sent.versions


def refuse_unpicklable(call: TaskCall) -> None:
    """
    Raises:
        WiringError: part of the call cannot travel to another process. It is named.
    """
    try:
        _pickle(call, call)
    except Exception as error:
        raise WiringError(
            f"{call} cannot run in another process: {_culprit(call)} cannot be pickled ({error}). Make it in the task, "
            "or write @materialize(run_on='threads')."
        ) from error


def dumped(sent: SentCall) -> bytes:
    """The bytes that a worker gets."""
    buffer = io.BytesIO()
    buffer.write(json.dumps(_versions()).encode() + b"\n")
    _Pickler(buffer, sent.call).dump(sent)
    return buffer.getvalue()


def loaded(data: bytes) -> SentCall:
    """What `dumped` has made bytes of.

    Raises:
        WorkerLost: this process lacks a module, or has another version of something.
    """
    buffer = io.BytesIO(data)
    refuse_others(json.loads(buffer.readline()), _versions())
    try:
        sent: SentCall = _Unpickler(buffer).load()
    except ImportError as error:
        raise WorkerLost(
            f"The worker cannot import {error.name}, which the task needs: {error}. Install it there, or start the "
            "worker where it is found."
        ) from error
    refuse_others(sent.code.libraries, {name: _installed(name) for name in sent.code.libraries})
    return sent


def _versions() -> dict[str, str]:
    """What has to be the same in host and worker, because code travels as Python has compiled it."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"Python": python} | {name: metadata.version(name) for name in ("pipedag_dagster", "cloudpickle")}


def _installed(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def refuse_others(hosts: Mapping[str, str], own: Mapping[str, str]) -> None:
    """
    Args:
        hosts, own: the versions of packages, in the host and here.

    Raises:
        WorkerLost: some differ.
    """
    different = [f"{name} {own[name]} instead of {version}" for name, version in hosts.items() if own[name] != version]
    if different:
        raise WorkerLost(f"The worker has {', '.join(different)}. Install the same versions there as in the run.")


def is_importable(task: Task) -> bool:
    """Whether a task is found in its module by its name."""
    if task.__module__ == "__main__":  # the program itself, which a worker does not have
        return False
    try:
        return _imported(task.__module__, task.fn.__qualname__) is task
    except ImportError:
        return False


def _culprit(call: TaskCall) -> str:
    for name, value in call.arguments.items():
        if not _can_be_pickled(call, value):
            return f"its argument {name!r} (of class {type(value).__qualname__})"
    code, values = call.task.fn.__code__, vars(sys.modules.get(call.task.fn.__module__, object()))
    for name in code.co_names:
        if name in values and not _can_be_pickled(call, values[name]):
            return f"{name!r} (of class {type(values[name]).__qualname__}), which its function uses,"
    return "its function"


def _can_be_pickled(call: TaskCall, value: object) -> bool:
    try:
        _pickle(call, value)
    except Exception:
        return False
    return True


def _pickle(call: TaskCall, value: object) -> None:
    with Path(os.devnull).open("wb") as nowhere:
        _Pickler(nowhere, call).dump(value)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    def __init__(self, file: IO[bytes], call: TaskCall) -> None:
        super().__init__(file)
        self._call = call

    def persistent_id(self, value: object) -> Any:
        """An instance is sent as bytes, by which the worker knows it again: it keeps its connections."""
        return _instance_bytes(value) if isinstance(value, ConfigContext) else None

    def reducer_override(self, value: Any) -> Any:
        """How the parts of a flow travel."""
        if isinstance(value, TaskCall):
            return _call, self._parts(value)
        if isinstance(value, Stage):
            return _stage, (value.name, value.materialization_details, value.flow.name)
        if isinstance(value, types.CodeType):  # cloudpickle would leave out the file, which tracebacks show
            return marshal.loads, (marshal.dumps(value),)
        if isinstance(value, Task) and is_importable(value):
            return _imported, (value.__module__, value.fn.__qualname__)
        return super().reducer_override(value)

    def _parts(self, call: TaskCall) -> tuple[Any, ...]:
        slots = tuple((slot.asset, slot.path) for slot in call.slots)
        if call is not self._call:
            return None, call.stage, call.name, slots, {"nout": call.task.nout, "outputs": call.task.outputs}
        attributes = {"compares_versions": call.compares_versions, "source": call.source}
        stage = call.source_stage
        others = {"source_stage": str(getattr(stage, "name", stage)), "arguments": call.arguments}
        return call.task, call.stage, call.name, slots, attributes | others | {"compared": call.compared}


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, token: Any) -> ConfigContext:
        """The instance that this process has already, or a new one."""
        name, data = token
        if name not in _instances:
            config, files, source = cloudpickle.loads(data)
            instance = ConfigContext(config, files)
            if source is not None:
                instance.source = ConfigContext(source, files)
            _instances[name] = instance
        return _instances[name]


_instances: dict[str, ConfigContext] = {}
"""In a worker: the instances that it knows."""
_tokens: WeakKeyDictionary[ConfigContext, tuple[str, bytes]] = WeakKeyDictionary()
"""In the host: the bytes of each instance."""


def _instance_bytes(instance: ConfigContext) -> tuple[str, bytes]:
    if instance not in _tokens:
        source = instance.source
        configs = [None if one is None else _settings(one) for one in (instance, source)]
        data = cloudpickle.dumps((configs[0], instance.files, configs[1]))
        _tokens[instance] = secrets.token_hex(8), data
    return _tokens[instance]


def _settings(instance: ConfigContext) -> Any:
    """The settings, with the url of the embedded server in place of its name: it runs on the host."""
    config = instance.config
    return config.model_copy(update={"url": instance.store.table_store.database.url})


def _imported(module: str, name: str) -> Any:
    """The object of this name in a module.

    Raises:
        ImportError: it is not there.
    """
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except AttributeError:
        raise ImportError(f"the module {module} has no {name!r}", name=f"{module}.{name}") from None


def _stage(name: str, materialization_details: str | None, flow: str) -> Stage:
    stage = Stage(name, materialization_details)
    stage.flow = FlowGraph(flow)
    return stage


def _call(task: Task | None, stage: Stage, name: str, slots: tuple[tuple[str, Any], ...], rest: Any) -> TaskCall:
    """A call in a worker. Of a call whose outputs are only read (`task` is None), there is not more than that takes."""
    if task is None:
        task, rest = Task(_runs_elsewhere, rest), {"arguments": {}}
    return TaskCall(task, stage, name, slots=tuple(Slot(asset, path) for asset, path in slots), **rest)


def _runs_elsewhere() -> None:
    """Stands for the code of a task whose outputs are only read."""
