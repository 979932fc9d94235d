"""What can be rare about the rows of a table: values of its columns, NULLs, extremes, long and empty texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipedag_dagster.names import quote
from pipedag_dagster.sampling.source_tables import Connection, SourceTable

FeatureName: TypeAlias = Literal["value", "NULL", "smallest", "largest", "longest", "empty"]


@dataclass(frozen=True)
class Feature:
    """One thing about a column that rows are looked up by.

    Attributes:
        name: "value": the rows with each value are a group of their own. "NULL" and "empty": those for which the
            expression is true are one. "smallest", "largest", "longest": those with the extreme value are one.
        expression: SQL on the row `t`.
    """

    name: FeatureName
    column: str
    expression: str

    @property
    def aggregate(self) -> str:
        """What finds the extreme value: "min" or "max"; empty for the other features."""
        return {"smallest": "min", "largest": "max", "longest": "max"}.get(self.name, "")


@dataclass(frozen=True)
class ColumnType:
    """What PostgreSQL knows about the type of a column; about the base type, when it is a domain.

    Attributes:
        base: its type without a length; of a domain, the base type.
        comparable: its values can be hashed and sorted, as GROUP BY needs it.
        ordered: a number, date, time or interval, with a smallest and a largest value.
        text: a string.
    """

    column: str
    base: str
    is_domain: bool
    comparable: bool
    ordered: bool
    text: bool

    @property
    def sql(self) -> str:
        """The column of the row `t` in SQL."""
        column = quote("t", self.column)
        return f"({column})::{self.base}" if self.is_domain else column  # a domain over an enum has no `=`

    @property
    def value(self) -> str:
        """What rows of `t` with equal values have in common, in SQL. Of values that cannot be compared, the text."""
        return self.sql if self.comparable else f'({self.sql})::text COLLATE "C"'

    def features(self) -> Iterator[Feature]:
        column = self.sql
        yield Feature("value", self.column, self.value)
        yield Feature("NULL", self.column, f"{column} IS NULL")
        if self.ordered:
            yield Feature("smallest", self.column, column)
            yield Feature("largest", self.column, column)
        if self.text:
            yield Feature("longest", self.column, f"length(({column})::text)")
            yield Feature("empty", self.column, f"({column})::text = ''")


def column_types(connection: Connection, table: SourceTable) -> list[ColumnType]:
    """What PostgreSQL knows about the types of the columns of a table."""
    rows = connection.execute(_TYPES, (table.sql,)).fetchall()
    known = {row[0]: ColumnType(*row) for row in rows}
    return [known[column.name] for column in table.columns]


_TYPES = """
WITH RECURSIVE typed AS (
    SELECT attname, atttypid AS type, false AS domain FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT attname, typbasetype, true FROM typed JOIN pg_type ON oid = type WHERE typtype = 'd'
), operators AS (
    SELECT opcintype AS type, amname FROM pg_opclass JOIN pg_am ON pg_am.oid = opcmethod WHERE opcdefault
    UNION
    SELECT castsource, amname FROM pg_cast JOIN pg_opclass ON opcintype = casttarget JOIN pg_am ON pg_am.oid = opcmethod
    WHERE opcdefault AND castmethod = 'b' AND castcontext = 'i'
)
SELECT attname, format_type(t.oid, NULL), domain,
    typtype = 'e' OR (SELECT count(*) FROM operators WHERE type = t.oid AND amname IN ('btree', 'hash')) = 2,
    typcategory IN ('N', 'D', 'T') AND EXISTS (
        SELECT FROM pg_proc WHERE proname = 'min' AND prokind = 'a' AND proargtypes[0] = t.oid
        AND pronamespace = 'pg_catalog'::regnamespace
    ),
    typcategory = 'S'
FROM typed JOIN pg_type AS t ON t.oid = type AND typtype <> 'd'
"""
