"""The package keeps its layers: arrows point one way, and only the edges know Dagster."""

from __future__ import annotations

import ast
import graphlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pipedag_dagster

PACKAGE = Path(pipedag_dagster.__file__).parent
LAYERS = [
    {"errors", "frame_types", "names", "logs", "digest", "options", "function_reference"},
    {"sql_parser"},
    {"sql_condition"},
    {"config", "checks"},
    {"graph"},
    {"fingerprint"},
    {"data"},
    {"postgres"},
    {"catalog"},
    {"versions"},
    {"context", "sampling", "comparing"},
    {"cache_functions"},
    {"workers"},
    {"execution"},
    {"orchestration"},
    {"looking"},
    {"testing"},
    {"cli", "examples", "pytest_plugin", "template", "__init__"},
]
MAY_IMPORT_DAGSTER = {"orchestration", "cli", "examples"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(file.relative_to(PACKAGE).with_suffix("").parts), ast.parse(file.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """The dotted name of everything that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.Module) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for name in imports(tree):
        if name.startswith("pipedag_dagster."):
            path = name.removeprefix("pipedag_dagster.").split(".")
            while path and not (PACKAGE.joinpath(*path).with_suffix(".py")).is_file():
                path.pop()
            found.add(".".join(path) or "__init__")
    return found


def test_arrows_point_one_way() -> None:
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    for module, tree in modules():
        top = module.split(".")[0]
        assert top in layer, f"{module} has no layer"
        for other in own_imports(tree):
            assert layer[other.split(".")[0]] <= layer[top], f"{module} imports {other}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: own_imports(tree) - {module} for module, tree in modules()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(graph)


def test_only_the_dagster_side_and_the_edges_import_dagster() -> None:
    found = {module for module, tree in modules() if any(name.split(".")[0] == "dagster" for name in imports(tree))}
    assert {module.split(".")[0] for module in found} <= MAY_IMPORT_DAGSTER
    assert "orchestration.assets" in found


def test_the_public_api_is_what_init_lists() -> None:
    values = {name: getattr(pipedag_dagster, name) for name in dir(pipedag_dagster) if not name.startswith("_")}
    helpers = {"annotations", "importlib", "Any", "TYPE_CHECKING"}
    public = {name for name, value in values.items() if not inspect.ismodule(value)} - helpers
    assert set(pipedag_dagster.__all__) == public
    assert list(pipedag_dagster.__all__) == sorted(pipedag_dagster.__all__)
    assert public == {
        "AUTO_VERSION",
        "Blob",
        "CacheValidationMode",
        "ConfigContext",
        "ExternalTableReference",
        "FinalTaskState",
        "Flow",
        "GroupNode",
        "InstanceResource",
        "OpenInstance",
        "PipedagConfig",
        "PipedagError",
        "PipedagTranslator",
        "PipelineComponent",
        "RawSql",
        "Result",
        "Schema",
        "SortCol",
        "SortOrder",
        "Stage",
        "StageLockContext",
        "Table",
        "TableIOManager",
        "TableProps",
        "Task",
        "TaskContext",
        "TaskGetItem",
        "View",
        "VisualizationStyle",
        "build_definitions",
        "create_basic_pipedag_config",
        "environment",
        "file_content",
        "input_stage_versions",
        "materialize",
        "materialize_table",
        "open_instance",
        "setup_logging",
        "table_content",
    }
