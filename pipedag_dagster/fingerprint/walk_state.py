"""What a walk has met so far, and where it is."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from pipedag_dagster.fingerprint.code_source import CodeSource
from pipedag_dagster.fingerprint.module_origin import UserCode, default_user_code, folder


class WalkState(ABC):
    """
    strict: values without stable content are refused.
    code: whether the code of the classes of values counts.
    data: whether the content of objects of libraries counts.

    libraries: the first names of the libraries that were met.
    unstable: what has no stable content, by name, and why.
    salted: where values are used that are others in every process.
    sources, constants: what was met of the user's code, by its name; for people.
    classes: the user's classes that were met, by their names.
    opaque: the modules that count as a whole, and why.
    whole: a digest of each of them.
    modules: the names of the user's modules that something was met of.
    attributes: the names of attributes that the code uses.
    """

    def __init__(
        self, user_code: UserCode | None = None, *, strict: bool = False, code: bool = True, data: bool = True
    ) -> None:
        self.user_code = user_code or default_user_code()
        self.strict = strict
        self.code = code
        self.data = data
        self.libraries: set[str] = set()
        self.unstable: dict[str, str] = {}
        self.salted: list[str] = []
        self.sources: dict[str, CodeSource] = {}
        self.constants: dict[str, tuple[Any, CodeSource | None, str]] = {}
        self.classes: dict[str, type] = {}
        self.opaque: dict[str, str] = {}
        self.whole: dict[str, str] = {}
        self.modules: set[str] = set()
        self.attributes: set[str] = set()
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # an object that is gone could lend its id to another one
        self._busy: dict[int, int] = {}
        self._module: str | None = None
        self._hides_code = False  # of an expression of polars, which keeps Python functions as bytes
        self._line: int | None = None  # of the call that the walk follows
        self._folder: str | None = None  # paths below it are relative to it
        self._relative = False  # all other paths too

    @abstractmethod
    def value(self, value: Any, where: str) -> str:
        """A digest of a value; `where` names it for people."""

    def _library(self, module: str | None) -> None:
        self.libraries.add((module or "").partition(".")[0])

    def _is_opaque(self, why: str) -> None:
        """The module that the walk is in counts as a whole."""
        if self._module is not None:
            self.opaque.setdefault(self._module, why if self._line is None else f"{why} in line {self._line}")

    @contextlib.contextmanager
    def _inside(self, namespace: dict[str, Any], file: str | None, relative: bool = False) -> Iterator[None]:
        """What is met now lies in a module."""
        before = self._module, self._folder, self._relative
        self._module, self._folder, self._relative = str(namespace.get("__name__")), folder(file), relative
        self.modules.add(self._module)
        try:
            yield
        finally:
            self._module, self._folder, self._relative = before

    def _once(self, value: Any, make: Callable[[], str]) -> str:
        """Functions and classes count where they are met first, and by their number where they are met again."""
        if id(value) in self._numbers:
            return f"#{self._numbers[id(value)]}"
        self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)
        return make()

    def _alone(self, value: Any, where: str) -> str:
        """The digest of a value that has no place in an order: what was met before or after it makes no difference."""
        before = dict(self._numbers)
        try:
            return self.value(value, where)
        finally:
            self._numbers = before

    def _stable(self, value: Any, where: str) -> str | None:
        """The digest of a value that counts only when it has a stable content."""
        unstable, strict = dict(self.unstable), self.strict
        self.strict = False
        try:
            found = self.value(value, where)
        finally:
            self.strict = strict
        if len(self.unstable) == len(unstable):
            return found
        self.unstable = unstable
        return None
