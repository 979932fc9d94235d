"""Adding an item to a list in a YAML file of a user. Nothing else in the file changes, not even a space."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml


def with_item(text: str, path: Sequence[str], item: Mapping[str, str]) -> str | None:
    """The text of a YAML file with one more item at the end of the list at `path`. Mappings on the way to the list that
    are missing are added, too.

    Returns:
        None where the file is written in a way that this does not understand (an alias, a tab, a value in the way).

    >>> print(with_item("name: shop  # ours\\n", ["sample", "keep"], {"table": "raw.orders"}), end="")
    name: shop  # ours
    sample:
      keep:
        - table: raw.orders
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    try:
        before = yaml.safe_load(text)
        expected = _added(before, path, item)
        position, addition = _insertion(text, yaml.compose(text), path, item)
        if "\n" in addition and position and text[position - 1] != "\n":
            addition = f"\n{addition}"
        result = text[:position] + addition.replace("\n", newline) + text[position:]
        return result if yaml.safe_load(result) == expected else None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError):
        return None


def _added(data: Any, path: Sequence[str], item: Mapping[str, str]) -> Any:
    """The data with the item."""
    data = copy.deepcopy(data) or {}
    place = data
    for key in path[:-1]:
        place[key] = place.get(key) or {}
        place = place[key]
    place[path[-1]] = [*(place.get(path[-1]) or ()), dict(item)]
    return data


def _insertion(text: str, root: yaml.Node | None, path: Sequence[str], item: Mapping[str, str]) -> tuple[int, str]:
    """Where something is to be inserted, and what."""
    if root is None:
        return len(text), _block(path, item, 0)
    node, indent = root, 0
    for number, part in enumerate(path):
        if not isinstance(node, yaml.MappingNode):
            raise ValueError
        pair = next(((key, value) for key, value in node.value if key.value == part), None)
        if pair is None:
            return _in_mapping(text, node, path[number:], item)
        key, node = pair
        indent = key.start_mark.column + 2
        if isinstance(node, yaml.ScalarNode) and not node.value and node.style is None:  # nothing is written here yet
            return _line_after(text, key.end_mark.index), _block(path[number + 1 :], item, indent)
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError
    if node.flow_style:
        return _before_end(text, node, _flow(item))
    return _line_after(text, _end(node)), _block((), item, node.start_mark.column)


def _in_mapping(text: str, node: yaml.MappingNode, path: Sequence[str], item: Mapping[str, str]) -> tuple[int, str]:
    if not node.flow_style:
        return _line_after(text, _end(node)), _block(path, item, node.start_mark.column)
    *outer, last = path
    value = f"{last}: [{_flow(item)}]"
    for key in reversed(outer):
        value = f"{key}: {{{value}}}"
    return _before_end(text, node, value)


def _before_end(text: str, node: yaml.CollectionNode, value: str) -> tuple[int, str]:
    """Before the bracket that ends a collection."""
    end = node.end_mark.index - 1
    while end and text[end - 1] in " \t\r\n":
        end -= 1
    return end, value if text[end - 1] in "[{" else f" {value}" if text[end - 1] == "," else f", {value}"


def _end(node: yaml.Node) -> int:
    """Where the text of a node ends. (The mark of a block is after the comments that follow it.)"""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        if not isinstance(last, tuple):
            return _end(last)
        key, value = last
        return max(_end(key), _end(value))
    mark: yaml.Mark = node.end_mark
    return mark.index


def _line_after(text: str, position: int) -> int:
    """The beginning of the next line."""
    if position and text[position - 1] == "\n":  # the end of a text that begins with | or >
        return position
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _block(path: Sequence[str], item: Mapping[str, str], indent: int) -> str:
    lines = []
    for key in path:
        lines.append(f"{' ' * indent}{key}:")
        indent += 2
    marks = ["- ", *["  "] * (len(item) - 1)]
    lines += [
        f"{' ' * indent}{mark}{key}: {_quoted(value)}" for mark, (key, value) in zip(marks, item.items(), strict=True)
    ]
    return "".join(f"{line}\n" for line in lines)


def _flow(item: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {_quoted(value)}" for key, value in item.items()) + "}"


def _quoted(value: str) -> str:
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*", value)
    return value if plain else json.dumps(value, ensure_ascii=False)
