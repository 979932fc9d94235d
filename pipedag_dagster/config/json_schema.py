"""The JSON Schema of configuration files, made from the models, for editors that complete and check YAML.

python -m pipedag_dagster.config.json_schema      # writes the files in pipedag_dagster/config/schemas/
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipedag_dagster.config.automation import Executor, Poll, Refresh, ReportCommits, Schedule
from pipedag_dagster.config.keys import AnyFile, FlowSection, Section, SingleFile
from pipedag_dagster.config.sample import WORDS, TableSample
from pipedag_dagster.config.stores import BLOB_STORES, TABLE_STORES
from pipedag_dagster.config.tasks import PLACES, Tasks

FOLDER = Path(__file__).parent / "schemas"

FILES: dict[str, type[BaseModel]] = {
    "pipedag.schema.json": SingleFile,
    "any.schema.json": AnyFile,
    "instance.schema.json": Section,
    "flow.schema.json": FlowSection,
}
"""The published files: `pipedag.yaml`, `instances/__any__.yaml`, `instances/NAME.yaml`, `instances/flows/NAME.yaml`."""

_SHORT: dict[type[BaseModel], list[dict[str, Any]]] = {
    Schedule: [{"type": "string"}, {"const": False}],
    Refresh: [{"type": "string"}, {"const": False}],
    Poll: [{"type": "integer", "minimum": 1}, {"const": False}],
    ReportCommits: [{"type": "integer", "minimum": 1}, {"const": False}],
    Executor: [{"enum": [name for name in Executor.model_fields if name != "name"]}],
    Tasks: [{"enum": list(PLACES)}],
    TableSample: [{"enum": list(WORDS)}],
}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of one kind of file.

    >>> sorted(schema_of(SingleFile)["properties"])[:3]
    ['blob_store_connections', 'flows', 'instances']
    """
    schema = model.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = schema.get("$defs", {})
    for section in (schema, *definitions.values()):
        _allow_nothing(section)
        if "enum" in section:
            section["enum"] = list(dict.fromkeys(section["enum"]))  # a member and its alias have one value
    for short, forms in _SHORT.items():
        if short.__name__ in definitions:
            definitions[short.__name__] = {"anyOf": [definitions[short.__name__], *forms]}
    for name, section in definitions.items():
        if name in ("_TableStore", "_TableConnection", "_BlobStore", "_BlobConnection"):
            definitions[name] = {"if": _FOREIGN, "then": {"type": "object"}, "else": section}
    schema["patternProperties"] = {"^_": {}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": model.__name__, **schema}


_FOREIGN: dict[str, Any] = {
    "anyOf": [
        {
            "required": ["class"],
            "properties": {"class": {"type": "string", "not": {"enum": [*TABLE_STORES, *BLOB_STORES]}}},
        },
        {
            "required": ["args"],
            "properties": {
                "args": {
                    "required": ["url"],
                    "properties": {"url": {"type": "string", "pattern": r"^(?!postgres)[^{]*://"}},
                }
            },
        },
    ]
}
"""A section about a store that this package does not have: its keys are not checked."""


def _allow_nothing(section: dict[str, Any]) -> None:
    """A key without a value counts as not written."""
    properties = section.get("properties", {})
    for name, value in properties.items():
        properties[name] = {"anyOf": [value, {"type": "null"}]}
    for value in [*properties.values()]:
        for form in value["anyOf"]:
            if isinstance(form.get("additionalProperties"), dict):  # dict[str, section]
                form["additionalProperties"] = {"anyOf": [form["additionalProperties"], {"type": "null"}]}


def text(name: str) -> str:
    """The content of one of the published files."""
    return json.dumps(schema_of(FILES[name]), indent=2) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file in FILES:
        (FOLDER / file).write_text(text(file))
