"""Partitions of plain assets as rows of a table.

As with Dagster's own database IO managers, the metadata of the asset has `partition_expr`: a column or an SQL
expression. A multi-partitioned asset has one for each dimension.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.errors import WiringError, did_you_mean
from pipedag_dagster.execution.write_one_table import Slice
from pipedag_dagster.names import literal, quote

PARTITION = "partition_expr"
"""Metadata of a partitioned asset: `metadata={"partition_expr": "day"}`."""
_TEXT = ("text", "character")


def table_slice(
    asset: str, definition: dg.PartitionsDefinition[Any], keys: Sequence[str], metadata: Mapping[str, Any]
) -> Slice:
    """The rows of the partitions `keys` of an asset.

    Raises:
        WiringError: the metadata of the asset has no `partition_expr`, or a dimension is missing or unknown.
    """
    expression = metadata.get(PARTITION)
    dimensions = _dimensions(definition)
    if isinstance(expression, Mapping):
        for name in expression:
            if name not in dimensions:
                hint = did_you_mean(str(name), filter(None, dimensions))
                raise WiringError(f"Asset {asset}: {PARTITION} names {name!r}, which is not a dimension.{hint}")
    expressions = expression if isinstance(expression, Mapping) else {"": expression}
    missing = [name for name in dimensions if not expressions.get(name)]
    if missing:
        example = "{" + ", ".join(f'"{name}": "column"' for name in dimensions) + "}" if "" not in missing else '"day"'
        misspelt = difflib.get_close_matches(PARTITION, [key for key in metadata if key != PARTITION], n=1)
        hint = f" (Its metadata has {misspelt[0]!r}.)" if misspelt else ""
        raise WiringError(
            f"Asset {asset} is partitioned, but nothing says which rows belong to a partition. Write the column, or an "
            f'SQL expression: metadata={{"{PARTITION}": {example}}}.{hint}'
        )

    def where(columns: Sequence[Column]) -> str:
        texts = {column.name for column in columns if column.type.startswith(_TEXT)}
        if not isinstance(definition, dg.MultiPartitionsDefinition):
            return _condition(definition, keys, str(expressions[""]), texts)
        conditions = []
        for key in keys:
            parts = definition.get_partition_key_from_str(key).keys_by_dimension
            of_each = (
                _condition(part, [parts[name]], str(expressions[name]), texts) for name, part in dimensions.items()
            )
            conditions.append(" AND ".join(of_each))
        return " OR ".join(f"({condition})" for condition in conditions) or "false"

    few = ", ".join(keys[:3]) + (f", … {keys[-1]}" if len(keys) > 3 else "")
    return Slice(f"partition{'s' if len(keys) > 1 else ''} {few}", where)


def _dimensions(definition: dg.PartitionsDefinition[Any]) -> dict[str, dg.PartitionsDefinition[Any]]:
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return {dimension.name: dimension.partitions_def for dimension in definition.partitions_defs}
    return {"": definition}


def _condition(definition: dg.PartitionsDefinition[Any], keys: Iterable[str], expression: str, texts: set[str]) -> str:
    """The condition of one dimension. Literals have no type of their own, so they take the type of the expression."""
    column = quote(expression) if re.fullmatch(r"[^\W\d]\w*", expression) else f"({expression})"
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition) or expression in texts:
        listed = ", ".join(map(literal, keys))
        return f"{column} IN ({listed})" if listed else "false"
    windows: list[list[Any]] = []
    for window in sorted(map(definition.time_window_for_partition_key, keys), key=lambda window: window.start):
        if windows and windows[-1][1] == window.start:
            windows[-1][1] = window.end
        else:
            windows.append([window.start, window.end])
    ranges = [f"{column} >= {literal(str(start))} AND {column} < {literal(str(end))}" for start, end in windows]
    return " OR ".join(f"({condition})" for condition in ranges) or "false"
