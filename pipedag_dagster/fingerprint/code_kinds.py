"""What kind of thing a value is: code of the user, code in C, or something around code."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

from pipedag_dagster.fingerprint.code_source import function_source
from pipedag_dagster.fingerprint.module_origin import UserCode
from pipedag_dagster.fingerprint.syntax_reader import Chain
from pipedag_dagster.graph.task import Task

C_CODE = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)


def closure(function: types.FunctionType) -> dict[str, Any]:
    """The values of the names that a function takes from the functions around it."""
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


def is_generated(function: types.FunctionType, class_has_source: bool) -> bool:
    """Whether a method was made by `dataclass` or the like, from what the source of the class says. What somebody
    has run by `exec()` has no source either."""
    code = function.__code__
    if code.co_filename[0] != "<" or function_source(function) is not None:
        return False
    return class_has_source or "__create_fn__" in code.co_qualname


def wrapped(value: Any) -> Any:
    """What a decorator of a library has put something around. Only what is written there: some objects have every
    attribute that they are asked for."""
    found = getattr(value, "__dict__", None)
    wrapped = found.get("__wrapped__") if isinstance(found, dict) else None
    return wrapped if callable(wrapped) else None


def is_code(value: Any, user_code: UserCode) -> bool:
    """Whether a value is code, or an object of a library around code."""
    code = (type, Task, types.FunctionType, types.MethodType, types.ModuleType, functools.partial, *C_CODE)
    around = (staticmethod, classmethod, property, functools.cached_property, functools.partialmethod)
    if isinstance(value, (*code, *around)):
        return True
    return wrapped(value) is not None and user_code.is_library(type(value))


def holds_code(value: Any, user_code: UserCode, seen: frozenset[int] = frozenset()) -> bool:
    """Whether something that a library's function keeps is, or holds, code of the user."""
    if id(value) in seen:
        return False
    seen |= {id(value)}
    if isinstance(value, types.FunctionType):
        inner = [wrapped(value), *closure(value).values()]
        own = not user_code.in_library(value.__code__.co_filename)
        return own or any(holds_code(part, user_code, seen) for part in inner)
    if isinstance(value, type):
        return not user_code.is_library(value)
    if isinstance(value, types.MethodType):
        return holds_code(value.__func__, user_code, seen)
    if isinstance(value, property | functools.cached_property | staticmethod | classmethod):
        function = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", None)
        return holds_code(function, user_code, seen)
    if isinstance(value, dict | types.MappingProxyType):
        return any(holds_code(part, user_code, seen) for part in list(value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(holds_code(part, user_code, seen) for part in list(value))
    if isinstance(value, Task | functools.partial):
        return True
    if value is None or isinstance(value, types.ModuleType):
        return False
    return not user_code.is_library(type(value)) or holds_code(wrapped(value), user_code, seen)
