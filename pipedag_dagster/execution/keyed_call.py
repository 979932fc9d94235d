"""A call of a task whose cache key is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.execution.cache_key import Key
from pipedag_dagster.execution.observed import Reads
from pipedag_dagster.execution.task_outputs import MaterializedTable, TaskOutputs
from pipedag_dagster.graph.flow import TaskCall
from pipedag_dagster.versions.table_store import TableStore


@dataclass(frozen=True)
class KeyedCall:
    """A call, and what its result depends on.

    Attributes:
        inputs: the table versions that it reads, by name.
        source: the store of the other instance that it reads, if it reads one.
        is_copied: the tables of `source` are copied, and the task does not run.
        outputs: what a lazy task returned when it was called for its key.
        covered: the files and variables whose changes its cache function notices.
    """

    call: TaskCall
    key: Key
    inputs: Mapping[str, TableVersion]
    source: TableStore | None = None
    is_copied: bool = False
    outputs: TaskOutputs | None = None
    covered: Reads = field(default_factory=Reads)

    @property
    def materialized(self) -> list[MaterializedTable]:
        """The tables that a lazy task has written itself when it was called for its key."""
        return [] if self.outputs is None else self.outputs.materialized


def labels(inputs: Mapping[str, TableVersion], *, versions: bool) -> dict[str, str]:
    """What stands for each physical table when queries are compared: its name, with or without its data version."""
    return {table.physical: f"{name}@{table.data_version}" if versions else name for name, table in inputs.items()}
