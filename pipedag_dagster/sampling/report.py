"""How good a sample is: its references, its columns and its rare rows beside those of its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipedag_dagster.names import quote
from pipedag_dagster.sampling.comparison import ColumnComparison, compare
from pipedag_dagster.sampling.profile import ProfileStore
from pipedag_dagster.sampling.relation_statistics import (
    RelationStatistics,
    broken_references,
    relation_statistics,
    source_relation,
)
from pipedag_dagster.sampling.rules import ChildrenOf, Fraction, Relation, Rows, SampleSpec
from pipedag_dagster.sampling.selection import SETTINGS
from pipedag_dagster.sampling.source_tables import Connection, SourceTable
from pipedag_dagster.sampling.statistics import sample_statistics, source_statistics


@dataclass(frozen=True)
class CommittedSample:
    """A table of a small instance, and the table that it was sampled from.

    Attributes:
        reasons: rows by reason (the names of `selection.Why`).
    """

    sample: SourceTable
    source: SourceTable
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class RelationReport:
    """A relation in the sample and in the source. `broken` rows refer to a row that only the source has."""

    relation: Relation
    sample: RelationStatistics
    source: RelationStatistics
    broken: int

    def as_json(self) -> dict[str, Any]:
        """Broken references and shares, for a catalog and for people."""
        ours, theirs = self.sample, self.source
        return {
            "relation": str(self.relation),
            "broken": self.broken,
            "orphans": ours.orphan_share,
            "orphans of source": theirs.orphan_share,
            "NULL": ours.unset_share,
            "NULL of source": theirs.unset_share,
        }


@dataclass(frozen=True)
class TableReport:
    """One table of a sample beside its source.

    Attributes:
        effective: so many rows chosen independently would say as much about proportions: rows that came with one parent
            are alike. None when the rows were not chosen at random.
    """

    name: str
    rows: int
    source_rows: int
    reasons: Mapping[str, int]
    effective: float | None
    columns: tuple[ColumnComparison, ...]
    relations: tuple[RelationReport, ...]

    @property
    def share(self) -> float:
        return self.rows / self.source_rows if self.source_rows else 1.0

    def as_json(self) -> dict[str, Any]:
        """The report, for programs. No value of the data is in it but those that the sample lacks."""
        names = ("name", "measure", "distance", "bound", "is_far", "missing", "edge_cases")
        return {
            "table": self.name,
            "rows": self.rows,
            "source_rows": self.source_rows,
            "reasons": dict(self.reasons),
            "relations": [relation.as_json() for relation in self.relations],
            "columns": [{name: getattr(column, name) for name in names} for column in self.columns],
        }

    @property
    def broken(self) -> int:
        return sum(relation.broken for relation in self.relations)

    @property
    def far(self) -> list[ColumnComparison]:
        """The columns whose distribution chance alone does not explain."""
        return [column for column in self.columns if column.is_far]


def report(
    sample: Connection, source: Connection, tables: Mapping[str, CommittedSample], spec: SampleSpec, store: ProfileStore
) -> list[TableReport]:
    """Compare a committed sample with its source, table by table.

    Args:
        sample, source: connections in a transaction, to the small instance and to its source.
        tables: by `stage.asset`.
        store: remembers the statistics of the source's tables.
    """
    prepare(sample, source)
    reports = []
    for name, table in tables.items():
        relations = tuple(
            relation_report(sample, source, one, tables, store)
            for one in spec.relations
            if one.child == name and one.parent in tables
        )
        full = source_statistics(source, table.source, store)
        ours = sample_statistics(sample, table.sample, full)
        effective = _effective_rows(sample, name, table, spec) if ours.rows < full.rows else None
        columns = tuple(
            compare(column, full.columns[column], ours.columns[column], effective) for column in full.columns
        )
        reports.append(TableReport(name, ours.rows, full.rows, table.reasons, effective, columns, relations))
    return reports


def prepare(*connections: Connection) -> None:
    """Set up the transactions of connections for comparing."""
    for connection in connections:
        connection.execute(SETTINGS.encode())


def relation_report(
    sample: Connection,
    source: Connection,
    relation: Relation,
    tables: Mapping[str, CommittedSample],
    store: ProfileStore,
) -> RelationReport:
    """Compare how the rows of two committed tables refer to each other with how those of the source do.

    Args:
        tables: has both tables of the relation.
    """
    child, parent = tables[relation.child], tables[relation.parent]
    full = source_relation(source, relation, child.source, parent.source, store)
    ours = relation_statistics(sample, relation, child.sample, parent.sample)
    broken = 0
    if ours.orphans:
        broken = broken_references(sample, relation, child.sample, parent.sample, source, child.source, parent.source)
    return RelationReport(relation, ours, full, broken)


def _effective_rows(connection: Connection, name: str, table: CommittedSample, spec: SampleSpec) -> float | None:
    rule = spec.rule(name)
    if isinstance(rule, Rows | Fraction):
        return float(table.reasons.get("rule", 0)) or None
    if not isinstance(rule, ChildrenOf):
        return None
    relations = [one for one in spec.relations if one.child == name and one.parent in rule.parents]
    return min((_clusters(connection, table.sample, relation.columns) for relation in relations), default=None)


def _clusters(connection: Connection, table: SourceTable, columns: Sequence[str]) -> float:
    """The number of equal clusters that rows with equal references amount to. A row without a reference is its own."""
    keys = [quote("t", column) for column in columns]
    given = " AND ".join(f"{key} IS NOT NULL" for key in keys)
    groups = [*keys, f"CASE WHEN NOT ({given}) THEN t.ctid END"]
    counted = f"SELECT count(*) AS rows FROM {table.sql} AS t GROUP BY {', '.join(groups)}"
    query = f"SELECT coalesce(sum(rows) ^ 2 / sum(rows ^ 2), 0)::double precision FROM ({counted}) AS c"
    row = connection.execute(query.encode()).fetchone()
    return float(row[0]) if row else 0.0


def summary(reports: Sequence[TableReport]) -> str:
    """One line on how good the sample is.

    >>> summary([])
    'No table was sampled.'
    """
    sampled = [one for one in reports if one.rows < one.source_rows]
    if not sampled:
        return "Every table was copied whole." if reports else "No table was sampled."
    broken = sum(one.broken for one in reports)
    values = sum(len(column.source.categories) for one in reports for column in one.columns)
    kept = values - sum(len(column.missing) for one in reports for column in one.columns)
    judged = [column for one in sampled for column in one.columns if column.bound is not None]
    near = sum(not column.is_far for column in judged)
    text = f"{broken:,} broken references; {kept:,} of {values:,} values of columns with few values"
    return f"{text}; {near:,} of {len(judged):,} distributions as near as chance allows." if judged else f"{text}."
