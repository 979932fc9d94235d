"""Values that are not tables, as JSON. They come back equal, and of the same types.

Plain JSON has no tuples, dataclasses, NaN, or keys that are not text. These become objects with one key that begins
with `$`. `{"$output": name}` stands for something that is stored elsewhere: a table, a blob, or another value.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import importlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from pipedag_dagster.config.attrs import Attrs
from pipedag_dagster.errors import TaskFailed

Path: TypeAlias = tuple[int | str, ...]
OfScript: TypeAlias = Callable[[str, dict[str, Any]], Any]
LARGEST = 1_000_000
"""The most characters of JSON that a value may have. Larger values belong into a blob."""


class NotJson(Exception):
    """The value cannot be kept as JSON."""


def output(name: str) -> dict[str, str]:
    """The node that stands for something stored under `name`."""
    return {"$output": name}


def script(name: str, tables: dict[str, Any]) -> dict[str, Any]:
    """The node that stands for a script with the tables that it has made."""
    return {"$script": name, "$tables": tables}


def encode(value: Any, path: Path, part: Callable[[Any, Path], Any]) -> Any:
    """One level of `value` as JSON. `part` is called for each value in it, with its path.

    Raises:
        NotJson: the value cannot become JSON, or would come back as something else.

    >>> encode((1, float("nan")), (), lambda part, path: encode(part, path, None))
    {'$tuple': [1, {'$float': 'nan'}]}
    """
    value = value.item() if isinstance(value, np.number | np.bool_) else value
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is list:
        return [part(one, (*path, number)) for number, one in enumerate(value)]
    if kind is tuple:
        return {"$tuple": [part(one, (*path, number)) for number, one in enumerate(value)]}
    if kind is dict or kind is Attrs:
        keys = [key.item() if isinstance(key, np.number | np.bool_) else key for key in value]
        if not all(key is None or type(key) in (bool, int, str) for key in keys):
            raise NotJson("a dict whose keys are neither text nor whole numbers")
        parts = [(key, part(one, (*path, key))) for key, one in zip(keys, value.values(), strict=True)]
        if all(isinstance(key, str) and not key.startswith("$") for key in keys):
            return dict(parts)
        return {"$dict": [list(pair) for pair in parts]}
    if kind in _TEXTS:
        return {f"${kind.__name__}": _TEXTS[kind][0](value)}
    if isinstance(value, pathlib.PurePath) and kind.__module__.startswith("pathlib"):
        return {"$Path" if isinstance(value, pathlib.Path) else "$PurePath": str(value)}
    if isinstance(value, enum.Enum) and "<locals>" not in kind.__qualname__:
        return {"$enum": f"{kind.__module__}:{kind.__qualname__}", "$name": value.name}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        names = value._fields
    elif dataclasses.is_dataclass(value):
        names = [one.name for one in dataclasses.fields(value)]
    else:
        raise NotJson(kind.__name__)
    if "<locals>" in kind.__qualname__:
        raise NotJson(f"{kind.__name__}, whose class is defined inside a function, so it cannot be imported")
    fields = {name: part(getattr(value, name), (*path, name)) for name in names}
    return {"$class": f"{kind.__module__}:{kind.__qualname__}", "$fields": fields}


def decode(node: Any, read: Callable[[str], Any], of_script: OfScript = lambda name, tables: tables) -> Any:
    """The value that `node` was made of.

    Args:
        read: returns what an `$output` stands for.
        of_script: returns the object for a script with this name and these tables.

    Raises:
        TaskFailed: the class of an object in it no longer exists.

    >>> decode({"$tuple": [1, {"$output": "orders"}]}, str.upper)
    (1, 'ORDERS')
    """
    if isinstance(node, list):
        return [decode(part, read, of_script) for part in node]
    if not isinstance(node, dict):
        return node
    if "$output" in node:
        return read(node["$output"])
    if "$float" in node:
        return float(node["$float"])
    if "$tuple" in node:
        return tuple(decode(part, read, of_script) for part in node["$tuple"])
    if "$dict" in node:
        return {key: decode(part, read, of_script) for key, part in node["$dict"]}
    for name, read_text in _BY_NAME.items():
        if name in node:
            return read_text(node[name])
    if "$enum" in node:
        return _member(_class(node["$enum"]), node["$name"])
    if "$script" in node:
        return of_script(node["$script"], decode(node["$tables"], read, of_script))
    if "$class" in node:
        return _object(node["$class"], {name: decode(part, read, of_script) for name, part in node["$fields"].items()})
    return {key: decode(part, read, of_script) for key, part in node.items()}


def _duration(text: str) -> dt.timedelta:
    return dt.timedelta(*map(int, text.split()))


_TEXTS: dict[type, tuple[Callable[[Any], str], Callable[[str], Any]]] = {
    dt.date: (dt.date.isoformat, dt.date.fromisoformat),
    dt.datetime: (dt.datetime.isoformat, dt.datetime.fromisoformat),
    dt.time: (dt.time.isoformat, dt.time.fromisoformat),
    dt.timedelta: (lambda value: f"{value.days} {value.seconds} {value.microseconds}", _duration),
    decimal.Decimal: (str, decimal.Decimal),
}
"""Classes whose objects are kept as texts."""

_BY_NAME: dict[str, Callable[[str], Any]] = {f"${cls.__name__}": read for cls, (_, read) in _TEXTS.items()}
_BY_NAME |= {"$Path": pathlib.Path, "$PurePath": pathlib.PurePath}


def _member(kind: Any, name: str) -> Any:
    try:
        return kind[name]
    except (KeyError, TypeError):
        raise TaskFailed(f"A value cannot be read, because {kind!r} no longer has the member {name!r}.") from None


def _class(name: str) -> Any:
    module, _, qualname = name.partition(":")
    try:
        kind: Any = importlib.import_module(module)
        for part in qualname.split("."):
            kind = getattr(kind, part)
    except (ImportError, AttributeError) as error:
        raise TaskFailed(f"A value cannot be read, because its class {name} no longer exists: {error}.") from error
    return kind


def _object(name: str, fields: dict[str, Any]) -> Any:
    kind = _class(name)
    if isinstance(kind, type) and hasattr(kind, "_make"):
        return kind._make(fields.values())
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise TaskFailed(f"A value cannot be read, because {name} is no longer a dataclass.")
    restored = object.__new__(kind)  # as pickle does: the values were checked when the original was created
    for field, value in fields.items():
        object.__setattr__(restored, field, value)
    return restored


def at(node: Any, path: Path) -> tuple[Any, Path]:
    """The node at `path` in an encoded value, and the rest of the path if it leads into an `$output`.

    Raises:
        LookupError: there is no such part.
    """
    for number, key in enumerate(path):
        if isinstance(node, dict) and "$output" in node:
            return node, path[number:]
        node = _part(node, key)
    return node, ()


def _part(node: Any, key: int | str) -> Any:
    if isinstance(node, dict) and "$tuple" in node:
        node = node["$tuple"]
    if isinstance(node, list):
        if isinstance(key, int) and -len(node) <= key < len(node):
            return node[key]
        raise LookupError(key)
    if isinstance(node, dict) and not node.keys() & {"$float", "$enum", *_BY_NAME}:
        named = next((node[inner] for inner in ("$fields", "$tables") if inner in node), node)
        pairs = node["$dict"] if "$dict" in node else list(named.items())
        folded = key.lower() if isinstance(key, str) else key
        same = [part for other, part in pairs if other == key]
        same += [part for other, part in pairs if isinstance(other, str) and other.lower() == folded]
        if same:
            return same[0]
    raise LookupError(key)


def outputs(node: Any) -> Iterator[str]:
    """The names of all `$output`s in an encoded value."""
    if isinstance(node, list):
        for part in node:
            yield from outputs(part)
    elif isinstance(node, dict):
        if "$output" in node:
            yield node["$output"]
        else:
            for part in node.values():
                yield from outputs(part)


def text(node: Any) -> str:
    """An encoded value as JSON text; the order of the keys of a dict is part of it."""
    return json.dumps(node, separators=(",", ":"))
