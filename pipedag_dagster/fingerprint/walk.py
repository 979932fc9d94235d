"""From a function to all that it reaches: the walk behind fingerprints and content hashes."""

from __future__ import annotations

import builtins
import collections
import dataclasses
import enum
import functools
import inspect
import os
import pathlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipedag_dagster.digest import digest
from pipedag_dagster.errors import WiringError
from pipedag_dagster.fingerprint import code_source
from pipedag_dagster.fingerprint.code_kinds import C_CODE, holds_code, is_code, is_generated, wrapped
from pipedag_dagster.fingerprint.code_source import Chain, CodeSource
from pipedag_dagster.fingerprint.module_origin import (
    chains_without_source,
    class_source,
    closure,
    folder,
    imported,
    in_library,
    is_library,
    is_library_module,
    mentions_file,
    momentary,
    origins,
    slots,
)
from pipedag_dagster.fingerprint.value_content import (
    ADDRESS,
    ATOMS,
    Unstable,
    ValueContent,
    content,
    enum_value,
    state,
)
from pipedag_dagster.graph.task import Task

_BY_NAME = {("globals",), ("eval",), ("exec",), ("__import__",), ("importlib", "import_module"), ("sys", "modules")}
_NOT_MEMBERS = {"_abc_impl", "_sa_registry"}
_DESCRIPTORS = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    type(vars(collections.namedtuple("_", "field"))["field"]),
)


