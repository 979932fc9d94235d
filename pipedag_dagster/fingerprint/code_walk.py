"""What the user's functions, classes and modules are: their source, and what its names mean."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import inspect
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

from pipedag_dagster.digest import digest
from pipedag_dagster.fingerprint.code_kinds import (
    C_CODE,
    chains_without_source,
    closure,
    holds_code,
    is_code,
    is_generated,
    wrapped,
)
from pipedag_dagster.fingerprint.code_source import class_source, function_source
from pipedag_dagster.fingerprint.module_origin import origins, public_name
from pipedag_dagster.fingerprint.name_walk import NameWalk
from pipedag_dagster.fingerprint.reflection import reflective_name
from pipedag_dagster.graph.task import Task

_NOT_MEMBERS = {"_abc_impl", "_sa_registry"}
# What Python writes into classes, as far as it is a number or a text.
_OF_CLASSES = {
    *("__module__", "__qualname__", "__doc__", "__hash__", "__firstlineno__", "__total__", "__slots__", "__final__"),
    *("__closed__", "__pydantic_complete__", "__pydantic_root_model__"),
}
_NOT_OF_FUNCTIONS = {*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", "__isabstractmethod__", "__signature__"}
_DESCRIPTORS = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    type(vars(collections.namedtuple("_", "field"))["field"]),
)
_ATOMS = (bool, int, float, str, bytes, type(None))


class CodeWalk(NameWalk):
    """The part of the walk that goes through code."""

    def _code(self, value: Any, where: str) -> str | None:
        """The digest of a function, class or module, or of what is around one; None for data."""
        if isinstance(value, Task):
            return self.value(value.fn, where)
        if isinstance(value, types.FunctionType):
            return self._once(value, lambda: self._function(value))
        if isinstance(value, type):
            return self._once(value, lambda: self._class(value))
        if isinstance(value, types.ModuleType):
            return self._once(value, lambda: self._whole(value))
        if isinstance(value, types.MethodType):
            return digest("method", self.value(value.__func__, where), self.value(value.__self__, where))
        if isinstance(value, staticmethod | classmethod):
            return digest(type(value).__name__, self.value(value.__func__, where))
        if isinstance(value, property):
            return digest("property", *(self.value(part, where) for part in (value.fget, value.fset, value.fdel)))
        if isinstance(value, functools.cached_property):
            return digest("cached property", self.value(value.func, where))
        if isinstance(value, functools.partial | functools.partialmethod):
            parts = (
                value.func,
                value.args,
                dict(value.keywords),
                vars(value) if type(value) is functools.partial else {},
            )
            return digest("partial", *self._class_of(value), *(self.value(part, where) for part in parts))
        if isinstance(value, C_CODE):
            return self._c_code(value, where)
        if wrapped(value) is not None and self.user_code.is_library(type(value)):
            return self._wrapper(value, where)
        return None

    def _wrapper(self, value: Any, where: str) -> str:
        """A function in an object of a library, which may read its annotations."""
        self._library(type(value).__module__)
        inner = wrapped(value)
        parts = [self.value(inner, where), self._annotations(inner)]
        for name, part in sorted(vars(value).items()):
            found = None if name in _NOT_OF_FUNCTIONS else self._stable(part, f"{where}.{name}")
            parts += [] if found is None else [f"{name}={found}"]
        return digest("wrapper", type(value).__qualname__, *parts)

    def _annotations(self, function: Any) -> str:
        function = inspect.unwrap(function) if callable(function) else function
        source = function_source(function) if isinstance(function, types.FunctionType) else None
        return source.annotations if source else ""

    def _c_code(self, value: Any, where: str) -> str:
        owner = getattr(value, "__self__", None)
        name = getattr(value, "__qualname__", type(value).__name__)
        self._look_for_reflection(value)
        if owner is not None and not isinstance(owner, types.ModuleType):
            return digest("bound", name, self.value(owner, f"{where}.__self__"))
        origin = str(getattr(value, "__module__", None) or getattr(value, "__objclass__", int).__module__)
        if not self.user_code.is_library_module(origin):
            self.unstable.setdefault(f"{origin}.{name}", "a C extension, whose source is not there")
        self._library(origin)
        return digest("library", origin, name)

    def _look_for_reflection(self, value: Any) -> None:
        why = reflective_name(value)
        if why:
            self._is_opaque(f"{why}()")

    # Functions

    def _function(self, function: types.FunctionType) -> str:
        code, namespace = function.__code__, function.__globals__
        generated = code.co_filename[0] == "<" and self.user_code.is_library_module(namespace.get("__name__"))
        if self.user_code.in_library(code.co_filename) or generated:
            return self._library_function(function)
        enclosed = closure(function)
        label = f"{namespace.get('__name__')}.{code.co_qualname}"
        source = function_source(function)
        with self._inside(namespace, code.co_filename):
            if source is None:
                parts = self._without_source(function, enclosed, label)
            else:
                self.sources.setdefault(label, source)
                self.libraries |= origins(source.annotated, namespace, self.user_code)
                parts = ["function", source.plain, *self._names(source, namespace, label, enclosed)]
            for name, default in (("defaults", function.__defaults__), ("keywords", function.__kwdefaults__)):
                if default:
                    parts.append(f"{name}={self.value(default, f'a default of {label}')}")
            parts += self._attributes_of(function, label)
        return digest(*parts)

    def _attributes_of(self, function: types.FunctionType, label: str) -> Iterator[str]:
        """`clean.rate = 2`. Libraries keep things there too, which count where they are stable."""
        for name, part in sorted(vars(function).items()):
            if name not in _NOT_OF_FUNCTIONS:
                found = self._stable(part, f"{label}.{name}")
                if found is not None:
                    yield f"{name}={found}"
        around = wrapped(function)
        if around is not None:
            yield f"wrapped={self.value(around, label)}"

    def _library_function(self, function: types.FunctionType) -> str:
        name = str(function.__globals__.get("__name__"))
        self._library(name)
        self._look_for_reflection(function)
        qualname = function.__code__.co_qualname
        enclosed = closure(function)
        inner = []
        for part in (wrapped(function), *(enclosed[name] for name in sorted(enclosed))):
            if holds_code(part, self.user_code):
                inner += [self.value(part, qualname), self._annotations(part)]
            elif isinstance(part, _ATOMS) and not self._is_of_python(name):
                inner.append(self.value(part, qualname))
        return digest("library", name, qualname, *inner)

    def _is_of_python(self, name: str) -> bool:
        return name.partition(".")[0] in sys.stdlib_module_names

    def _without_source(self, function: types.FunctionType, enclosed: dict[str, Any], label: str) -> list[str]:
        code, namespace = function.__code__, function.__globals__
        exists = os.path.exists(code.co_filename) and code.co_name != "<lambda>"  # noqa: PTH110
        why = "its file has changed since it was imported: start again" if exists else "code without source"
        self.unstable.setdefault(label, why)
        self._is_opaque(f"{code.co_name}(), which has no source")
        parts = ["bytecode", *self._bytecode(code, label)]
        for chain in chains_without_source(code, namespace, enclosed):
            if chain[0] in enclosed:
                parts.append(f"{'.'.join(chain)}={self._follow(enclosed[chain[0]], chain, label)}")
            elif chain[0] not in {*code.co_varnames, *code.co_cellvars}:
                parts.append(f"{'.'.join(chain)}={self._global(namespace, chain)}")
        return parts

    def _bytecode(self, code: types.CodeType, label: str) -> Iterator[str]:
        yield from (code.co_code.hex(), repr(code.co_names), repr(code.co_varnames))
        for part in code.co_consts:
            if isinstance(part, types.CodeType):
                yield from self._bytecode(part, label)
            else:
                yield self.value(part, label)

    # Classes

    def _class(self, kind: type) -> str:
        if self.user_code.is_library(kind):
            self._library(kind.__module__)
            self._look_for_reflection(kind)
            return digest("library", public_name(kind))
        module = sys.modules.get(kind.__module__)
        methods = [part for part in vars(kind).values() if isinstance(part, types.FunctionType)]
        namespace = vars(module) if module else methods[0].__globals__ if methods else {}
        source = class_source(kind, namespace)
        if source is None and issubclass(kind, tuple) and "_fields" in vars(kind):  # a namedtuple
            fields = [vars(kind).get(name) for name in ("_fields", "_field_defaults")]
            return digest("namedtuple", kind.__name__, self.value(fields, kind.__name__))
        label = f"{kind.__module__}.{kind.__qualname__}"
        self.classes.setdefault(label, kind)
        parts = ["class", kind.__qualname__.rpartition(".")[2]]
        with self._inside(namespace, namespace.get("__file__")):
            if source is not None:
                self.sources.setdefault(label, source)
                parts += [source.plain, *self._names(source, namespace, label)]
            parts += [self.value(base, label) for base in (*kind.__bases__, type(kind))]
            if source is None:
                parts += self._made_by_a_call(kind, label)
            for name, member in sorted(vars(kind).items()):
                found = self._member(name, member, kind, source is not None)
                parts += [] if found is None else [f"{name}={found}"]
        return digest(*parts)

    def _made_by_a_call(self, kind: type, label: str) -> Iterator[str]:
        """A class that has no source of its own: `Enum("Colour", …)`, `make_dataclass(…)`."""
        if issubclass(kind, enum.Enum):
            yield self.value({name: member.value for name, member in kind.__members__.items()}, label)
        if dataclasses.is_dataclass(kind):
            for one in dataclasses.fields(kind):
                default = one.default_factory if one.default is dataclasses.MISSING else one.default
                parts = [one.name, one.type, None if default is dataclasses.MISSING else default]
                yield self.value(parts, f"{label}.{one.name}")

    def _member(self, name: str, member: Any, kind: type, has_source: bool) -> str | None:
        where = f"{kind.__module__}.{kind.__qualname__}.{name}"
        inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        if isinstance(inner, types.FunctionType) and isinstance(inspect.unwrap(inner), types.FunctionType):
            # What the library behind a class has put into it is another thing in every version of Python.
            added = is_generated(inspect.unwrap(inner), has_source) or not holds_code(inner, self.user_code)
            return None if added else self.value(member, where)
        if isinstance(member, type):
            return self.value(member, where) if member.__qualname__.startswith(f"{kind.__qualname__}.") else None
        if is_code(member, self.user_code):
            return None if isinstance(member, C_CODE) else self.value(member, where)
        if name in _NOT_MEMBERS or isinstance(member, enum.Enum):
            return None
        if name[:2] == name[-2:] == "__" and (name in _OF_CLASSES or not isinstance(member, _ATOMS)):
            return None
        if isinstance(member, _DESCRIPTORS) or (issubclass(kind, enum.Enum) and name[:1] == name[-1:] == "_"):
            return None
        # Its source says what it is, and its value, where that is stable. It may have come from elsewhere.
        return self._stable(member, where) if has_source else self.value(member, where)

    def _whole(self, module: types.ModuleType) -> str:
        """A module that is used as a value: everything in it may be used."""
        name = module.__name__
        if self.user_code.is_library_module(name):
            self._library(name)
            self._look_for_reflection(module)
            return digest("library", name)
        if vars(module).get("__file__") is None and "__path__" not in vars(module):
            self.unstable.setdefault(name, "a module without source")
        self.opaque.setdefault(name, "it is passed on as a value, and not by the names in it")
        return digest("module")
