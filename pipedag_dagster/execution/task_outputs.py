"""What a task returned, output by output: one class for each way of storing an output.

`identity` hashes an output without storing it. Lazy tasks are compared by it, and views have no other data version.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.data import json_values, polars_plans
from pipedag_dagster.data.content import Content
from pipedag_dagster.data.frames import content
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.execution.cache_key import Key
from pipedag_dagster.execution.observed import Observed
from pipedag_dagster.frame_types import is_stream
from pipedag_dagster.graph.flow import Slot
from pipedag_dagster.graph.tables import Table
from pipedag_dagster.names import TableRef
from pipedag_dagster.sampling.sample import Sample
from pipedag_dagster.versions.copy_rows import SourceRows
from pipedag_dagster.versions.write_table import Constraints, PhysicalTable


@dataclass(frozen=True)
class TaskOutput(abc.ABC):
    """One output of a call: which one it is, and the name of its table."""

    slot: Slot
    name: str

    @abc.abstractmethod
    def identity(self, labels: Mapping[str, str]) -> str:
        """A hash that is equal when the stored result would be equal.

        Args:
            labels: what stands for each physical table in queries and plans. Physical names are new in every run.
        """


@dataclass(frozen=True)
class QueryTable(TaskOutput):
    """A table with the rows of a query."""

    constraints: Constraints
    query: str

    def identity(self, labels: Mapping[str, str]) -> str:
        return digest(self.name, _labelled(self.query, labels), self.constraints.identity)


@dataclass(frozen=True)
class FrameTable(TaskOutput):
    """A table with the rows of a DataFrame, of a LazyFrame of polars once it is collected, or of a stream."""

    constraints: Constraints
    frame: Any
    stage: str

    @cached_property
    def content(self) -> Content:
        """The rows. A lazy task needs them for its key and for its table."""
        return content(self.frame, str(TableRef(self.stage, self.name)))

    @property
    def is_plan(self) -> bool:
        """Whether it is a plan of polars, without data."""
        return polars_plans.is_lazy(self.frame)

    @property
    def is_opaque(self) -> bool:
        """Whether it is a plan of polars that holds Python code. Two such plans cannot be compared."""
        return self.is_plan and polars_plans.serialized(self.frame) is None

    @property
    def is_stream(self) -> bool:
        """Whether its rows come batch by batch, while the task goes on."""
        return is_stream(self.frame)

    def identity(self, labels: Mapping[str, str]) -> str:
        if self.is_stream:
            raise UnstorableResult(
                f"{self.stage}.{self.name} is a stream, and a lazy task is called in each run to compare what it "
                "returns. Write @materialize without lazy=True."
            )
        if not self.is_plan:
            return digest(self.name, self.content.version, self.constraints.identity)
        plan = polars_plans.serialized(self.frame)
        if plan is None:
            return digest(self.name, self.content.version, self.constraints.identity)
        for physical, label in labels.items():
            plan = plan.replace(physical.encode(), label.encode())
        return digest(self.name, hashlib.sha256(plan).hexdigest(), self.constraints.identity)


@dataclass(frozen=True)
class CopiedTable(TaskOutput):
    """A sample of a table of the source instance."""

    sample: Sample
    rows: SourceRows

    def identity(self, labels: Mapping[str, str]) -> str:
        return digest(self.name, self.sample.rows.content, repr(self.sample.constraints))


@dataclass(frozen=True)
class ViewOutput(TaskOutput):
    """A view of a query."""

    query: str

    def identity(self, labels: Mapping[str, str]) -> str:
        return digest(self.name, _labelled(self.query, labels), repr(Constraints()), "view")


@dataclass(frozen=True)
class MaterializedTable(TaskOutput):
    """A table or view that the task has written itself, by `Table(…).materialize()`.

    Attributes:
        number: it is the first (0), second (1), … of the task.
        table: the `Table` of the user, without its data.
        source: what it was written from. The rows of a DataFrame are dropped.
        content: the hash of the rows of a DataFrame.
        version: the table version, as far as it is known.
        physical: what was written. None when `version` is one of the catalog.
        key: of the table of a lazy task. Other tables have the key of their call.
    """

    number: int
    table: Table
    source: QueryTable | FrameTable | ViewOutput
    content: str | None
    version: TableVersion
    physical: PhysicalTable | None
    key: Key | None

    @property
    def is_new(self) -> bool:
        """Whether the table was written, and is not in the catalog yet."""
        return self.physical is not None

    @property
    def constraints(self) -> Constraints:
        return Constraints() if isinstance(self.source, ViewOutput) else self.source.constraints

    @property
    def query(self) -> str | None:
        return None if isinstance(self.source, FrameTable) else self.source.query

    def identity(self, labels: Mapping[str, str]) -> str:
        if isinstance(self.source, FrameTable):
            return digest(self.name, self.content or "", self.constraints.identity)
        return replace(self.source, slot=self.slot, name=self.name).identity(labels)


@dataclass(frozen=True)
class ScriptOutput(TaskOutput):
    """SQL scripts. Which tables and views they make is known only after they have run."""

    texts: tuple[str, ...]

    def identity(self, labels: Mapping[str, str]) -> str:
        return digest(self.name, _labelled(";".join(self.texts), labels), repr(Constraints()), "script")


@dataclass(frozen=True)
class BlobOutput(TaskOutput):
    """A pickled object. `content` is a hash of the object, `classes` are the user's classes that have objects in it."""

    pickle: bytes
    content: str
    classes: tuple[str, ...] = ()

    def identity(self, labels: Mapping[str, str]) -> str:
        return digest("blob", self.name, self.content)


@dataclass(frozen=True)
class ValueOutput(TaskOutput):
    """A value that is kept as JSON in the catalog. `node` is the value as `json_values` encodes it."""

    node: Any

    def identity(self, labels: Mapping[str, str]) -> str:
        return digest("json", self.name, json_values.text(self.node))


@dataclass(frozen=True)
class TaskOutputs:
    """All outputs of a call. `shape` is what the task returned around them, as `json_values` encodes it; None when it
    returned one output and nothing around it. `ended` tells what was seen while the task ran. It is called when the
    streams among the outputs are read: until then, the task runs."""

    outputs: Sequence[TaskOutput]
    shape: Any = None
    ended: Callable[[], Observed] = Observed

    @property
    def materialized(self) -> list[MaterializedTable]:
        """The tables that the task has written itself, in that order."""
        tables = [output for output in self.outputs if isinstance(output, MaterializedTable)]
        return sorted(tables, key=lambda table: table.number)

    def identities(self, labels: Mapping[str, str]) -> list[str]:
        """The identity of the shape, if there is one, and of each output."""
        shape = [] if self.shape is None else [json_values.text(self.shape)]
        return shape + [output.identity(labels) for output in self.outputs]


def _labelled(query: str, labels: Mapping[str, str]) -> str:
    for physical, label in labels.items():
        query = query.replace(physical, label)
    return query
