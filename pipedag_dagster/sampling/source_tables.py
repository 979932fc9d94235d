"""The tables that a sample is taken from, as the sampling code sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.names import quote
from pipedag_dagster.sampling.row_order import key_hash

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class SourceTable:
    """One physical table of the source instance.

    Args:
        name: `stage.table`.
        schema: of the physical table.
        physical: its name there.
        is_view: its rows have no ctids. A selection copies them into a work table first; handles point into that copy.
    """

    name: str
    schema: str
    physical: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    is_view: bool = False
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
        return key_hash(typed, f"{self.name}({','.join(columns)})", seed)
