"""Where code comes from: of a library or of the user, from which module and folder."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import pathlib
import sys
import sysconfig
import types
from collections.abc import Mapping
from typing import Any

from pipedag_dagster.fingerprint import code_source
from pipedag_dagster.fingerprint.code_source import Chain, CodeSource

_STANDARD = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_LIBRARIES = tuple({f"{folder}{os.sep}" for path in _STANDARD for folder in (path, os.path.realpath(path))})
_INSTALLED = {"site-packages", "dist-packages"}
_PACKAGE = f"{pathlib.Path(__file__).parent.parent}{os.sep}"
_EXAMPLES = f"{_PACKAGE}examples{os.sep}"
# Calls that return something else in every process, by their last name.
_MOMENTARY = {"now", "utcnow", "today", "time_ns", "monotonic", "perf_counter", "uuid1", "uuid4", "getpid", "urandom"}


def closure(function: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    return found


def chains_without_source(
    code: types.CodeType, namespace: Mapping[str, Any], closure: Mapping[str, Any]
) -> list[Chain]:
    """Names as bytecode has them: of a module, all that are its attributes."""
    names: set[str] = set()
    codes = [code]
    while codes:
        one = codes.pop()
        names.update(one.co_names)
        codes += [part for part in one.co_consts if isinstance(part, types.CodeType)]
    chains: list[Chain] = [(name,) for name in closure]
    for name in names:
        value = namespace.get(name)
        inner = vars(value) if isinstance(value, types.ModuleType) else {}
        chains += [(name, part) for part in names if part in inner] if inner else [(name,)]
    return sorted(chains)


def class_source(kind: type, namespace: dict[str, Any]) -> CodeSource | None:
    files = [namespace.get("__file__")]
    files += [part.__code__.co_filename for part in vars(kind).values() if isinstance(part, types.FunctionType)]
    for file in dict.fromkeys(files):
        found = code_source.module(file, namespace)
        source = found and found.of_class(kind)
        if source:
            return source
    return None


def slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name[:2] != "__"]


def origins(names: tuple[str, ...], namespace: Mapping[str, Any]) -> set[str]:
    """The libraries behind names in annotations."""
    found = set()
    for name in names:
        value = namespace.get(name)
        origin = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        if origin and is_library_module(origin):
            found.add(origin.partition(".")[0])
    return found


def imported(what: code_source.Import, namespace: Mapping[str, Any]) -> types.ModuleType | None:
    name = f"{'.' * what.level}{what.module}"
    package = namespace.get("__package__") or str(namespace.get("__name__", "")).rpartition(".")[0]
    loaded = sys.modules.get(name)
    if loaded is not None or (not what.level and is_library_module(name)):
        return loaded
    try:
        return importlib.import_module(name, package or None)
    except Exception:
        return None


def mentions_file(own: code_source.Module, name: str) -> bool:
    """Whether a constant comes from the path of its module, by way of other constants too."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        one = todo.pop()
        source = None if one in seen else own.of_constant(one)
        seen.add(one)
        roots = [chain[0] for chain in source.chains] if source else []
        if "__file__" in roots:
            return True
        todo += roots
    return False


def momentary(source: CodeSource) -> str | None:
    for chain in source.called:
        if chain[-1] in _MOMENTARY or chain == ("time", "time") or chain[0] in ("random", "secrets"):
            return ".".join(chain)
    return None


def folder(file: str | None) -> str | None:
    return os.path.dirname(os.path.abspath(file)) if file and file[0] != "<" else None  # noqa: PTH100, PTH120


def is_library(kind: type) -> bool:
    return is_library_module(kind.__module__)


def is_library_module(name: str | None) -> bool:
    """Whether a module is installed, and not the user's own."""
    if not name or name == "__main__":
        return False
    top = name.partition(".")[0]
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        file = spec.origin if spec and spec.has_location else None
    # By file first: the user may have a module that is named like one of the standard library.
    return in_library(file) if file else top in sys.stdlib_module_names or top == "builtins"


@functools.cache
def in_library(file: str | None) -> bool:
    if file is None:
        return False
    if file.startswith("<frozen"):
        return True
    ours = file.startswith(_PACKAGE) and not file.startswith(_EXAMPLES)
    return ours or file.startswith(_LIBRARIES) or not _INSTALLED.isdisjoint(pathlib.PurePath(file).parts)
