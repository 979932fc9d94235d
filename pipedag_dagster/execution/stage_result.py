"""What a stage run did."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.catalog.reason import CACHED, Reason, ReasonKind
from pipedag_dagster.execution.check_result import CheckResult
from pipedag_dagster.graph.flow import TaskCall


@dataclass(frozen=True)
class Outcome:
    """What became of one call: its tables, by asset, and why it ran (or that it was cached).

    `reused` are the tables that a lazy task has written itself before, and that were not written again.
    """

    call: TaskCall
    tables: Mapping[str, TableVersion]
    reason: Reason
    seconds: float
    reused: Collection[str] = ()

    @property
    def cached(self) -> bool:
        return self.reason.kind is ReasonKind.cached

    @property
    def written(self) -> Mapping[str, TableVersion]:
        """The tables that were written."""
        return {} if self.cached else {name: one for name, one in self.tables.items() if name not in self.reused}

    def reason_of(self, asset: str) -> Reason:
        """Why a table was written, or that it was cached."""
        return CACHED if asset in self.reused else self.reason


@dataclass(frozen=True)
class StageResult:
    """What a stage run did.

    Attributes:
        version, previous: the stage version that is visible now, and the one before.
        seen: the tables of the instance as the run sees them at its end.
        reads: the versions of the other stages that it has read. A stage of another instance is named `full/raw`.
    """

    outcomes: tuple[Outcome, ...]
    version: int
    previous: int
    checks: tuple[CheckResult, ...] = ()
    seen: tuple[TableVersion, ...] = ()
    reads: Mapping[str, int] = field(default_factory=dict)
