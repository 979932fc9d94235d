"""The tables that a sample is taken from, as the sampling code sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg

from pipedag_dagster.catalog.catalog import Column, OutputKind, TableVersion
from pipedag_dagster.names import quote
from pipedag_dagster.sampling.row_order import is_integer, key_hash
from pipedag_dagster.sampling.rules import Relation
from pipedag_dagster.versions.table_store import TableStore

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class SourceTable:
    """One physical table of the source instance.

    Args:
        name: `stage.table`.
        schema: of the physical table.
        physical: its name there.
        rows: how many it has; None where that is not known, and must be counted.
        is_view: its rows have no ctids. A selection copies them into a work table first; handles point into that copy.
    """

    name: str
    schema: str
    physical: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    is_view: bool = False
    rows: int | None = None
    types: dict[str, str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", {column.name: column.type for column in self.columns})

    @property
    def sql(self) -> str:
        """The quoted name of the physical table."""
        return quote(self.schema, self.physical)

    def row_hash(self, alias: str, seed: int) -> str:
        """An SQL expression: the hash by which rows of this table are ordered. Only equal rows have equal hashes."""
        if self.primary_key:
            return self.hash_of(tuple(quote(alias, name) for name in self.primary_key), self.primary_key, seed)
        row = ", ".join(quote(alias, column.name) for column in self.columns)
        return f'hashtextextended(ROW({row})::text COLLATE "C", {seed})'

    def hash_of(self, expressions: tuple[str, ...], columns: tuple[str, ...], seed: int) -> str:
        """An SQL expression: the hash of values of these columns, in this table or in a reference to it."""
        typed = [(expression, self.types[column]) for expression, column in zip(expressions, columns, strict=True)]
        return key_hash(typed, self._domain(columns), seed)

    def reference_hash(self, child: SourceTable, relation: Relation, seed: int) -> str:
        """An SQL expression on rows `t` of a child: the hash that the row has to which they refer, or would have.

        A reference whose type is not that of the key is hashed as it is, because it may have values that no key has.
        """
        typed = []
        for column, key in zip(relation.columns, relation.parent_columns, strict=True):
            own, key_type = child.types[column], self.types[key]
            alike = own == key_type or (is_integer(own) and is_integer(key_type))
            typed.append((quote("t", column), key_type if alike else own))
        return key_hash(typed, self._domain(relation.parent_columns), seed)

    def _domain(self, columns: tuple[str, ...]) -> str:
        return f"{self.name}({','.join(columns)})"


def source_table(store: TableStore, table: TableVersion) -> SourceTable:
    """A table version in a store, as the sampling code sees it. Nobody knows how many rows a view has."""
    schema, is_view = store.schemas(table.stage).versions, table.kind is OutputKind.view
    name, rows = f"{table.stage}.{table.asset}", None if is_view else table.rows
    return SourceTable(name, schema, table.physical, table.columns, table.primary_key, is_view, rows)
