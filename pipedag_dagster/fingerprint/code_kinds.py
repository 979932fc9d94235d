"""What kind of thing a value is: code of the user, code in C, or something around code."""

from __future__ import annotations

import functools
import types
from typing import Any

from pipedag_dagster.fingerprint import code_source
from pipedag_dagster.fingerprint.module_origin import closure, in_library, is_library
from pipedag_dagster.graph.task import Task

C_CODE = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)


def is_generated(function: types.FunctionType, class_has_source: bool) -> bool:
    """Whether a method was made by `dataclass` or the like, from what the source of the class says. What somebody
    has run by `exec()` has no source either."""
    code = function.__code__
    if code.co_filename[0] != "<" or code_source.of_function(function) is not None:
        return False
    return class_has_source or "__create_fn__" in code.co_qualname


def wrapped(value: Any) -> Any:
    """What a decorator of a library has put something around. Only what is written there: some objects have every
    attribute that they are asked for."""
    found = getattr(value, "__dict__", None)
    wrapped = found.get("__wrapped__") if isinstance(found, dict) else None
    return wrapped if callable(wrapped) else None


def is_code(value: Any) -> bool:
    code = (type, Task, types.FunctionType, types.MethodType, types.ModuleType, functools.partial, *C_CODE)
    around = (staticmethod, classmethod, property, functools.cached_property, functools.partialmethod)
    return isinstance(value, (*code, *around)) or wrapped(value) is not None


def holds_code(value: Any, seen: frozenset[int] = frozenset()) -> bool:
    """Whether something that a library's function keeps is, or holds, code of the user."""
    if id(value) in seen:
        return False
    seen |= {id(value)}
    if isinstance(value, types.FunctionType):
        inner = [wrapped(value), *closure(value).values()]
        return not in_library(value.__code__.co_filename) or any(holds_code(part, seen) for part in inner)
    if isinstance(value, type):
        return not is_library(value)
    if isinstance(value, types.MethodType):
        return holds_code(value.__func__, seen)
    if isinstance(value, dict | types.MappingProxyType):
        return any(holds_code(part, seen) for part in value.values())
    if isinstance(value, list | tuple | set):
        return any(holds_code(part, seen) for part in value)
    if isinstance(value, Task | functools.partial):
        return True
    return value is not None and holds_code(wrapped(value), seen)
