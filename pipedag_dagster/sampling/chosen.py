"""A sample in the transaction that has chosen it, and whether it makes sense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipedag_dagster.catalog.catalog import SampledRows
from pipedag_dagster.sampling.edge_cases import EdgeCase
from pipedag_dagster.sampling.rules import SampleSpec
from pipedag_dagster.sampling.selection import Selection
from pipedag_dagster.sampling.source_tables import Connection

_LARGE = 10_000
"""A sample that has all of so many rows is a mistake. Of fewer, small instances may well have all."""


@dataclass(frozen=True)
class Chosen:
    """A sample, in the transaction that has chosen it.

    Attributes:
        spec: what was asked for.
        edge_cases: the rare rows that are in it, by table.
        rows: what it has of each table.
    """

    connection: Connection
    spec: SampleSpec
    selection: Selection
    edge_cases: Mapping[str, Sequence[EdgeCase]]
    rows: dict[str, SampledRows]

    def refusal(self, instance: str) -> str | None:
        """Why a run would refuse the sample; None when it would copy it.

        Args:
            instance: the name of the small instance.
        """
        who, names = f"Instance {instance!r}", ", ".join(self.rows)
        rows, of = (sum(getattr(one, field) for one in self.rows.values()) for field in ("rows", "source_rows"))
        if not rows and of:
            return (
                f"{who}: the sample of {names} has no rows, and its source has {of:,}. Give one of them a rule that "
                "chooses rows (rows, fraction, where, all) under sample.tables."
            )
        if rows == of >= _LARGE:
            return (
                f"{who}: the sample of {names} has all of their {of:,} rows, although its rules ask for less. Ask for "
                f"fewer rows, or give each of these tables the rule `all` under sample.tables.{self._most()}"
            )
        if self.spec.max_rows is not None and rows > self.spec.max_rows:
            each = ", ".join(f"{name} {one.rows:,}" for name, one in self.rows.items())
            return (
                f"{who}: the sample would have {rows:,} rows ({each}), and sample.max_rows is {self.spec.max_rows:,}. "
                f"Nothing was written.{self._most()} See what brings them: pipedag-dagster sample plan {instance}"
            )
        return None

    def _most(self) -> str:
        """A sentence about the relation that brings most rows; empty when none brings any."""
        brought = Counter(self.selection.brought).most_common(1)
        return "".join(f" {count:,} of them come along by {relation}." for relation, count in brought if count)
