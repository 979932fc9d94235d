"""The page of all keys of the YAML, made of the JSON Schema that the models give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

_HEAD = """\
# Keys of an instance

Every key of an instance, with its type and default. [Configuration](../configuration.md) says what they mean, and
[sampling](../sampling.md) what those of `sample` do. Editors complete and check them with the [JSON
Schema](../configuration.md#editors).

| key | type | default |
|---|---|---|
"""


class Row(NamedTuple):
    """A key, as in `cache_validation.mode`."""

    key: str
    type: str
    default: str


def write(page: Path) -> None:
    """Write the page, unless it is there and the same: Sphinx reads pages that changed."""
    schema = json.loads(files("pipedag_dagster.config.schemas").joinpath("instance.schema.json").read_text())
    rows = "".join(f"| `{row.key}` | {row.type} | {row.default} |\n" for row in _rows(schema, schema["$defs"], ""))
    if not page.exists() or page.read_text() != _HEAD + rows:
        page.write_text(_HEAD + rows)


def _rows(schema: Mapping[str, Any], models: Mapping[str, Any], above: str) -> Iterator[Row]:
    for name, described in sorted(schema.get("properties", {}).items()):
        choices = list(_choices(described, models))
        short = [choice for choice in choices if "properties" not in choice]
        if short:
            defaults = (choice.get("default") for choice in short)
            default = next(
                (value for value in defaults if value not in (None, "", [], {}) and not isinstance(value, dict)), None
            )
            types = " or ".join(dict.fromkeys(_type(choice, models) for choice in short))
            yield Row(f"{above}{name}", types, "" if default is None else f"`{json.dumps(default)}`")
        for choice in choices:
            yield from _rows(choice, models, f"{above}{name}.")


def _choices(part: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a value may be, without references, and without null, which every value may be."""
    given = dict(part)
    if "$ref" in given:
        given = models[given.pop("$ref").rpartition("/")[2]] | given
    given = {**given.get("else", {}), **given}  # a store of another kind may have any keys
    if "anyOf" in given:
        shared = {"default": given["default"]} if "default" in given else {}
        for choice in given["anyOf"]:
            yield from _choices({**choice, **shared}, models)
    elif given.get("type") != "null":
        yield given


def _type(part: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in dict.fromkeys(part["enum"]))
    if "const" in part:
        return f"`{json.dumps(part['const'])}`"
    if part.get("type") == "array":
        items = " or ".join(_type(choice, models) for choice in _choices(part.get("items", {}), models))
        return f"list of {items}"
    return {"object": "mapping", "string": "text"}.get(part.get("type", "any"), part.get("type", "any"))
