"""What values hold: the class of a value comes before its content, and the order of its elements counts."""

from __future__ import annotations

import datetime
import decimal
import enum
import os
import pathlib
import re
import types
import uuid
from collections.abc import Mapping
from typing import Any

from pipedag_dagster.config.attrs import Attrs
from pipedag_dagster.digest import HasContent, digest
from pipedag_dagster.errors import WiringError
from pipedag_dagster.fingerprint.frame_content import frame_content
from pipedag_dagster.fingerprint.value_content import (
    ADDRESS,
    ATOMS,
    Unstable,
    ValueContent,
    base_content,
    content,
    enum_content,
    path_content,
    state,
)
from pipedag_dagster.fingerprint.walk_state import WalkState

_HEAP = 1 << 9  # in the flags of a class: it was made by Python code
_ATOMS = frozenset((*ATOMS, datetime.date, datetime.timedelta, decimal.Decimal, uuid.UUID))
"""The classes whose objects are all told by their `repr`, also in a list of them."""
_ABSOLUTE = re.compile(rf"""['"](?:{re.escape(os.sep)}|[A-Za-z]:)""")
_OF_ENUMS = {"_value_", "_name_", "__objclass__", "_sort_order_", "_hashable_values_", "_unhashable_values_"}


class ValueWalk(WalkState):
    """The part of the walk that goes through data."""

    def _data(self, value: Any, where: str) -> str:
        kind = type(value)
        if kind is list or kind is tuple:
            return self._list(value, where)
        if kind is set or kind is frozenset:
            return digest(kind.__name__, *sorted(self._alone(part, where) for part in value))
        if kind is dict or kind is types.MappingProxyType:
            return self._dict(value, where)
        if kind is Attrs:
            return self._dict(dict(value), where)
        if isinstance(value, enum.Enum):
            more = {name: part for name, part in vars(value).items() if name not in _OF_ENUMS}
            own = self._class_of(value)
            return digest(*own, self._content(enum_content(value, sorted(more.items())), where))
        here = self._without_folder(value) if isinstance(value, str | pathlib.PurePath) else None
        if self.user_code.is_library(kind):
            return self._of_library(value, here, where)
        return self._instance(value, here, where)

    def _of_library(self, value: Any, here: ValueContent | None, where: str) -> str:
        kind = type(value)
        if hasattr(type(value), "content_for_hash"):
            own: HasContent = value
            return digest(type(value).__name__, self.value(own.content_for_hash(), where))
        self._library(kind.__module__)
        if kind.__name__ == "Expr" and kind.__module__.partition(".")[0] == "polars":
            self._hides_code = True
        if here is not None:
            return self._content(here, where)
        found = frame_content(value) if self.data or _holds_objects(value) else None
        if found is None and not self.data and _is_large_kind(kind):
            return digest("data", type(value).__name__)
        return self._content(found or content(value, silent=not self.strict), where)

    def _instance(self, value: Any, here: ValueContent | None, where: str) -> str:
        """An object of a user's class: the class, what it holds as a list or the like, and its attributes."""
        kind = type(value)
        parts = ["instance", kind.__name__, *self._class_of(value)]
        base = here or base_content(value, frame_content)
        if base is not None:
            parts.append(self._content(base, where))
        kept, left_out = state(value, self.user_code.is_library)
        if _is_large_kind(kind):  # a frame keeps its own content in attributes of its own
            kept = {name: part for name, part in kept.items() if name[:1] != "_"}
        parts.append(self._attributes(kept, where))
        for name, part in sorted(left_out.items()):
            found = self._stable(part, f"{where}.{name}")
            parts += [] if found is None else [name, found]
        if base is None and not kept and _is_made_in_c(kind, self.user_code.is_library):
            parts.append(self._content(content(value, silent=not self.strict), where))
        return digest(*parts)

    def _class_of(self, value: Any) -> list[str]:
        """The code of the class of a value, where it is the user's."""
        kind = type(value)
        if self.user_code.is_library(kind):
            return []
        self.classes.setdefault(f"{kind.__module__}.{kind.__qualname__}", kind)
        return [self.value(kind, kind.__qualname__)] if self.code else [kind.__qualname__]

    def _content(self, content: ValueContent, where: str) -> str:
        if content.is_set:
            return digest(content.kind, *content.texts, *sorted(self._alone(part, where) for part in content.values))
        values = [
            self._content(part, where) if isinstance(part, ValueContent) else self.value(part, where)
            for part in content.values
        ]
        return digest(content.kind, *content.texts, *values)

    def _list(self, value: list[Any] | tuple[Any, ...], where: str) -> str:
        name = type(value).__name__
        if _ATOMS.issuperset(map(type, value)):  # a million numbers
            text = repr(list(value))
            if not ADDRESS.search(text) and not (self._folder and _ABSOLUTE.search(text)):
                return digest("plain", name, text)
        return digest(name, *(self.value(part, where) for part in value))

    def _dict(self, value: Mapping[Any, Any], where: str) -> str:
        name = type(value).__name__
        if _ATOMS.issuperset(map(type, value)) and _ATOMS.issuperset(map(type, value.values())):
            text = repr(list(value.items()))
            if not ADDRESS.search(text) and not (self._folder and _ABSOLUTE.search(text)):
                return digest("plain", name, text)
        items = ((key, part) for key, part in value.items() if key != "__builtins__" or type(key) is not str)
        parts = (self.value(key, where) + self.value(part, f"{where}[{key!r}]") for key, part in items)
        return digest(name, *parts)

    def _attributes(self, value: Mapping[str, Any], where: str) -> str:
        """Attributes by their names; in which order they were set does not count."""
        return digest("attributes", *(f"{name}{self.value(value[name], f'{where}.{name}')}" for name in sorted(value)))

    def _without_folder(self, value: str | pathlib.PurePath) -> ValueContent | None:
        """A path in the user's project, without where the project lies on this machine."""
        text = str.__str__(value) if isinstance(value, str) else pathlib.PurePath.__str__(value)
        if self._folder is None or "\n" in text or not os.path.isabs(text):  # noqa: PTH117
            return None
        below = text == self._folder or text.startswith(f"{self._folder}{os.sep}")
        if not below and not self._relative:
            return None
        relative = pathlib.PurePath(os.path.relpath(text, self._folder))
        kind = "text" if isinstance(value, str) else path_content(value).kind
        return ValueContent(f"{kind} here", (relative.as_posix(),))

    def _refuse(self, value: Any, where: str, problem: Unstable) -> str:
        if self.strict:
            raise WiringError(
                f"{where}: {problem} has no content that is the same in every process, so it cannot tell whether a "
                "task must run again. Use plain values (texts, numbers, dates, lists, dicts, dataclasses, DataFrames)."
            )
        self.unstable.setdefault(where, str(problem))
        return digest("object", type(value).__qualname__)


def _is_large_kind(kind: type) -> bool:
    return any(one.__module__.partition(".")[0] in ("pandas", "numpy", "polars", "pyarrow") for one in kind.__mro__)


def _holds_objects(value: Any) -> bool:
    """Whether a frame or array may hold objects of the user's classes."""
    dtypes = getattr(value, "dtypes", None)
    kinds = list(dtypes) if dtypes is not None and hasattr(dtypes, "__iter__") else [getattr(value, "dtype", None)]
    return any(getattr(kind, "hasobject", False) or str(kind) == "Object" for kind in kinds)


def _is_made_in_c(kind: type, is_library: Any) -> bool:
    """Whether a class extends one that keeps its content where Python cannot see it."""
    return any(is_library(base) and not base.__flags__ & _HEAP for base in kind.__mro__ if base is not object)
