"""The sample of one table: what a small instance copies of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipedag_dagster.catalog.catalog import SampledRows, TableVersion
from pipedag_dagster.postgres.sql_text import is_ordered
from pipedag_dagster.versions.write_table import Constraints


@dataclass(frozen=True)
class Sample:
    """What a small instance gets of one table of its source.

    Attributes:
        table: the table version of the source.
        rules: a hash of everything that the rules say about the table and those that it is sampled with.
        rows: what is in the sample.
        key: under which the catalog remembers the handles. None when all rows are copied, or nothing is remembered.
    """

    table: TableVersion
    rules: str
    rows: SampledRows
    key: str | None

    def as_part(self) -> dict[str, Any]:
        """What the catalog keeps with the copy."""
        return {"key": self.key, **asdict(self.rows), "ordered": is_in_order(self.table)}

    @property
    def constraints(self) -> Constraints:
        """The constraints of the table, for its copy."""
        non_nullable = tuple(column.name for column in self.table.columns if not column.nullable)
        return Constraints(self.table.primary_key, self.table.indexes, non_nullable)


def is_in_order(table: TableVersion) -> bool:
    """Whether the rows of a table have an order that counts: that of a DataFrame, or of an ORDER BY."""
    copied = table.parts.get("sample")
    if copied is not None:
        return bool(copied["ordered"])
    return table.query is None or is_ordered(table.query)
