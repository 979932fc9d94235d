"""What the catalog holds: table versions, stage versions, and what runs and checks did."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from pipedag_dagster.catalog.reason import Reason, ReasonKind

Origin: TypeAlias = tuple[str, str, str, str]
"""The origin of a column: instance id, stage, asset and column."""


class OutputKind(enum.StrEnum):
    """What an output of a task is stored as: a physical table or view, a file, or JSON in the catalog."""

    table = "table"
    view = "view"
    blob = "blob"
    value = "json"


@dataclass(frozen=True)
class Column:
    """A column as PostgreSQL describes it.

    Attributes:
        type: as `format_type` prints it.
        origins: the columns that it was made from, where they are known.
    """

    name: str
    type: str
    nullable: bool = True
    origins: tuple[Origin, ...] = field(default=(), compare=False)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One execution of a task, which all its outputs have in common.

    Attributes:
        flow, task: whose execution it was; empty for a table that no task made.
        execution: its id.
        task_key: the hash of what the task depends on.
        cache_key: the same with the value of its cache function.
        parts: the parts of the keys by name, for saying what has changed.
        run_id: of the run.
        code_version: `version=` of the task, or its fingerprint.
        libraries: the versions of the libraries that its code uses.
        shape: what the task returned around its outputs (a tuple, a dict, …), if there was anything.
    """

    flow: str
    task: str
    execution: str
    task_key: str
    cache_key: str
    parts: Mapping[str, Any]
    run_id: str
    code_version: str
    libraries: Mapping[str, str] = field(default_factory=dict)
    shape: Any = None


@dataclass(frozen=True, kw_only=True)
class StoredOutput:
    """Where an output is stored, and what it holds.

    Attributes:
        kind: whether it is a table, a view, a blob or a value.
        data_version: names what it holds. Outputs with the same data version hold the same.
        content_hash: a hash of the rows of a table, where one was taken.
        bytes: how large it is.
        physical: the name of the physical table or view. Blobs and values have no such object.
        columns, primary_key, indexes, rows: of a table or view; empty for the others.
        file: of a blob: the hash of its bytes.
        value: of a value, as `json_values` encodes it.
    """

    kind: OutputKind = OutputKind.table
    data_version: str
    bytes: int
    physical: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...]
    rows: int
    file: str | None = None
    value: Any = None
    content_hash: str | None = None

    @property
    def column_types(self) -> dict[str, str]:
        """The PostgreSQL type of each column."""
        return {column.name: column.type for column in self.columns}

    @property
    def in_database(self) -> bool:
        """Whether it is a table or a view, which has columns and rows."""
        return self.kind in (OutputKind.table, OutputKind.view)


@dataclass(frozen=True, kw_only=True)
class TableVersion(StoredOutput, Execution):
    """One immutable version of one output of a task: mostly of a table.

    Attributes:
        stage, asset, name: which table it is. `asset` is its name in Dagster, `name` its name in SQL.
        slot: where it was in the object that the task returned.
        seconds: how long it took.
        query: the query that made it, with the names of views.
        text: the key of the text of its code and query in the catalog.
        created_at, id: given by the database.
    """

    stage: str
    asset: str
    name: str
    slot: str
    seconds: float
    query: str | None
    text: str | None = None
    created_at: datetime.datetime | None = None
    id: int | None = None


@dataclass(frozen=True)
class SourceVersion:
    """A stage version of another instance, from which inputs were copied."""

    instance: str
    stage: str
    number: int


@dataclass(frozen=True)
class StageVersion:
    """The tables that are visible at one time, by asset. Number 0 has no tables: nothing was committed yet."""

    stage: str
    number: int
    tables: Mapping[str, TableVersion]

    @cached_property
    def by_task(self) -> Mapping[str, Sequence[TableVersion]]:
        """The tables of each task, by its name."""
        tasks: dict[str, list[TableVersion]] = {}
        for table in self.tables.values():
            tasks.setdefault(table.task, []).append(table)
        return tasks


@dataclass(frozen=True)
class Commit:
    """What the catalog says about a stage version itself. `restored` is set when a rollback made it: the number of the
    version whose tables it has."""

    number: int
    committed_at: datetime.datetime
    run_id: str
    sources: tuple[SourceVersion, ...]
    restored: int | None


@dataclass(frozen=True)
class CheckFinding:
    """The finding of a check in a table version: how many rows are bad, and some of them."""

    bad_rows: int
    sample: Sequence[Mapping[str, Any]]
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """What one run did about one table, and why.

    Attributes:
        old_text, new_text: the keys of the texts of code and query, before and after, when these have changed.
        same: whether a task that ran has made the same content as before; None when it was not compared.
    """

    run_id: str
    stage: str
    asset: str
    reason: Reason
    seconds: float
    table_version: int
    old_text: str | None = None
    new_text: str | None = None
    same: bool | None = None
    at: datetime.datetime | None = None

    @property
    def cached(self) -> bool:
        """Whether nothing ran."""
        return self.reason.kind is ReasonKind.cached
