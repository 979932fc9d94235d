"""Values in nested lists, tuples, dicts and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

Path: TypeAlias = tuple[int | str, ...]
"""Where something is in a nested value: positions, and keys of dicts or fields. () is the value itself."""

_T = TypeVar("_T")


def parts(value: Any) -> Iterable[Any]:
    """The values directly inside of a value.

    >>> list(parts({"a": 1, "b": [2]}))
    [1, [2]]
    """
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return ()


def find(value: Any, cls: type[_T]) -> Iterator[_T]:
    """All objects of a class in a nested value.

    >>> list(find([1, {"a": ("b", 2)}], int))
    [1, 2]
    """
    if isinstance(value, cls):
        yield value
    else:
        for part in parts(value):
            yield from find(part, cls)


def replace(value: Any, cls: type[_T], function: Callable[[_T], Any]) -> Any:
    """`value` with `function` called on the objects of a class in it. What has none of them is the same object.

    >>> replace([1, {"a": ("b", 2)}], int, lambda number: number + 1)
    [2, {'a': ('b', 3)}]
    """
    if isinstance(value, cls):
        return function(value)
    if not any(True for _ in find(value, cls)):
        return value
    if isinstance(value, dict):
        return {key: replace(part, cls, function) for key, part in value.items()}
    replaced = [replace(part, cls, function) for part in parts(value)]
    if isinstance(value, list):
        return replaced
    if isinstance(value, tuple):
        return value._make(replaced) if hasattr(value, "_make") else tuple(replaced)
    result = copy.copy(value)
    for field, part in zip(dataclasses.fields(value), replaced, strict=True):
        object.__setattr__(result, field.name, part)
    return result
