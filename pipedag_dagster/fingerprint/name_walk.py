"""What a name in the user's code means: followed through modules, imports and attributes."""

from __future__ import annotations

import builtins
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from pipedag_dagster.digest import digest
from pipedag_dagster.fingerprint.code_kinds import holds_code, is_code
from pipedag_dagster.fingerprint.code_source import CodeFile, CodeSource, code_file, mentions_file
from pipedag_dagster.fingerprint.import_statement import Import, imported, load
from pipedag_dagster.fingerprint.reflection import in_reflective_module, is_reflective_builtin, reflective_name
from pipedag_dagster.fingerprint.syntax_reader import Chain, names_in_text
from pipedag_dagster.fingerprint.value_walk import ValueWalk

# What every module has. `__file__` counts where it is used: a path is taken relative to it.
_OF_MODULES = {
    *("__name__", "__file__", "__package__", "__path__", "__cached__", "__debug__", "__builtins__", "__spec__"),
    *("__loader__", "__annotations__", "__doc__", "__dict__"),
}
# Calls that return something else in every process, by their last name.
_MOMENTARY = {"now", "utcnow", "today", "time_ns", "monotonic", "perf_counter", "uuid1", "uuid4", "getpid", "urandom"}
_MISSING = object()


class NameWalk(ValueWalk):
    """The part of the walk that follows names."""

    def _names(
        self, source: CodeSource, namespace: dict[str, Any], label: str, enclosed: Mapping[str, Any] | None = None
    ) -> Iterator[str]:
        """What the names in some source mean, and what else is known of it."""
        enclosed = enclosed or {}
        self.attributes |= source.attributes
        self._look_for_salt(source, namespace)
        for why, line in source.opaque.items():
            self._is_opaque(f"{why} in line {line}")
        for chain in source.chains:
            self._line = source.called.get(chain)
            if chain[0] in enclosed:
                name = chain[0]
                yield f"{'.'.join(chain)}={self._follow(enclosed[name], chain, f'{label}: {name}', constant=name)}"
                continue
            if chain[0] in source.imports:
                yield f"{'.'.join(chain)}={self._import(source.imports[chain[0]], chain, namespace)}"
                if chain[0] not in namespace:
                    continue
            yield f"{'.'.join(chain)}={self._global(namespace, chain)}"
        for chain, line in source.text_queries.items():
            yield from self._text_query(chain, enclosed, namespace, line)
        self._line = None

    def _text_query(
        self, chain: Chain, enclosed: Mapping[str, Any], namespace: dict[str, Any], line: int
    ) -> Iterator[str]:
        """`df.query(CONDITION)`: the names in the text of a constant."""
        value: Any = enclosed.get(chain[0], namespace.get(chain[0], _MISSING))
        for name in chain[1:]:
            value = inspect.getattr_static(value, name, _MISSING)
        if isinstance(value, str):
            for name in names_in_text(value):
                yield f"@{name}={self._global(namespace, (name,))}"
        elif value is _MISSING:
            self._is_opaque(f"a query by the text {'.'.join(chain)} in line {line}")

    def _follow(self, value: Any, chain: Chain, where: str, *, constant: str | None = None) -> str:
        """What a value is, with the attributes that are taken of it, as far as they lead through modules."""
        rest = chain[1:]
        if isinstance(value, types.ModuleType):
            if self.user_code.is_library_module(value.__name__):
                return self._of_library_module(value, chain)
            if rest:
                return self._of_user_module(value, chain)
        found = self.value(value, where)
        if constant is not None and not is_code(value, self.user_code):
            self.constants.setdefault(where.replace(": ", "."), (value, None, found))
        return found

    def _of_user_module(self, module: types.ModuleType, chain: Chain) -> str:
        name = chain[1]
        if name in vars(module) and name not in _OF_MODULES:
            return self._global(vars(module), chain[1:])
        inner = load(f"{module.__name__}.{name}", "", self.user_code) if "__path__" in vars(module) else None
        if inner is not None:
            return self._follow(inner, chain[1:], name)
        if name in ("__name__", "__file__", "__package__"):
            return "module name"
        self.opaque.setdefault(module.__name__, f"{'.'.join(chain)}, which is not a name that it defines")
        return "missing"

    def _of_library_module(self, module: types.ModuleType, chain: Chain) -> str:
        """A name of a library is not looked into, but when someone has put the user's code there."""
        self._library(module.__name__)
        rest = chain[1:]
        if in_reflective_module(rest, module.__name__) or (not rest and reflective_name(module)):
            self._is_opaque(f"{'.'.join(chain)}")
        value: Any = module
        for name in rest:
            value = inspect.getattr_static(value, name, None)
            value = getattr(module, name, None) if isinstance(value, staticmethod | classmethod) else value
            why = reflective_name(value) if not isinstance(value, types.ModuleType) else None
            if why:
                self._is_opaque(f"{why}()")
            if isinstance(value, type | types.FunctionType | property) and holds_code(value, self.user_code):
                return self.value(value, ".".join(chain))
        if module.__name__ == "builtins" and rest and is_reflective_builtin(rest[0]):
            self._is_opaque(f"{rest[0]}()")
        return "library"

    def _global(self, namespace: dict[str, Any], chain: Chain) -> str:
        """What a name of a module means."""
        name = chain[0]
        if name in ("__doc__", "__annotations__", "__dict__", "__loader__", "__spec__", "__builtins__"):
            self.opaque.setdefault(str(namespace.get("__name__")), name)
        if name not in namespace or name in _OF_MODULES:
            if hasattr(builtins, name):
                if is_reflective_builtin(name):
                    self._is_opaque(f"{name}()")
                return "builtin"
            return "missing"
        value = namespace[name]
        if isinstance(value, types.ModuleType):
            return self._follow(value, chain, name)
        own = code_file(namespace.get("__file__"), namespace)
        elsewhere = self._from_elsewhere(own, name, value, namespace)
        if elsewhere is not None:
            module, its_name = elsewhere
            if not self.user_code.is_library_module(module.__name__):
                return self._global(vars(module), (its_name, *chain[1:]))
            why = reflective_name(value)
            if why:
                self._is_opaque(f"{why}()")
            if not is_code(value, self.user_code):
                self._library(module.__name__)
                return "library"
        label = f"{namespace.get('__name__')}.{name}"
        with self._inside(namespace, namespace.get("__file__")):
            if is_code(value, self.user_code):
                return self.value(value, label)
            return self._constant(value, name, own, namespace, label)

    def _from_elsewhere(
        self, own: CodeFile | None, name: str, value: Any, namespace: dict[str, Any]
    ) -> tuple[types.ModuleType, str] | None:
        """The module that a name was imported from, and its name there, as long as it means the same there."""
        if own is None:
            return None
        origin = own.imports.get(name)
        if origin is not None and origin.name is not None:
            module = imported(origin, namespace, self.user_code)
            if module is not None and vars(module).get(origin.name, self) is value and vars(module) is not namespace:
                return module, origin.name
        for star in own.stars if name not in own.assigned else ():
            module = imported(star, namespace, self.user_code)
            own_module = module is sys.modules.get(str(namespace.get("__name__")))
            if module is not None and not own_module and vars(module).get(name, self) is value:
                return module, name
        return None

    def _constant(self, value: Any, name: str, own: CodeFile | None, namespace: dict[str, Any], label: str) -> str:
        source = own.of_constant(name) if own else None
        relative = own is not None and mentions_file(own, name)
        with self._inside(namespace, namespace.get("__file__"), relative):
            if source is not None:
                self._look_for_salt(source, namespace, label)
                call = _momentary(source)
                if call and not self.strict:
                    why = f"made by {call}(), which is another value in every process"
                    self.unstable.setdefault(label, why)
            known, self._hides_code = len(self.unstable), False
            found = "" if source is not None and label in self.unstable else self.value(value, label)
            if source is not None and (len(self.unstable) > known or not found or self._hides_code):
                # Then how it is made counts as well. Its name may stand in what it is made of.
                names = [] if label in self.constants else self._names(source, namespace, label)
                self.constants.setdefault(label, (value, source, ""))
                found = digest("expression", source.plain, found, *names)
        self.constants[label] = (value, source, found)
        return found

    def _import(self, what: Import, chain: Chain, namespace: dict[str, Any]) -> str:
        """A name that a function imports itself. The user's own modules are imported now: it would do so anyway."""
        module = imported(what, namespace, self.user_code)
        if module is None:
            if not self.user_code.is_library_module(what.module):
                self.unstable.setdefault(what.module, "a module that cannot be imported here")
            return "missing"
        if what.name is None:
            return self._follow(module, (what.module, *chain[1:]), chain[0])
        if self.user_code.is_library_module(module.__name__):
            return self._of_library_module(module, (module.__name__, what.name, *chain[1:]))
        return self._of_user_module(module, (module.__name__, what.name, *chain[1:]))

    def _look_for_salt(self, source: CodeSource, namespace: Mapping[str, Any], label: str | None = None) -> None:
        for chain, line in source.called.items():
            if chain in (("hash",), ("id",)) and chain[0] not in namespace:
                place = f"{chain[0]}() in {source.file}:{line}"
                self.salted += [] if place in self.salted else [place]
                if label is not None and not self.strict:
                    self.unstable.setdefault(label, f"made by {chain[0]}(), which is another value in every process")


def _momentary(source: CodeSource) -> str | None:
    for chain in source.called:
        if chain[-1] in _MOMENTARY or chain == ("time", "time") or chain[0] in ("random", "secrets"):
            return ".".join(chain)
    return None
