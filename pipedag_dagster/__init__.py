"""Several sizes of one pipeline in Dagster: full, midi and mini instances of the same stages, on PostgreSQL.

This is the whole public API. What a user does about an error is in `pipedag_dagster.errors`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipedag_dagster.cache_functions import environment, file_content, table_content
    from pipedag_dagster.config.instances import CacheMode as CacheValidationMode
    from pipedag_dagster.context import ConfigContext, PipedagConfig, create_basic_pipedag_config
    from pipedag_dagster.errors import PipedagError
    from pipedag_dagster.execution.debug_tables import materialize_table
    from pipedag_dagster.graph.calls import Output as Task
    from pipedag_dagster.graph.calls import Output as TaskGetItem
    from pipedag_dagster.graph.external_table import ExternalTableReference
    from pipedag_dagster.graph.flow import Stage
    from pipedag_dagster.graph.group_node import GroupNode, VisualizationStyle
    from pipedag_dagster.graph.raw_sql import RawSql
    from pipedag_dagster.graph.schema import Schema
    from pipedag_dagster.graph.tables import Blob, Table
    from pipedag_dagster.graph.task import AUTO_VERSION, input_stage_versions, materialize
    from pipedag_dagster.graph.task_context import TaskContext
    from pipedag_dagster.graph.view import SortCol, SortOrder, View
    from pipedag_dagster.logs import setup_logging
    from pipedag_dagster.looking.open_instance import OpenInstance, open_instance
    from pipedag_dagster.orchestration.build_definitions import build_definitions
    from pipedag_dagster.orchestration.component import PipelineComponent
    from pipedag_dagster.orchestration.io_manager import TableIOManager
    from pipedag_dagster.orchestration.resources import InstanceResource
    from pipedag_dagster.orchestration.result import FinalTaskState, Result
    from pipedag_dagster.orchestration.run import Flow, StageLockContext
    from pipedag_dagster.orchestration.translator import PipedagTranslator, TableProps

__all__ = [
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
]

_MODULES = {
    "AUTO_VERSION": "graph.task",
    "Blob": "graph.tables",
    "CacheValidationMode": "config.instances",
    "ConfigContext": "context",
    "ExternalTableReference": "graph.external_table",
    "FinalTaskState": "orchestration.result",
    "Flow": "orchestration.run",
    "GroupNode": "graph.group_node",
    "InstanceResource": "orchestration.resources",
    "OpenInstance": "looking.open_instance",
    "PipedagConfig": "context",
    "PipedagError": "errors",
    "PipedagTranslator": "orchestration.translator",
    "PipelineComponent": "orchestration.component",
    "RawSql": "graph.raw_sql",
    "Result": "orchestration.result",
    "Schema": "graph.schema",
    "SortCol": "graph.view",
    "SortOrder": "graph.view",
    "Stage": "graph.flow",
    "StageLockContext": "orchestration.run",
    "Table": "graph.tables",
    "TableIOManager": "orchestration.io_manager",
    "TableProps": "orchestration.translator",
    "Task": "graph.calls",
    "TaskContext": "graph.task_context",
    "TaskGetItem": "graph.calls",
    "View": "graph.view",
    "VisualizationStyle": "graph.group_node",
    "build_definitions": "orchestration.build_definitions",
    "create_basic_pipedag_config": "context",
    "environment": "cache_functions",
    "file_content": "cache_functions",
    "input_stage_versions": "graph.task",
    "materialize": "graph.task",
    "materialize_table": "execution.debug_tables",
    "open_instance": "looking.open_instance",
    "setup_logging": "logs",
    "table_content": "cache_functions",
}
"""Names that are imported when they are first used, with their modules: `pipedag-dagster --help` needs none of them."""

_NAMES = {"CacheValidationMode": "CacheMode", "Task": "Output", "TaskGetItem": "Output"}
"""Names that are different in their modules."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(
        importlib.import_module(f"pipedag_dagster.{_MODULES[name]}"), _NAMES.get(name, name)
    )
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
