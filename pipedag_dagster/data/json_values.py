"""Values that are no tables, as JSON: what comes out is equal to what went in, and of the same types.

Plain JSON has no tuples, dataclasses, NaN, or keys that are no texts; these are objects with one key that begins with
`$`. `{"$output": name}` stands for something that is stored elsewhere: a table, a blob, or another value.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from pipedag_dagster.errors import TaskFailed

Path: TypeAlias = tuple[int | str, ...]
LARGEST = 1_000_000
"""Characters of JSON. What is larger belongs into a blob."""


class NotJson(Exception):
    """The value cannot be kept as JSON."""


def output(name: str) -> dict[str, str]:
    """What stands for something that is stored under `name`."""
    return {"$output": name}


def encode(value: Any, path: Path, part: Callable[[Any, Path], Any]) -> Any:
    """One level of `value` as JSON; `part` is called for what is in it, with its path.

    Raises:
        NotJson: it is nothing of which JSON can be made, or would come back as something else.

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
    if kind is dict:
        keys = [key.item() if isinstance(key, np.number | np.bool_) else key for key in value]
        if not all(key is None or type(key) in (bool, int, str) for key in keys):
            raise NotJson("a dict whose keys are not texts or whole numbers")
        parts = [(key, part(one, (*path, key))) for key, one in zip(keys, value.values(), strict=True)]
        if all(isinstance(key, str) and not key.startswith("$") for key in keys):
            return dict(parts)
        return {"$dict": [list(pair) for pair in parts]}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        names = value._fields
    elif dataclasses.is_dataclass(value):
        names = [one.name for one in dataclasses.fields(value)]
    else:
        raise NotJson(kind.__name__)
    if "<locals>" in kind.__qualname__:
        raise NotJson(f"{kind.__name__}, whose class is made inside of a function, where nobody can import it")
    fields = {name: part(getattr(value, name), (*path, name)) for name in names}
    return {"$class": f"{kind.__module__}:{kind.__qualname__}", "$fields": fields}


def decode(node: Any, read: Callable[[str], Any]) -> Any:
    """The value of which `node` was made; `read` gives what an `$output` stands for.

    Raises:
        TaskFailed: the class of an object in it is not there any more.

    >>> decode({"$tuple": [1, {"$output": "orders"}]}, str.upper)
    (1, 'ORDERS')
    """
    if isinstance(node, list):
        return [decode(part, read) for part in node]
    if not isinstance(node, dict):
        return node
    if "$output" in node:
        return read(node["$output"])
    if "$float" in node:
        return float(node["$float"])
    if "$tuple" in node:
        return tuple(decode(part, read) for part in node["$tuple"])
    if "$dict" in node:
        return {key: decode(part, read) for key, part in node["$dict"]}
    if "$class" in node:
        return _object(node["$class"], {name: decode(part, read) for name, part in node["$fields"].items()})
    return {key: decode(part, read) for key, part in node.items()}


def _object(name: str, fields: dict[str, Any]) -> Any:
    module, _, qualname = name.partition(":")
    try:
        kind: Any = importlib.import_module(module)
        for part in qualname.split("."):
            kind = getattr(kind, part)
    except (ImportError, AttributeError) as error:
        raise TaskFailed(f"A value cannot be read, because its class {name} is not there any more: {error}.") from error
    if isinstance(kind, type) and hasattr(kind, "_make"):
        return kind._make(fields.values())
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise TaskFailed(f"A value cannot be read, because {name} is no dataclass any more.")
    made = object.__new__(kind)  # as pickle does: it was checked when it was made
    for field, value in fields.items():
        object.__setattr__(made, field, value)
    return made


def at(node: Any, path: Path) -> tuple[Any, Path]:
    """What is at `path` in an encoded value. It ends at an `$output`: then some of the path is left.

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
    if isinstance(node, dict) and not node.keys() & {"$float"}:
        pairs = node["$dict"] if "$dict" in node else list(node.get("$fields", node).items())
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
