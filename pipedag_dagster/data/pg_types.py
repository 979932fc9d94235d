"""Which PostgreSQL types can be read, and how: as ADBC reads them, with a cast that keeps every value, or not at all.

ADBC alone is not enough: it reads `money` as a number of cents, `oid` as signed, an array of two dimensions as one of
one dimension, and types that it does not know as the bytes of the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipedag_dagster.data.value_checks import Refusal
from pipedag_dagster.names import literal, quote

_AS_IS = frozenset(
    {
        *("bool", "int2", "int4", "int8", "float4", "float8", "numeric", "text", "varchar", "bpchar", "bytea"),
        *("date", "time", "timestamp", "timestamptz", "interval", "uuid", "json", "jsonb"),
    }
)
_CAST = {"money": "numeric", "oid": "int8", "name": "text", "char": "text", "xml": "text"}
_ADVICE = {
    "timetz": "Select the time and the offset, or text: column::text.",
    "composite": "Select its parts, as in (column).part, or text: column::text.",
    "range": "Select lower(column) and upper(column), or text: column::text.",
}

# The type of an array's elements, and the base type of a domain, are found by following the chain to its end.
_DESCRIBE = """
WITH RECURSIVE types AS (
  SELECT attnum, attname, format_type(atttypid, atttypmod) AS declared, 0 AS depth, atttypid AS type,
         atttypmod AS modifier, false AS is_array, false AS elements_are_domains
  FROM {columns}
  UNION ALL
  SELECT attnum, attname, declared, depth + 1, CASE WHEN typtype = 'd' THEN typbasetype ELSE typelem END,
         CASE WHEN typtype = 'd' THEN typtypmod ELSE modifier END, is_array OR typtype <> 'd',
         elements_are_domains OR (is_array AND typtype = 'd')
  FROM types JOIN pg_catalog.pg_type t ON t.oid = type
  WHERE typtype = 'd' OR typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc)
SELECT DISTINCT ON (attnum) attname::text, declared, modifier, is_array, elements_are_domains, typname::text,
       typnamespace = 'pg_catalog'::pg_catalog.regnamespace, typtype::text
FROM types JOIN pg_catalog.pg_type t ON t.oid = type ORDER BY attnum, depth DESC"""


_OF_TABLE = """pg_catalog.pg_attribute
  WHERE attrelid = {table}::pg_catalog.regclass AND attnum > 0 AND NOT attisdropped"""
_OF_QUERY = "(VALUES {rows}) AS columns (attnum, attname, atttypid, atttypmod)"


@dataclass(frozen=True)
class PgColumn:
    """A column of a table in PostgreSQL.

    Args:
        declared: its type as PostgreSQL prints it, as in `numeric(10,2)[]`.
        modifier: PostgreSQL's `atttypmod`, of which `decimal_type` is made; -1 for none.
        base: the name of its type without domains and arrays, or else `enum`, `composite`, `range` or `citext`.
        decimal: the Arrow type of decimals of any size (see `with_decimals`), where it was looked for.
    """

    name: str
    declared: str
    modifier: int
    is_array: bool
    elements_are_domains: bool
    base: str
    decimal: pa.DataType | None = None

    @property
    def expression(self) -> str:
        """What is selected in its place.

        Raises:
            Refusal: its type cannot be read.
        """
        column = quote(self.name)
        target = "text" if self.base in ("enum", "citext") else _CAST.get(self.base)
        if self.base not in _AS_IS and target is None:
            advice = _ADVICE.get(self.base, "Select it as text: column::text.")
            raise Refusal(f"data frames have nothing for its type {self.declared}. {advice}")
        if target is None and self.elements_are_domains:
            target = self.base
        if target is not None:
            column += f"::pg_catalog.{target}{'[]' if self.is_array else ''}"
        return column

    @property
    def flag(self) -> str | None:
        """A second expression for it: text for each row that ADBC would change. The expression is NULL there, or (for
        an array) the text is the array's dimensions."""
        column = quote(self.name)
        if self.is_array:
            return f"CASE WHEN array_ndims({column}) > 1 OR array_lower({column}, 1) <> 1 THEN array_dims({column}) END"
        if self.base == "interval":
            return f"CASE WHEN {_has_no_length(column)} THEN {column}::text END"
        return None

    @property
    def decimal_type(self) -> pa.DataType | None:
        """The Arrow type of a `numeric(precision, scale)`; None where the type does not say it."""
        if self.base != "numeric" or self.modifier < 4:
            return self.decimal
        precision, scale = (self.modifier - 4) >> 16 & 0xFFFF, (self.modifier - 4) & 0x7FF
        if scale > precision or precision > 76:  # a negative scale, too
            return None
        return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _has_no_length(column: str) -> str:
    """Whether an interval has months, is infinite, or has more hours than ADBC's nanoseconds can count."""
    parts = f"extract(year FROM {column}) <> 0 OR extract(month FROM {column}) <> 0"
    return f"{parts} OR abs(extract(hour FROM {column})) > 2562046 OR abs(extract(day FROM {column})) > 106751991"


