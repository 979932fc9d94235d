"""What the catalog holds: table versions, stage versions, and what runs and checks did."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pipedag_dagster.catalog.reason import Reason, ReasonKind

Origin: TypeAlias = tuple[str, str, str, str]
"""A column that another one comes from: instance id, stage, asset, column."""


class OutputKind(enum.StrEnum):
    """What an output of a task is stored as: a physical table or view, a file, or JSON in the catalog."""

    table = "table"
    view = "view"
    blob = "blob"
    value = "json"


@dataclass(frozen=True)
class Column:
    """A column as PostgreSQL describes it; `type` is what `format_type` prints. `origins`: what it was made of, where
    that is known."""

    name: str
    type: str
    nullable: bool = True
    origins: tuple[Origin, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class TableVersion:
    """One immutable physical copy of one table.

    `execution` groups the tables that one execution of a task made. `task_key` is the hash of what the task
    depends on; `cache_key` has the value of its cache function too. `parts` are the parts of the keys by name,
    for saying what changed. `data_version` is what the table *is*.

    `value` is set for values, as `json_values` writes them. `file` is set for blobs: the hash of their bytes. Only
    tables and views have an object named `physical` in the database. `shape` is what the task returned around the
    outputs of this execution (a tuple, a dict, …), where there is something.

    `text` is the key of what is kept of the code and the query, `libraries` are the versions of those that it used.
    """

    stage: str
    asset: str
    name: str
    physical: str
    flow: str
    task: str
    execution: str
    slot: str
    task_key: str
    cache_key: str
    parts: Mapping[str, Any]
    code_version: str
    data_version: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...]
    rows: int
    bytes: int
    query: str | None
    run_id: str
    seconds: float
    kind: OutputKind = OutputKind.table
    value: Any = None
    text: str | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)
    shape: Any = None
    file: str | None = None
    created_at: datetime.datetime | None = None
    id: int | None = None

    @property
    def in_database(self) -> bool:
        """Whether it is a table or a view, which has columns and rows."""
        return self.kind in (OutputKind.table, OutputKind.view)


@dataclass(frozen=True)
class SourceVersion:
    """A stage version of another instance, from which inputs were copied."""

    instance: str
    stage: str
    number: int


@dataclass(frozen=True)
class StageVersion:
    """The tables that are visible at one time, by asset. Number 0, without tables: nothing was committed yet."""

    stage: str
    number: int
    tables: Mapping[str, TableVersion]


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
    """What a check has found in a table version: how many rows are bad, and some of them."""

    bad_rows: int
    sample: Sequence[Mapping[str, Any]]
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """What one run did about one table, and why.

    Attributes:
        old_text, new_text: the keys of the texts of code and query, before and after, when these have changed.
        same: whether a task that ran has made the same content as before.
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
