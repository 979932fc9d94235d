"""From a function to all that it reaches: the walk behind fingerprints and content hashes."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

from pipedag_dagster.digest import digest
from pipedag_dagster.fingerprint.code_kinds import holds_code, is_code
from pipedag_dagster.fingerprint.code_source import code_file
from pipedag_dagster.fingerprint.code_walk import CodeWalk
from pipedag_dagster.fingerprint.import_effects import import_effects, loaded_modules
from pipedag_dagster.fingerprint.library_extensions import extensions
from pipedag_dagster.fingerprint.value_content import ADDRESS, ATOMS, Unstable, content
from pipedag_dagster.fingerprint.whole_module import whole_module

_BUDGET = 20_000  # values in one constant of a module that counts as a whole


class TooLarge(Exception):
    """A constant holds more than is looked at."""


class Walk(CodeWalk):
    """Goes from a value to all that it reaches, depth first and in an order that depends on names only.

    Functions and classes are counted where they are met first, and by their number where they are met again: that ends
    recursion, and nothing depends on where objects lie in memory.
    """

    budget: int | None = None

    def value(self, value: Any, where: str) -> str:
        if self.budget is not None:
            self.budget -= 1
            if self.budget < 0:
                raise TooLarge
        if type(value) in ATOMS and not isinstance(value, str):
            return digest(type(value).__name__, repr(value))
        if type(value) is str and self._folder is None and not ADDRESS.search(value):  # most values: without detours
            self._library(str.__module__)
            return self._content(content(value, silent=not self.strict), where)
        if id(value) in self._busy:
            return f"cycle {len(self._busy) - self._busy[id(value)]}"
        if self.strict and is_code(value, self.user_code):
            return Walk(self.user_code).code_digest(value, where)
        code = self._code(value, where)
        if code is not None:
            return code
        self._busy[id(value)] = len(self._busy)
        try:
            return self._data(value, where)
        except Unstable as problem:
            return self._refuse(value, where, problem)
        finally:
            self._busy.pop(id(value), None)

    def code_digest(self, value: Any, where: str) -> str:
        """A digest of code and of everything that it reaches, also in ways that no name in it shows."""
        found = self.value(value, where)
        beyond = list(self._beyond())
        self.whole = {name: self._whole_module(name) for name in sorted(self.opaque)}
        return digest(found, *beyond, *self.whole.values()) if beyond or self.whole else found

    def _beyond(self) -> Iterator[str]:
        """What is reached not by a name: what modules do when they are imported, what the user's code has added to the
        classes of libraries, the classes that extend others."""
        done: set[str] = set()
        before = -1
        while before != len(done):
            before = len(done)
            for module in loaded_modules(self.modules, self.user_code):
                if module.__name__ not in done:
                    done.add(module.__name__)
                    yield from self._effects(module)
            names = self.attributes - done
            done |= names
            for label, value in extensions(names):
                if holds_code(value, self.user_code) and is_code(value, self.user_code):
                    yield f"{label}={self.value(value, label)}"
            if "__subclasses__" in self.attributes:
                yield from self._subclasses(done)

    def _effects(self, module: types.ModuleType) -> Iterator[str]:
        namespace = vars(module)
        file = code_file(namespace.get("__file__"), namespace)
        nodes = import_effects(file, namespace, self.user_code) if file else ()
        if file and nodes:
            source = file.read(*nodes)
            with self._inside(namespace, file.file):
                yield digest("effects", source.plain, *self._names(source, namespace, module.__name__))

    def _subclasses(self, done: set[str]) -> Iterator[str]:
        """`Base.__subclasses__()` finds classes that no name leads to."""
        for label, kind in sorted(self.classes.items()):
            if f"class {label}" not in done:
                done.add(f"class {label}")
                inner: list[type] = kind.__subclasses__()
                for one in sorted(inner, key=lambda one: (one.__module__, one.__qualname__)):
                    if not self.user_code.is_library(one):
                        yield f"{one.__qualname__}={self.value(one, label)}"

    def _whole_module(self, name: str) -> str:
        loaded = loaded_modules({name}, self.user_code)
        return digest(whole_module(name, self.user_code), *map(self._constants_of, loaded))

    def _constants_of(self, module: types.ModuleType) -> str:
        """The values of the constants of a module that have a stable content."""
        walk = Walk(self.user_code, data=self.data)
        own = code_file(vars(module).get("__file__"), vars(module))
        parts = []
        for name, value in sorted(vars(module).items()):
            if name[:2] == name[-2:] == "__" or isinstance(value, types.ModuleType) or is_code(value, self.user_code):
                continue
            label = f"{module.__name__}.{name}"
            known = set(walk.unstable)
            walk.budget = _BUDGET
            try:
                found = walk._constant(value, name, own, vars(module), label)
            except TooLarge:
                continue
            parts += [f"{name}={found}"] if known == set(walk.unstable) else []
        return digest(*parts)