def describe(cursor: Any, table: str) -> list[PgColumn]:
    """The columns of a table or view, in their order.

    Args:
        table: its quoted name.
    """
    return _described(cursor, _OF_TABLE.format(table=literal(table)))


def describe_columns(cursor: Any, columns: Sequence[tuple[str, int, int]]) -> list[PgColumn]:
    """The columns of the result of a query.

    Args:
        columns: the name, type oid and type modifier of each.
    """
    values = (
        f"({number}, {literal(name)}::pg_catalog.text, {oid}::pg_catalog.oid, {modifier})"
        for number, (name, oid, modifier) in enumerate(columns)
    )
    return _described(cursor, _OF_QUERY.format(rows=", ".join(values)))


def _described(cursor: Any, columns: str) -> list[PgColumn]:
    cursor.execute(_DESCRIBE.format(columns=columns))
    return [
        PgColumn(name, declared, modifier, is_array, domains, _base(base, ours, typtype))
        for name, declared, modifier, is_array, domains, base, ours, typtype in cursor.fetchall()
    ]


def _base(name: str, is_catalogs: bool, typtype: str) -> str:
    if typtype in "ecrm":
        return {"e": "enum", "c": "composite", "r": "range", "m": "range"}[typtype]
    return name if is_catalogs or name == "citext" else f"{name} of an extension"


def with_decimals(cursor: Any, columns: Sequence[PgColumn], table: str, where: str | None) -> list[PgColumn]:
    """The columns, with the smallest type of decimals that holds all values where the type of a column does not tell
    it. The table is read for that.

    Args:
        table, where: as for `select`.
    """
    unknown = [each for each in columns if each.base in ("numeric", "money") and each.decimal_type is None]
    if not unknown:
        return list(columns)
    parts = ", ".join(_SIZE.format(values=_numbers(each), place=place) for place, each in enumerate(unknown))
    cursor.execute(f"SELECT {parts} FROM {table}" + (f" WHERE {where}" if where else ""))
    sizes = iter(cursor.fetchone())
    decimals = {}
    for each in unknown:
        digits, scale = next(sizes), next(sizes)
        if scale is None:  # it has no value
            continue
        precision = max(digits + scale, 1)
        if precision <= 76:  # Arrow has no larger ones: reading them says so
            decimals[each.name] = (
                pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
            )
    return [replace(each, decimal=decimals.get(each.name)) for each in columns]


_SIZE = """
  max((SELECT max(CASE WHEN abs(v) >= 1 OR scale(v) = 0 THEN length(trunc(abs(v))::text) ELSE 0 END) {values}))
    AS d{place},
  max((SELECT max(scale(v)) {values})) AS s{place}"""


def _numbers(column: PgColumn) -> str:
    value = column.expression
    return f"FROM unnest({value if column.is_array else f'ARRAY[{value}]'}) AS v"


def select(columns: Sequence[PgColumn], table: str, where: str | None, limit: int | None) -> str:
    """The query for all columns of a table, and for their flags after them."""
    parts = []
    for column in columns:
        interval = column.base == "interval" and not column.is_array
        guarded = f"CASE WHEN NOT ({_has_no_length(quote(column.name))}) THEN {column.expression} END"
        parts.append(guarded if interval else column.expression)
    parts += [column.flag for column in columns if column.flag is not None]
    # Without names: two of them could be alike, and names are known already.
    listed = ", ".join(f"{part} AS c{number}" for number, part in enumerate(parts))
    query = f"SELECT {listed} FROM {table}"
    query += f" WHERE {where}" if where else ""
    return query if limit is None else f"{query} LIMIT {limit}"
