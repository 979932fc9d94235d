"""Sentences about what a result depends on, but whose change no run will notice.

They are logged when the task runs, and kept with its tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from pipedag_dagster.catalog.catalog import OutputKind, TableVersion
from pipedag_dagster.execution import cache_key
from pipedag_dagster.execution.keyed_call import KeyedCall
from pipedag_dagster.graph import nested
from pipedag_dagster.graph.external_table import ExternalTableReference
from pipedag_dagster.graph.flow import TaskCall
from pipedag_dagster.graph.replaced_inputs import ReplacedInput
from pipedag_dagster.graph.tables import bare_references
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.table_store import TableStore

_LISTED = 5


def query_notes(
    keyed: KeyedCall,
    held: LockedStage,
    store: TableStore,
    asset: str,
    query: str | None,
    tables: Iterable[TableVersion],
) -> list[str]:
    """What to say of a query that made a table or view.

    Args:
        held: the stage, whose lock the run holds.
        query: None for a table that was not made by a query.
        tables: those that it may read.
    """
    if query is None or keyed.is_copied or keyed.source is not None or keyed.call.task.cache is not None:
        return []
    reads = held.query_reads(query)
    known = {(store.schemas(table.stage).versions, table.physical) for table in tables}
    what = f"{keyed.call.stage.name}.{asset}"
    notes = []
    if reads.functions:
        notes.append(
            f"{what} uses {_listed(reads.functions)}: its result may change by itself, but the task runs only when its "
            "query or inputs change. Write @materialize(cache=…) with a function that says when it must run."
        )
    others = [".".join(name) for name in reads.tables if name not in known]
    if others:
        arguments = ", ".join(map(json.dumps, others[:_LISTED]))
        notes.append(
            f"{what} reads {_listed(others)}, which is not an input of the task, so its change will not be noticed. "
            f"Write @materialize(cache=table_content({arguments})), or pass the table to the task."
        )
    return notes


def external_notes(call: TaskCall) -> Iterator[str]:
    """What to say of a task that takes tables of somebody else, when nothing tells that they have changed."""
    if call.task.cache is not None or call.task.version is not None:
        return
    for reference in nested.find(bare_references(call.arguments), ExternalTableReference):
        if isinstance(reference, ReplacedInput):
            continue  # its rows count
        name = f"{reference.schema}.{reference.name}"
        yield (
            f"{call} takes {name}, which no task makes, so its change will not be noticed. "
            f"Write @materialize(cache=table_content({json.dumps(name)}))."
        )


_BY_POSITION = re.compile(
    r"\.(head|tail|iloc|cum(?:sum|prod|max|min|count)|cum_(?:sum|prod|max|min|count)|shift|diff|pct_change|rolling"
    r"|expanding|[fb]fill|forward_fill|backward_fill|nth|with_row_index|drop_duplicates)\b"
)
_SORTS = re.compile(r"sort_values|sort_index|\.sort\(|sort_by|nlargest|nsmallest", re.IGNORECASE)
_ORDERED = re.compile(r"\border\s+by\b", re.IGNORECASE)


def order_notes(call: TaskCall, inputs: Iterable[TableVersion]) -> Iterator[str]:
    """What to say of a task that takes rows by their position, of a table that a query made in no certain order."""
    parts = cache_key.task_code(call).text.parts
    text = parts[0].text if parts else ""
    found = _BY_POSITION.search(text)
    if found is None or _SORTS.search(text):
        return
    unordered = [
        f"{table.stage}.{table.asset}"
        for table in inputs
        if table.kind is OutputKind.table and table.query is not None and not _ORDERED.search(table.query)
    ]
    if unordered:
        yield (
            f"{call} uses .{found[1]}, which depends on the order of rows, but {_listed(unordered)} has none: a query "
            "without ORDER BY may give its rows in another order each time. Sort the rows in the task, or write "
            "ORDER BY in the query."
        )


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
