"""YAML files with positions: plain dicts and lists, and the line of each key.

Some things are valid YAML, but never intended. They are mistakes here: a key twice in one mapping (YAML libraries
silently keep the last one), and `{$NAME}` without quotes (YAML reads a mapping where a placeholder was meant).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipedag_dagster.errors import ConfigError, Problem

_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_LARGEST = 100_000


@dataclass(frozen=True)
class YamlFile:
    """One YAML file: its data, the mistakes that could be skipped, and the line of each key."""

    file: Path
    data: dict[Any, Any]
    problems: tuple[Problem, ...] = ()
    _root: yaml.Node | None = field(default=None, repr=False)

    def line(self, path: tuple[str | int, ...]) -> int | None:
        """The line (from 1) of the key at `path`, else of its nearest parent, else None."""
        node, line = self._root, None
        for part in path:
            # From the end: the keys of a merge key (<<) come before the mapping's own keys.
            if isinstance(node, yaml.MappingNode):
                key, node = next((kv for kv in reversed(node.value) if kv[0].value == str(part)), (None, None))
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                key = node = node.value[part]
            else:
                break
            if key is None:
                break
            line = key.start_mark.line + 1
        return line


def load(file: Path, *, scalars_as_text: bool = False) -> YamlFile:
    """Read one YAML file; an empty one is an empty mapping.

    Args:
        scalars_as_text: take every value as it is written: the password `0123` is not a number.

    Raises:
        ConfigError: the file cannot be read at all. `YamlFile.problems` has the mistakes that could be skipped.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ConfigError(Problem(file, None, "there is no such file or folder.")) from None
    except OSError as error:
        raise ConfigError(Problem(file, None, f"cannot be read: {error.strerror}.")) from None
    # `from None`: PyYAML quotes the text around a mistake, and that may be a password.
    try:
        loader = (_TextLoader if scalars_as_text else _Loader)(content)
        root = loader.get_single_node()
        data = None
        if root is not None:
            _check_size(root, {})
            data = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        message = f"is not valid YAML: {error.problem}.{_hint(content, line)}"
        raise ConfigError(Problem(file, line, message)) from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(Problem(file, None, f"is not a text file in UTF-8: {error.reason}.")) from None
    except (ValueError, RecursionError) as error:  # a value like 2024-13-45
        raise ConfigError(Problem(file, None, f"is not valid YAML: {error}.")) from None
    if not isinstance(data, dict | None):
        raise ConfigError(Problem(file, 1, "must be a mapping of keys to values at its top level."))
    problems = tuple(Problem(file, line, message) for line, message in loader.mistakes)
    return YamlFile(file, data or {}, problems, root)


def _check_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of values in a node, with its aliases written out: a short file may stand for billions of values.

    Raises:
        ValueError: there are too many, or an alias stands for a value that contains it.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = 0  # until it is known
        parts = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
        sizes[id(node)] = 1 + sum(_check_size(part, sizes) for part in parts)
        if sizes[id(node)] > _LARGEST:
            raise ValueError(f"with its aliases (*name) written out, it has more than {_LARGEST:,} values")
    elif not sizes[id(node)]:
        raise ValueError("Circular reference: an alias (*name) stands for a value that contains it")
    return sizes[id(node)]


def _hint(content: bytes, line: int | None) -> str:
    lines = content.splitlines()
    if line is not None and line <= len(lines) and re.search(rb"[:-]\s+\{", lines[line - 1]):
        return ' A value that begins with { must be in quotes: "{…}".'
    return ""


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.mistakes: list[tuple[int, str]] = []

    def compose_mapping_node(self, anchor: Any) -> yaml.Node:  # type: ignore[override]  # a fixed {$NAME}
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if key.value == "on":  # YAML 1.1 reads it as True
                key.tag = _TEXT
            line = key.start_mark.line + 1
            if node.flow_style and key.style is None and key.value.startswith("$") and value.value == "":
                placeholder = f"{{{key.value}}}"
                self.mistakes.append((line, f'{placeholder} must be in quotes: "{placeholder}".'))
                # Go on as if the quotes were there, to find the other mistakes too.
                return yaml.ScalarNode(_TEXT, placeholder, node.start_mark, node.end_mark)
            if (first := seen.get((key.tag, key.value))) is not None:
                self.mistakes.append((line, f"the key {key.value!r} is written twice; first in line {first}."))
            seen.setdefault((key.tag, key.value), line)
        return node


class _TextLoader(_Loader):
    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        node.tag = _TEXT
        return node
