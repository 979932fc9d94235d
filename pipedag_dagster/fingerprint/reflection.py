"""Code that finds other code by its name: a walk from name to name cannot follow it."""

from __future__ import annotations

import builtins
import operator
import os
import sys
import types
import typing
from typing import Any

_BUILTINS = {"eval", "exec", "compile", "globals", "__import__"}
# Modules that import, read or call code by name, read the text of code, or start other programs.
_MODULES = {
    *("importlib", "pkgutil", "runpy", "inspect", "gc", "code", "codeop", "pydoc", "subprocess", "imp", "mock"),
    *("pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "duckdb", "numexpr", "pandasql"),
}
# Modules of which only some names do so: counted when the module itself is passed on.
_PARTLY = {"sys", "builtins", "operator", "typing"}
_OF_PANDAS = ("eval", "read_pickle")
# Names of these modules that only find files, versions and data.
_HARMLESS = {("importlib", "resources"), ("importlib", "metadata", "version"), ("importlib", "util", "find_spec")}
_ATTRIBUTES = {("sys", "modules"), ("sys", "_getframe"), ("sys", "_current_frames"), ("unittest", "mock")}


def _objects() -> tuple[Any, ...]:
    found = [getattr(builtins, name) for name in sorted(_BUILTINS)]
    found += [operator.attrgetter, operator.methodcaller, os.system, os.popen, typing.get_type_hints, sys._getframe]
    return (*found, sys.modules)


_OBJECTS = {id(value): value for value in _objects()}


def is_reflective_builtin(name: str) -> bool:
    """Whether a builtin finds code by its name, or runs a text."""
    return name in _BUILTINS


def reflective_name(value: Any) -> str | None:
    """How to name an object of Python or a library that finds code by its name; None for other objects.

    >>> reflective_name(eval)
    'eval'
    >>> reflective_name(len)
    """
    if value is sys.modules:
        return "sys.modules"
    if isinstance(value, types.ModuleType):
        return value.__name__ if value.__name__.partition(".")[0] in (_MODULES | _PARTLY) else None
    if id(value) in _OBJECTS or _is_of_pandas(value):
        return str(value.__name__)
    if not isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return None
    origin = str(getattr(value, "__module__", None) or "")
    if _is_harmless((*origin.split("."), value.__name__)):
        return None
    if origin.partition(".")[0] in _MODULES or origin == "unittest.mock":
        return f"{origin}.{value.__name__}"
    return None


def _is_of_pandas(value: Any) -> bool:
    """Whether it is a function of pandas that runs a text or reads code. Whoever has one has imported pandas."""
    pandas = sys.modules.get("pandas")
    return any(value is getattr(pandas, name, sys) for name in _OF_PANDAS)


def in_reflective_module(chain: tuple[str, ...], module: str) -> bool:
    """Whether the attributes that are taken of a module are of the kind that finds code: `sys.modules`."""
    if _is_harmless((*module.split("."), *chain)):
        return False
    return module.partition(".")[0] in _MODULES or any((module, name) in _ATTRIBUTES for name in chain[:1])


def _is_harmless(words: tuple[str, ...]) -> bool:
    return any(words[: len(one)] == one for one in _HARMLESS)
