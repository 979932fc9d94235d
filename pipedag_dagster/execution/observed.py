"""What was seen while a task ran, as it is kept in the `parts` of its table versions, and compared by the next run.

- `ran`: code that the static fingerprint does not cover, with its fingerprint.
- `notes`: sentences about what the task depends on, but whose change nobody will notice.
- `holds`: the user's classes that have objects in a blob. Their code belongs to the keys of tasks that get the blob.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from pipedag_dagster.cache_functions import EnvironmentContent, FileContent
from pipedag_dagster.catalog.catalog import OutputKind, TableVersion
from pipedag_dagster.execution import cache_key
from pipedag_dagster.fingerprint import code_address
from pipedag_dagster.fingerprint.module_origin import UserCode
from pipedag_dagster.fingerprint.observation import Observation
from pipedag_dagster.graph.cache_option import each
from pipedag_dagster.graph.flow import TaskCall

_LISTED = 10
_user_code = UserCode()


@dataclass(frozen=True)
class Reads:
    """Files and environment variables."""

    files: frozenset[str] = frozenset()
    variables: frozenset[str] = frozenset()

    def __or__(self, other: Reads) -> Reads:
        return Reads(self.files | other.files, self.variables | other.variables)


@dataclass(frozen=True)
class Observed:
    """What was seen of one execution. `ran`: fingerprints by address; `notes`: sentences."""

    ran: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, Any]:
        """What is kept of it, by name."""
        return {"ran": dict(self.ran)} if self.ran else {}


def of_call(call: TaskCall, observation: Observation, covered: Reads) -> Observed:
    """What a call of a task has done.

    Args:
        covered: what its cache function reads too.
    """
    ran: dict[str, str] = {}
    if call.task.version is None:
        static = cache_key.task_code(call).text
        ran = code_address.versions(code_address.addresses(observation.code, observation.modules, static))
    return Observed(ran, tuple(_notes(call, observation, covered)))


def reads_of_cache_function(call: TaskCall, observation: Observation | None) -> Reads:
    """The files and variables whose changes the cache function of a task notices."""
    found = Reads()
    for function in each(call.task.cache):
        if isinstance(function, FileContent):
            found |= Reads(files=frozenset(os.path.realpath(path) for path in function.paths.values()))
        elif isinstance(function, EnvironmentContent):
            found |= Reads(variables=frozenset(function.names))
    if observation is not None:
        found |= Reads(frozenset(observation.files), frozenset(observation.variables))
    return found


def changed_code(tables: Iterable[TableVersion]) -> list[str]:
    """The names of the code that has run when these tables were made and that is another one now."""
    ran: dict[str, str] = {}
    for table in tables:
        ran |= table.parts.get("ran") or {}
    now = code_address.versions(ran)
    return [
        code_address.short(address)
        for address, version in ran.items()
        if now[address] != version or version == code_address.MISSING
    ]


def class_versions(tables: Iterable[TableVersion], nodes: Iterable[Any]) -> dict[str, str]:
    """The fingerprints of the user's classes that have objects in blobs and values.

    Args:
        nodes: values as `json_values` encodes them.
    """
    found: set[str] = set()
    for table in tables:
        found.update(table.parts.get("holds") or ())
        if table.kind is OutputKind.value:
            found.update(_classes_in(table.value))
    for node in nodes:
        found.update(_classes_in(node))
    return code_address.versions(sorted(found))


def pickled(value: Any) -> tuple[bytes, tuple[str, ...]]:
    """A pickle, and the addresses of the user's classes that have objects in it, and of functions."""
    pickler = _Pickler(buffer := BytesIO(), protocol=5)  # the newest one that all versions of Python read
    pickler.dump(value)
    found = {code_address.class_address(kind) for kind in pickler.kinds if not _user_code.is_library(kind)}
    return buffer.getvalue(), tuple(sorted(name for name in found if "<locals>" not in name))


class _Pickler(pickle.Pickler):
    """Notes the classes of the objects that it meets."""

    def __init__(self, file: BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.kinds: set[type] = set()

    def reducer_override(self, obj: Any) -> Any:
        self.kinds.add(obj if isinstance(obj, type) else type(obj))
        return NotImplemented


def _classes_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$class"), str):
            yield node["$class"]
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _classes_in(part)


def _notes(call: TaskCall, observation: Observation, covered: Reads) -> Iterator[str]:
    if call.task.input and call.task.cache is not None:
        return
    folder = _folder(call.task.fn)
    scripts = {os.path.realpath(code.co_filename) for code in observation.code}  # that were run: they count as code
    data = observation.files - scripts
    files = sorted(_relative(file, folder) for file in data if not _is_within(file, covered.files))
    if files:
        yield _note(call, files, "file_content")
    variables = sorted(observation.variables - covered.variables)
    if variables:
        yield _note(call, variables, "environment")


def _note(call: TaskCall, names: list[str], helper: str) -> str:
    shown = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    arguments = ", ".join(map(json.dumps, names[:_LISTED])) + (", …" if len(names) > _LISTED else "")
    what = "" if helper == "file_content" else "the environment variable " + ("s " if len(names) > 1 else "")
    what = what.replace("variable s", "variables")
    return (
        f"{call} read {what}{shown}, whose change will not be noticed. "
        f"Write @materialize(cache={helper}({arguments})) if it matters."
    )


def _folder(function: Callable[..., Any]) -> str | None:
    code = getattr(function, "__code__", None)
    return None if code is None or code.co_filename[0] == "<" else os.path.dirname(os.path.realpath(code.co_filename))  # noqa: PTH120


def _relative(file: str, folder: str | None) -> str:
    path = Path(file)
    return path.relative_to(folder).as_posix() if folder is not None and path.is_relative_to(folder) else file


def _is_within(file: str, covered: Collection[str]) -> bool:
    return file in covered or any(file.startswith(f"{one}{os.sep}") for one in covered)