class Walk:
    """Goes from a value to all that it reaches, depth first and in an order that depends on names only.

    Functions and classes are counted where they are met first, and by their number where they are met again: that ends
    recursion, and nothing depends on where objects lie in memory.
    """

    def __init__(self, *, strict: bool = False, code: bool = True, data: bool = True) -> None:
        self.strict = strict
        self.code = code
        self.data = data
        self.libraries: set[str] = set()
        self.unstable: dict[str, str] = {}
        self.salted: list[str] = []
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # an object that is gone could lend its id to another one
        self._busy: set[int] = set()
        self.sources: dict[str, CodeSource] = {}
        self.constants: dict[str, tuple[Any, CodeSource | None, str]] = {}
        self._folder: str | None = None  # paths below it are relative to it
        self._relative = False  # all other paths too

    def value(self, value: Any, where: str) -> str:
        """A digest of a value; `where` names it for people."""
        if type(value) in ATOMS and not isinstance(value, str):
            return digest(type(value).__name__, repr(value))
        if id(value) in self._busy:
            return "cycle"
        if self.strict and is_code(value):
            return digest("code", Walk().value(value, where))
        code = self._code(value, where)
        if code is not None:
            return code
        self._busy.add(id(value))
        try:
            return self._data(value, where)
        except Unstable as problem:
            return self._refuse(value, where, str(problem))
        finally:
            self._busy.discard(id(value))

    def _refuse(self, value: Any, where: str, what: str) -> str:
        if self.strict:
            raise WiringError(
                f"{where}: {what} has no content that is the same in every process, so it cannot tell whether a task "
                "must run again. Use plain values (texts, numbers, dates, lists, dicts, dataclasses, DataFrames)."
            )
        self.unstable.setdefault(where, what)
        return digest("object", type(value).__qualname__)

    # Data

    def _data(self, value: Any, where: str) -> str:
        kind = type(value)
        if isinstance(value, list | tuple):
            return self._list(value, where)
        if isinstance(value, set | frozenset):
            return digest("set", *sorted(self._alone(part, where) for part in value))
        if isinstance(value, dict | types.MappingProxyType):
            return self._dict(value, where)
        if isinstance(value, enum.Enum):
            own = self._class_of(value)
            return digest(*own, self._content(enum_value(value), where))
        if isinstance(value, str | pathlib.PurePath):
            return self._content(self._without_folder(value) or content(value, silent=not self.strict), where)
        if dataclasses.is_dataclass(value) and not is_library(kind):
            fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
            return digest("dataclass", kind.__name__, *self._class_of(value), self._dict(fields, where, named=True))
        ours = f"{kind.__module__}.{kind.__name__}"
        if ours == "pipedag_dagster.context.ConfigContext":  # of an instance, what tasks may know
            return digest("instance", value.instance_id, self.value(value.attrs, f"{where}.attrs"))
        if ours in ("pipedag_dagster.graph.flow.Stage", "pipedag_dagster.graph.flow.Output"):
            return digest(ours, str(value))
        if ours == "pipedag_dagster.graph.tables.Table":
            return digest(ours, self._dict(vars(value), where, named=True))
        if is_library(kind):
            self._library(kind.__module__)
            if not self.data:
                return digest("data", kind.__name__)
            return self._content(content(value, silent=not self.strict), where)
        if isinstance(value, ATOMS):
            return digest(*self._class_of(value), self._content(content(value, silent=False), where))
        names = [name for one in kind.__mro__ for name in slots(one)]
        return digest(
            "instance", kind.__name__, *self._class_of(value), self._dict(state(value, names), where, named=True)
        )

    def _class_of(self, value: Any) -> list[str]:
        """The code of the class of a value, where it is the user's."""
        kind = type(value)
        if not self.code or is_library(kind):
            return []
        return [Walk().value(kind, kind.__qualname__) if self.strict else self._class(kind)]

    def _content(self, content: ValueContent, where: str) -> str:
        return digest(content.kind, *content.texts, *(self.value(part, where) for part in content.values))

    def _list(self, value: list[Any] | tuple[Any, ...], where: str) -> str:
        if set(map(type, value)) <= set(ATOMS):  # a million numbers
            text = repr(list(value))
            if not ADDRESS.search(text) and not self._folder:
                return digest("plain list", text)
        return digest("list", *(self.value(part, where) for part in value))

    def _dict(self, value: Mapping[Any, Any], where: str, *, named: bool = False) -> str:
        keys = sorted((self._alone(key, where), key) for key in value) if named else self._keys(value, where)
        parts = [
            f"{number}{self.value(value[key], f'{where}.{key}' if named else f'{where}[{key!r}]')}"
            for number, key in keys
        ]
        return digest("dict", *parts)

    def _keys(self, value: Mapping[Any, Any], where: str) -> list[tuple[str, Any]]:
        return sorted(((self._alone(key, where), key) for key in value), key=lambda pair: pair[0])

    def _alone(self, value: Any, where: str) -> str:
        """The digest of a value that has no place in an order: what was met before or after it makes no difference."""
        before = dict(self._numbers)
        try:
            return self.value(value, where)
        finally:
            self._numbers = before

    def _without_folder(self, value: str | pathlib.PurePath) -> ValueContent | None:
        """A path in the user's project, without where the project lies on this machine."""
        text = str(value)
        if self._folder is None or "\n" in text or not os.path.isabs(text):  # noqa: PTH117
            return None
        below = text == self._folder or text.startswith(f"{self._folder}{os.sep}")
        if not below and not self._relative:
            return None
        return ValueContent("path here", (pathlib.PurePath(os.path.relpath(text, self._folder)).as_posix(),))

    # Code

    def _code(self, value: Any, where: str) -> str | None:
        """The digest of a function, class or module, or of what is around one; None for data."""
        if isinstance(value, Task):
            return self.value(value.fn, where)
        if isinstance(value, types.FunctionType):
            return self._once(value, lambda: self._function(value))
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            return self._once(value, lambda: self._module(value))
        if isinstance(value, types.MethodType):
            return digest("method", self.value(value.__func__, where), self.value(value.__self__, where))
        if isinstance(value, staticmethod | classmethod):
            return digest(type(value).__name__, self.value(value.__func__, where))
        if isinstance(value, property):
            return digest("property", *(self.value(part, where) for part in (value.fget, value.fset, value.fdel)))
        if isinstance(value, functools.cached_property):
            return digest("cached property", self.value(value.func, where))
        if isinstance(value, functools.partial | functools.partialmethod):
            parts = (value.func, value.args, dict(value.keywords))
            return digest("partial", *(self.value(part, where) for part in parts))
        if isinstance(value, C_CODE):
            return self._c_code(value, where)
        if wrapped(value) is not None:
            self._library(type(value).__module__)
            return digest("wrapper", type(value).__qualname__, self.value(wrapped(value), where))
        return None

    def _once(self, value: Any, make: Callable[[], str]) -> str:
        if id(value) in self._numbers:
            return f"#{self._numbers[id(value)]}"
        self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)
        return make()

    def _class(self, kind: type) -> str:
        return self._once(kind, lambda: self._make_class(kind))

    def _library(self, module: str | None) -> None:
        self.libraries.add((module or "").partition(".")[0])

    def _c_code(self, value: Any, where: str) -> str:
        owner = getattr(value, "__self__", None)
        name = getattr(value, "__qualname__", type(value).__name__)
        if owner is not None and not isinstance(owner, types.ModuleType):
            return digest("bound", name, self.value(owner, f"{where}.__self__"))
        origin = str(getattr(value, "__module__", None) or getattr(value, "__objclass__", int).__module__)
        if not is_library_module(origin):
            self.unstable.setdefault(f"{origin}.{name}", "a C extension, whose source is not there")
        self._library(origin)
        return digest("library", origin, name)

    def _function(self, function: types.FunctionType) -> str:
        code, namespace = function.__code__, function.__globals__
        enclosed = closure(function)
        if in_library(code.co_filename) or (
            code.co_filename[0] == "<" and is_library_module(namespace.get("__name__"))
        ):
            self._library(namespace.get("__name__"))
            reached = [wrapped(function), *(enclosed[name] for name in sorted(enclosed))]
            inner = [self.value(part, code.co_qualname) for part in reached if holds_code(part)]
            return digest("library", str(namespace.get("__name__")), code.co_qualname, *inner)
        label = f"{namespace.get('__name__')}.{code.co_qualname}"
        source = code_source.of_function(function)
        before = self._folder, self._relative
        self._folder, self._relative = folder(code.co_filename), False
        if source is None:
            there = os.path.exists(code.co_filename) and code.co_name != "<lambda>"  # noqa: PTH110
            why = "code without source" if not there else "its file has changed since it was imported: start again"
            self.unstable.setdefault(label, why)
            parts = ["bytecode", *self._bytecode(code, label)]
            chains = chains_without_source(code, namespace, enclosed)
        else:
            self.sources.setdefault(label, source)
            self.libraries.update(origins(source.annotated, namespace))
            self._look_for_names(source, namespace, label)
            parts, chains = ["function", source.plain], list(source.chains)
            self._look_for_salt(source, namespace)
        local = {*code.co_varnames, *code.co_cellvars} - set(enclosed)
        for chain in chains:
            if chain[0] in enclosed:
                found = self._follow(enclosed[chain[0]], chain[1:], f"{label}: {chain[0]}", constant=chain[0])
            elif source is not None and chain[0] in source.imports:
                found = self._import(source.imports[chain[0]], chain, namespace)
            elif chain[0] in local:
                continue
            else:
                found = self._global(namespace, chain[0], chain[1:])
            parts.append(f"{'.'.join(chain)}={found}")
        for name, default in (("defaults", function.__defaults__), ("keywords", function.__kwdefaults__)):
            if default:
                parts.append(f"{name}={self.value(default, f'a default of {label}')}")
        self._folder, self._relative = before
        return digest(*parts)

    def _bytecode(self, code: types.CodeType, label: str) -> Iterator[str]:
        yield from (code.co_code.hex(), repr(code.co_names), repr(code.co_varnames))
        for part in code.co_consts:
            if isinstance(part, types.CodeType):
                yield from self._bytecode(part, label)
            else:
                yield self.value(part, label)

    def _make_class(self, kind: type) -> str:
        if is_library(kind):
            self._library(kind.__module__)
            return digest("library", kind.__module__, kind.__qualname__)
        module = sys.modules.get(kind.__module__)
        methods = [part for part in vars(kind).values() if isinstance(part, types.FunctionType)]
        namespace = vars(module) if module else methods[0].__globals__ if methods else {}
        source = class_source(kind, namespace)
        if source is None and issubclass(kind, tuple) and "_fields" in vars(kind):  # a namedtuple
            fields = [vars(kind).get(name) for name in ("_fields", "_field_defaults")]
            return digest("namedtuple", kind.__name__, self.value(fields, kind.__name__))
        label = f"{kind.__module__}.{kind.__qualname__}"
        parts = ["class", kind.__qualname__.rpartition(".")[2]]
        before = self._folder, self._relative
        self._folder = folder(namespace.get("__file__"))
        if source is not None:
            self.sources.setdefault(label, source)
            self._look_for_salt(source, namespace)
            parts.append(source.plain)
            parts += [f"{'.'.join(c)}={self._global(namespace, c[0], c[1:])}" for c in source.chains]
        parts += [self.value(base, label) for base in (*kind.__bases__, type(kind))]
        if source is None and issubclass(kind, enum.Enum):
            parts += [self.value({member.name: member.value for member in kind}, label)]
        for name, member in sorted(vars(kind).items()):
            found = self._member(name, member, kind, source is not None)
            parts += [] if found is None else [f"{name}={found}"]
        self._folder, self._relative = before
        return digest(*parts)

    def _member(self, name: str, member: Any, kind: type, has_source: bool) -> str | None:
        where = f"{kind.__module__}.{kind.__qualname__}.{name}"
        inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        if isinstance(inner, types.FunctionType) and isinstance(inspect.unwrap(inner), types.FunctionType):
            # What the library behind a class has put into it is another thing in every version of Python.
            added = is_generated(inspect.unwrap(inner), has_source) or not holds_code(inner)
            return None if added else self.value(member, where)
        if isinstance(member, type):
            return self.value(member, where) if member.__qualname__.startswith(f"{kind.__qualname__}.") else None
        if is_code(member):
            return None if isinstance(member, C_CODE) else self.value(member, where)
        if name in _NOT_MEMBERS or (name[:2] == "__" and name[-2:] == "__") or isinstance(member, enum.Enum):
            return None
        if isinstance(member, _DESCRIPTORS) or (issubclass(kind, enum.Enum) and name[:1] == name[-1:] == "_"):
            return None
        # Its source says what it is. It may have come from where the source of the class does not tell.
        known = dict(self.unstable)
        found = self.value(member, where)
        if has_source and len(self.unstable) > len(known):
            self.unstable = known
            return None
        return found

    def _module(self, module: types.ModuleType) -> str:
        """A module that is used as a value counts as a whole."""
        if is_library_module(module.__name__):
            self._library(module.__name__)
            return digest("library", module.__name__)
        found = code_source.module(getattr(module, "__file__", None), vars(module))
        if found is None:
            self.unstable.setdefault(module.__name__, "a module without source")
            return digest("module", module.__name__)
        source = found.whole()
        parts = [f"{'.'.join(c)}={self._global(vars(module), c[0], c[1:])}" for c in source.chains]
        parts += [
            f"{name}={self.value(value, f'{module.__name__}.{name}')}"
            for name, value in sorted(vars(module).items())
            if isinstance(value, types.FunctionType | type) and value.__module__ == module.__name__
        ]
        return digest("module", source.plain, *parts)

    # Names

    def _follow(self, value: Any, rest: Chain, where: str, *, constant: str | None = None) -> str:
        """What a name means, with the attributes that are taken of it, as far as they lead through modules."""
        if isinstance(value, types.ModuleType):
            if is_library_module(value.__name__):
                self._library(value.__name__)
                return "library"
            if rest:
                if rest[0] not in vars(value):
                    made = vars(value).get("__getattr__")
                    return "missing" if made is None else self.value(made, f"{value.__name__}.__getattr__")
                return self._global(vars(value), rest[0], rest[1:])
        found = self.value(value, where)
        if constant is not None and not is_code(value):
            self.constants.setdefault(where.replace(": ", "."), (value, None, found))
        return found

    def _global(self, namespace: dict[str, Any], name: str, rest: Chain) -> str:
        """What a name of a module means."""
        if name not in namespace or (name[:2] == "__" and name[-2:] == "__"):
            return "builtin" if hasattr(builtins, name) else "missing"
        value = namespace[name]
        if isinstance(value, types.ModuleType):
            return self._follow(value, rest, name)
        own = code_source.module(namespace.get("__file__"), namespace)
        origin = own.imports.get(name) if own else None
        if origin is not None and origin.name is not None:
            module = imported(origin, namespace)
            if module is not None and vars(module).get(origin.name, self) is value:
                if not is_library_module(module.__name__):
                    return self._global(vars(module), origin.name, rest)
                if not is_code(value):
                    self._library(module.__name__)
                    return "library"
        for star in own.stars if own and name not in own.assigned else ():
            module = imported(star, namespace)
            if (
                module is not None
                and vars(module).get(name, self) is value
                and module is not sys.modules.get(str(namespace.get("__name__")))
            ):
                return "library" if is_library_module(module.__name__) else self._global(vars(module), name, rest)
        label = f"{namespace.get('__name__')}.{name}"
        if is_code(value):
            return self.value(value, label)
        return self._constant(value, name, own, namespace, label)

    def _constant(
        self, value: Any, name: str, own: code_source.Module | None, namespace: dict[str, Any], label: str
    ) -> str:
        source = own.of_constant(name) if own else None
        before = self._folder, self._relative
        self._folder = folder(namespace.get("__file__"))
        self._relative = own is not None and mentions_file(own, name)
        if source is not None:
            self._look_for_salt(source, namespace, label)
            call = momentary(source)
            if call and not self.strict:
                self.unstable.setdefault(label, f"made by {call}(), which is another value in every process")
        if label in self.unstable and source is not None:
            found = digest("expression", source.plain)
        else:
            found = self.value(value, label)
        self._folder, self._relative = before
        self.constants.setdefault(label, (value, source, found))
        return found

    def _import(self, what: code_source.Import, chain: Chain, namespace: dict[str, Any]) -> str:
        """A name that a function imports itself. The user's own modules are imported now: it would do so anyway."""
        module = imported(what, namespace)
        if module is None:
            if not is_library_module(what.module):
                self.unstable.setdefault(what.module, "a module that cannot be imported here")
            return "missing"
        if what.name is None:
            return self._follow(module, chain[1:], chain[0])
        if is_library_module(module.__name__):
            self._library(module.__name__)
            return "library"
        if what.name not in vars(module):
            inner = imported(code_source.Import(f"{module.__name__}.{what.name}", None), namespace)
            return "missing" if inner is None else self._follow(inner, chain[1:], chain[0])
        return self._global(vars(module), what.name, chain[1:])

    def _look_for_names(self, source: CodeSource, namespace: Mapping[str, Any], label: str) -> None:
        """Code that finds other code by its name in a text reaches what nobody can see."""
        for chain in sorted({*source.called, *source.chains}):
            if chain[-1] == "__subclasses__" or (chain in _BY_NAME and (len(chain) > 1 or chain[0] not in namespace)):
                self.unstable.setdefault(label, f"finds code by its name, with {'.'.join(chain)}")

    def _look_for_salt(self, source: CodeSource, namespace: Mapping[str, Any], label: str | None = None) -> None:
        for chain, line in source.called.items():
            if chain in (("hash",), ("id",)) and chain[0] not in namespace:
                self.salted.append(f"{chain[0]}() in {source.file}:{line}")
                if label is not None and not self.strict:
                    self.unstable.setdefault(label, f"made by {chain[0]}(), which is another value in every process")
