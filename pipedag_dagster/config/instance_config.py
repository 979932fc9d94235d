"""The configuration of one instance, ready to use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from pipedag_dagster.config.automation import Poll, Refresh, ReportCommits, Schedule
from pipedag_dagster.config.database_url import DatabaseUrl
from pipedag_dagster.config.keys import Key, Settings
from pipedag_dagster.config.sample import Sample
from pipedag_dagster.errors import Problem

COPY_ATTRS = frozenset({"copy_filtered_input", "copy_source", "copy_per_user", "copy_filter_cnt"})
"""The attrs that this package reads. All others belong to the user."""


@dataclass(frozen=True)
class ExecutorConfig:
    """The chosen executor and its options."""

    name: str = "in_process"
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # they may contain a password


@dataclass(frozen=True)
class WiderSample:
    """The sample of the instance that another one is within: `sample: {within: midi}`."""

    instance_name: str
    sample: Sample
    default_rows: int | None
    problem: Callable[[Key, str], Problem]


class InstanceConfig(Settings):
    """One instance: the settings of its YAML, and what was computed from the other keys.

    Every placeholder is filled in. `ConfigFiles.instance` makes it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    pipeline: str
    name: str
    flow: str | None = None
    """The flow whose settings are part of it."""
    instance_id: str
    per_user: bool
    url: DatabaseUrl
    schema_prefix: str
    schema_suffix: str
    role: str | None = None
    create_database_if_not_exists: bool
    print_materialize: bool
    print_sql: bool
    unlogged: Mapping[str, bool] = {}
    """Whether tables are stored unlogged, by label of `materialization_details`; `""` is the default."""
    dtype_backend: str = "nullable"
    """The dtypes of the pandas DataFrames that tasks get: one of `DTYPE_BACKENDS`."""
    executor: ExecutorConfig
    schedule: Schedule | None = None
    """`schedule`, `refresh`, `poll` and `report_commits` are None where they are switched off."""
    refresh: Refresh | None = None
    poll: Poll | None = None
    report_commits: ReportCommits | None = None
    wider: WiderSample | None = None
    """The sample that this instance's sample is part of."""
    attrs: dict[Any, Any]
    plain_attrs: frozenset[Any] = frozenset()
    """The attrs that were written without a placeholder, so that they are no secrets."""
    base_path: str
    """Where blobs are: a folder, or a url of fsspec."""
    project: Path
    """The folder of the project, where `.pipedag` is."""
    file: Path
    """The file of the instance, for messages."""
    problem: Callable[[Key, str], Problem]
    """`problem(key, message)` is a mistake in the value of a key, reported at its file and line."""

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        # Without attrs, and without user and query of the url: they may contain a secret.
        host = "embedded" if self.url == "embedded" else f"{self.url.host or ''}/{self.url.database or ''}"
        yield from (("name", self.name), ("instance_id", self.instance_id), ("database", host), ("file", self.file))

    @property
    def copy_source(self) -> str | None:
        """The instance from which inputs are copied; None when they come from the real sources."""
        return self.attrs["copy_source"] if self.attrs.get("copy_filtered_input") is True else None

    @property
    def copy_per_user(self) -> bool:
        """Whether inputs are copied from the user's own `copy_source`."""
        return self.attrs.get("copy_per_user") is True

    @property
    def default_rows(self) -> int | None:
        """How many rows of an input table are copied that `sample.tables` does not name; None for all."""
        return self.attrs.get("copy_filter_cnt") if self.sample.rows is None else self.sample.rows
