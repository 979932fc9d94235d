"""The JSON Schema of configuration files: it accepts what loads, and refuses what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipedag_dagster.config.json_schema import FILES, FOLDER, schema_of, text

ROOT = Path(__file__).parents[2]
SEED = ROOT / "pipedag_dagster_tests" / "examples" / "seed" / "pipedag.yaml"


def mistakes(file: str, content: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema_of(FILES[file]))
    return [error.message for error in validator.iter_errors({} if content is None else content)]


@pytest.mark.parametrize("file", FILES)
def test_the_published_file_is_the_schema_of_the_models(file: str) -> None:
    """If not: python -m pipedag_dagster.config.json_schema"""
    assert (FOLDER / file).read_text() == text(file)


def test_the_file_of_the_seed_is_valid() -> None:
    assert mistakes("pipedag.schema.json", yaml.safe_load(SEED.read_text())) == []


@pytest.mark.parametrize("file", sorted((ROOT / "instances").glob("*.yaml")), ids=lambda file: str(file.name))
def test_the_files_of_our_folder_are_valid(file: Path) -> None:
    kind = "any.schema.json" if file.stem == "__any__" else "instance.schema.json"
    assert mistakes(kind, yaml.safe_load(file.read_text())) == []


@pytest.mark.parametrize(
    "content",
    [
        "_anchor: {anything: 1}\ninstances: {full: }",
        "instances: {full: {schedule: '0 6 * * *', refresh: on_source, poll: 60, executor: multiprocess}}",
        "instances: {full: {schedule: false, table_store: {class: other.Store, args: {any: thing}}}}",
        "instances: {full: {table_store: {args: {url: 'duckdb:///x', any: thing}}}}",
        "flows: {shop: {instances: {full: {attrs: {x: 1}}}}}",
        "instances: {midi: {sample: {tables: {a: all, b: {children_of: a}, c: {children_of: [a, b]}, d: }}}}",
        "instances: {midi: {sample: {tables: {a: {fraction: 0.1, key: id}}, keep: [{table: a, where: id = 1}]}}}",
    ],
)
def test_other_valid_files(content: str) -> None:
    assert mistakes("pipedag.schema.json", yaml.safe_load(content)) == []


@pytest.mark.parametrize(
    "content",
    [
        "instances: {full: {fail_fsat: true}}",
        "instances: {full: {fail_fast: 1}}",
        "instances: {full: {keep_versions: 0}}",
        "instances: {full: {table_store: {args: {urll: x}}}}",
        "instances: {midi: {sample: {tables: {a: parent}}}}",
        "instances: {midi: {sample: {keep: [{table: a}]}}}",
        "instnaces: {}",
        "flows: {shop: {instances: {full: {fail_fsat: true}}}}",
    ],
)
def test_mistakes_are_found(content: str) -> None:
    assert mistakes("pipedag.schema.json", yaml.safe_load(content))
