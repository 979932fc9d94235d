"""Names by which code that ran is found again in another process: "shop.rules:discount".

The name of a module with nothing after it ("shop.rules:") stands for all of the module. It is used where the name of a
function does not lead to it: for lambdas, functions that were replaced, and modules that were imported. A script
that is not a module counts as a file: "/shop/script.py".
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import os
import sys
import types
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipedag_dagster.fingerprint.code_text import CodeText
from pipedag_dagster.fingerprint.fingerprint import code_version
from pipedag_dagster.graph.task import Task

MISSING = "missing"
_AT_MOST = 20  # functions of one module; if more of them ran, all of the module counts

_known: dict[str, tuple[Any, str]] = {}


def addresses(codes: Mapping[types.CodeType, str], modules: Iterable[str], static: CodeText) -> list[str]:
    """The addresses of the code that ran, without what belongs to the static fingerprint.

    Args:
        codes: the code that ran, with the names of the modules.
        modules: that were imported.
        static: what the fingerprint of the task covers.
    """
    covered = {(part.module, part.name): part.kind for part in static.parts}
    found = {_address(code, module) for code, module in codes.items() if not _is_covered(code, module, covered)}
    found |= {f"{module}:" for module in modules if (module, "") not in covered and ("", module) not in covered}
    counts = Counter(module_of(address) for address in found)
    whole = {module for module, count in counts.items() if count > _AT_MOST or f"{module}:" in found}
    return sorted({f"{module_of(one)}:" if module_of(one) in whole and one[0] != os.sep else one for one in found})


def versions(wanted: Iterable[str]) -> dict[str, str]:
    """The fingerprint of each address now, `MISSING` where it leads to nothing.

    A fingerprint is kept as long as the name means the same object: what a task does to the constants of a module while
    it runs is not a change of the code.
    """
    return {address: _version(address) for address in wanted}


def short(address: str) -> str:
    """How a sentence names it: `discount()`, `module shop.rules`."""
    module, _, name = address.partition(":")
    if name:
        return f"{name.rpartition('.')[2]}()"
    return Path(address).name if address.startswith(os.sep) else f"module {module}"


def module_of(address: str) -> str:
    return address if address.startswith(os.sep) else address.partition(":")[0]


def class_address(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _version(address: str) -> str:
    try:
        if address.startswith(os.sep):
            return hashlib.sha256(Path(address).read_bytes()).hexdigest()[:16]
        value = _resolve(address)
        if address not in _known or _known[address][0] is not value:
            _known[address] = value, code_version(value)
    except Exception:  # a module of the user may raise anything when it is imported
        return MISSING
    return _known[address][1]


def _resolve(address: str) -> Any:
    """
    Raises:
        ImportError: the module is not there.
        KeyError: it does not have this name.
    """
    module, _, name = address.partition(":")
    value: Any = importlib.import_module(module)
    for part in name.split(".") if name else ():
        value = vars(value)[part]
    return value


def _address(code: types.CodeType, module: str) -> str:
    name = code.co_qualname.partition(".<locals>")[0]
    if getattr(sys.modules.get(module), "__file__", None) is None:
        return os.path.realpath(code.co_filename)
    if name == "<module>":
        return f"{module}:"
    try:
        value = _resolve(f"{module}:{name}")
    except Exception:
        return f"{module}:"
    return f"{module}:{name}" if _leads_to(value, code) else f"{module}:"


def _is_covered(code: types.CodeType, module: str, covered: Mapping[tuple[str, str], str]) -> bool:
    if covered.get(("", module)) == "module" or covered.get((module, "")) == "module":
        return True
    parts = code.co_qualname.split(".")
    for count in range(1, len(parts) + 1):
        kind = covered.get((module, ".".join(parts[:count])))
        rest = parts[count : count + 1]
        # What is defined in a function is part of its text; so are the methods of a class.
        if kind == "class" or (kind == "function" and rest in ([], ["<locals>"])):
            return True
    return False


def _leads_to(value: Any, code: types.CodeType) -> bool:
    """Whether a value is the function or class that has this code, or something around it."""
    if isinstance(value, type):
        return True
    inner: list[Any] = []
    if isinstance(value, types.FunctionType):
        if _contains(value.__code__, code):
            return True
    elif isinstance(value, staticmethod | classmethod):
        inner = [value.__func__]
    elif isinstance(value, property):
        inner = [value.fget, value.fset, value.fdel]
    elif isinstance(value, functools.cached_property | functools.partial):
        inner = [value.func]
    elif isinstance(value, Task):
        inner = [value.fn]
    wrapped = inspect.getattr_static(value, "__wrapped__", None)
    return any(_leads_to(one, code) for one in (*inner, wrapped) if one is not None and one is not value)


def _contains(outer: types.CodeType, code: types.CodeType) -> bool:
    if outer is code:
        return True
    return any(_contains(part, code) for part in outer.co_consts if isinstance(part, types.CodeType))
