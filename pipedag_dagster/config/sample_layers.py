"""The section `sample` of one instance, put together from several files.

Later layers win, as for all keys, with two exceptions: kept rows and relations add up, and a table has the rule of the
last layer that names it, with its options.

`within: midi` puts the layers of midi below the instance's own. So an instance inherits what it does not say itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pipedag_dagster.config.keys import Key
from pipedag_dagster.config.layers import Layer, merge

LISTS = ("relations", "keep")
"""The keys whose lists add up."""


def merged_sample(layers: Iterable[Layer]) -> dict[str, Any]:
    """The section `sample` of an instance with these layers, the lowest first."""
    merged: dict[str, Any] = {}
    for layer in layers:
        section = layer.get(("sample",)) or {}
        tables = section.get("tables") or {}
        named = {name.lower() for name in tables}
        others = {name: rule for name, rule in merged.get("tables", {}).items() if name.lower() not in named}
        lists = {key: [*merged.get(key, ()), *(section.get(key) or ())] for key in LISTS}
        merged = merge(merged, section)
        merged |= {key: value for key, value in lists.items() if value}
        if others or tables:
            merged["tables"] = {**others, **tables}
    return merged


def place_of(path: Key, layers: Iterable[Layer]) -> tuple[Layer, Key] | None:
    """The layer of an item of a list that adds up, and the path of the item there; None for other paths."""
    match path:
        case ("sample", "relations" | "keep" as name, int() as number, *rest):
            pass
        case _:
            return None
    for layer in layers:
        count = len(layer.get(("sample", name)) or ())
        if number < count:
            return layer, ("sample", name, number, *rest)
        number -= count
    return None


def inherited(
    layers: Sequence[Layer], own: Sequence[Layer], upper: Sequence[Layer], rows: int | None
) -> tuple[Layer, ...]:
    """The layers of an instance, as an instance within it inherits them: only what they say about samples.

    Args:
        own: the layers of the instance that inherits. What both share is not repeated.
        upper: those of them that lie above what is inherited.
        rows: the default of the wider instance, where its attrs say it.
    """
    shared = {(layer.source.file, layer.at) for layer in own}
    keys = (("sample", "rows"), ("attrs", "copy_filter_cnt"))
    says_rows = any(layer.get(key) is not None for layer in upper for key in keys)
    result = []
    for layer in layers:
        if (layer.source.file, layer.at) in shared or layer.below:
            continue
        sample = {key: value for key, value in (layer.get(("sample",)) or {}).items() if key != "within"}
        if says_rows:
            sample.pop("rows", None)
        elif rows is not None and layer is layers[-1]:
            sample["rows"] = rows
        result.append(replace(layer, data={"sample": sample}))
    return tuple(result)
