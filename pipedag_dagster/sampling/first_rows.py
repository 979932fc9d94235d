"""Which rows of a source table a small instance gets: the same ones every time, on every machine.

The first N rows in the order of the primary key; without a primary key, in the order of a hash of the row, which
spreads them over the table. Both orders are total up to equal rows, so smaller samples are part of larger ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.digest import digest
from pipedag_dagster.names import quote
from pipedag_dagster.versions.content_hash import row_hash
from pipedag_dagster.versions.write_table import Constraints


@dataclass(frozen=True)
class Sample:
    """What a small instance gets of a source table.

    Attributes:
        schema: of the physical table.
        rows: how many, at most; all without it.
    """

    schema: str
    table: TableVersion
    rows: int | None

    @property
    def query(self) -> str:
        """The SQL text that selects the sample."""
        table = self.table
        columns = ", ".join(quote("t", column.name) for column in table.columns)
        query = f"SELECT {columns} FROM {quote(self.schema, table.physical)} AS t"
        if self.rows is None:
            return query
        # Texts in the order of their bytes: the order of a locale differs from server to server.
        texts = {column.name for column in table.columns if column.type.startswith(("text", "character"))}
        key = [quote("t", name) + (' COLLATE "C"' if name in texts else "") for name in table.primary_key]
        order = key or [row_hash(table.columns)]
        return f"{query} ORDER BY {', '.join(order)} LIMIT {self.rows}"

    @property
    def constraints(self) -> Constraints:
        """The constraints of the table, for its copy."""
        non_nullable = tuple(column.name for column in self.table.columns if not column.nullable)
        return Constraints(self.table.primary_key, self.table.indexes, non_nullable)

    @property
    def key(self) -> str:
        """What the copy depends on."""
        table = self.table
        return digest("copy", table.stage, table.name, table.data_version, str(self.rows), repr(self.constraints))
