"""What the catalog holds: table versions, stage versions, and what runs and checks did."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Origin: TypeAlias = tuple[str, str, str, str]
"""A column that another one comes from: instance id, stage, asset, column."""


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

    `kind`: "table"; "view", "blob" and "json" for what is no table. `value` is that of "json" (see `values`), `shape`
    what is around the tables of one execution, where there is something. `file` is the file of a blob: a hash of its
    bytes. What is no table or view has no object named `physical`.

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
    kind: str = "table"
    value: Any = None
    text: str | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)
    shape: Any = None
    file: str | None = None
    created_at: datetime.datetime | None = None
    id: int | None = None


@dataclass(frozen=True)
class Source:
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
    """What the catalog says about a stage version itself. `note` is set for what no run of the stage has made."""

    number: int
    committed_at: datetime.datetime
    run_id: str
    sources: tuple[Source, ...]
    note: str | None


@dataclass(frozen=True)
class Finding:
    """What a check has found in a table version: how many rows are bad, and some of them."""

    bad_rows: int
    sample: Sequence[Mapping[str, Any]]
    seconds: float


@dataclass(frozen=True)
class RunTable:
    """What one run did about one table. `reason` is why it ran, or `cached`.

    When it ran: `old_text` and `new_text` are the keys of the texts of code and query, of what was there and of what
    was made; `same`: the content was what it had been before.
    """

    run_id: str
    stage: str
    asset: str
    reason: str
    seconds: float
    table_version: int
    old_text: str | None = None
    new_text: str | None = None
    same: bool | None = None
    at: datetime.datetime | None = None
