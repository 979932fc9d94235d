"""The result of a check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipedag_dagster.checks import Check

EVALUATED, REMEMBERED, ENFORCED = "evaluated", "remembered", "enforced by the database"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check of one table.

    Attributes:
        bad_rows: how many; None when the check could not be evaluated, which counts as failed.
        message: for people; names some bad rows by their keys.
        query: selects the bad rows of the physical table; None when the check is not a query.
        how: evaluated, remembered from an earlier run, or enforced by the database.
        relations: of a sample: for each relation, the shares of orphans and NULLs beside those of the source.
    """

    check: Check
    stage: str
    asset: str
    bad_rows: int | None
    message: str
    sample: Sequence[Mapping[str, Any]] = ()
    query: str | None = None
    seconds: float = 0.0
    how: str = EVALUATED
    relations: Sequence[Mapping[str, Any]] = ()

    @property
    def passed(self) -> bool:
        return self.bad_rows == 0

    def __str__(self) -> str:
        return f"{self.stage}.{self.asset}: {self.check.name}: {self.message}"
