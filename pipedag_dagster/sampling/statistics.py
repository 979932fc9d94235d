"""The distribution of each column of a table, computed in the database: two scans, whatever the number of columns.

A column with few values is described by how many rows have each of them. Numbers, dates and times are counted between
100 points of a grid, which are roughly the percentiles of the source. Of texts with many values, the lengths are
counted in the same way. A sample is described on the grid of its source, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from pipedag_dagster.names import literal
from pipedag_dagster.sampling.features import ColumnType, column_types
from pipedag_dagster.sampling.profile import ProfileStore
from pipedag_dagster.sampling.row_order import key_hash, share_limit
from pipedag_dagster.sampling.source_tables import Connection, SourceTable

CATEGORIES = 50
"""A column with more values than this is counted on a grid."""
_COLUMNS = 50
"""So many columns are counted in one scan."""
_PAGES = 400
_LONGEST = 100  # characters of a value
_SHOWN = 100  # values of a column
_HASHES = 5000
"""How many different values are counted to estimate how many there are: the error is about 1.4 %."""


@dataclass
class ColumnStatistics:
    """The distribution of one column.

    Attributes:
        by: what is counted: each of a few values, values on a grid, lengths of texts on a grid, or only NULLs.
        rows: of the table.
        nulls: rows without a value.
        distinct: different values; an estimate, unless `exact`.
        categories: rows by value, most frequent first.
        grid: the points between which rows are counted, as texts.
        counts: rows below the first point of the grid, between each two, and from the last one on.
        extremes: "smallest", "largest" (texts), "longest" (characters), "empty" (rows).
    """

    by: Literal["categories", "values", "lengths", "nothing"]
    rows: int = 0
    nulls: int = 0
    distinct: int = 0
    exact: bool = True
    categories: dict[str, int] = field(default_factory=dict)
    grid: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    extremes: dict[str, Any] = field(default_factory=dict)

    @property
    def null_share(self) -> float:
        return self.nulls / self.rows if self.rows else 0.0

    def same_kind(self) -> Self:
        """Empty statistics with the same grid, for a sample."""
        return type(self)(self.by, grid=self.grid)


@dataclass
class TableStatistics:
    """The number of rows and the distribution of each column."""

    rows: int
    columns: dict[str, ColumnStatistics]


def source_statistics(connection: Connection, table: SourceTable, store: ProfileStore) -> TableStatistics:
    """The statistics of a source table. Nothing is scanned when the store has them."""
    body = store.profile(table, "statistics")
    if body is None:
        body = asdict(_Counter(connection, table).run(None))
        store.add_profile(table, "statistics", body)
    columns = {name: ColumnStatistics(**column) for name, column in body["columns"].items()}
    return TableStatistics(body["rows"], columns)


def sample_statistics(connection: Connection, table: SourceTable, source: TableStatistics) -> TableStatistics:
    """The statistics of a sample, on the grid of its source."""
    return _Counter(connection, table).run(source)


class _Counter:
    def __init__(self, connection: Connection, table: SourceTable) -> None:
        self.connection = connection
        self.table = table

    def run(self, like: TableStatistics | None) -> TableStatistics:
        types = column_types(self.connection, self.table)
        found = TableStatistics(0, {})
        for start in range(0, len(types), _COLUMNS):
            part = types[start : start + _COLUMNS]
            shares = [1.0] * len(part)
            if like is None:
                columns, shares = self._look(part)
            else:
                columns = [like.columns[kind.column].same_kind() for kind in part]
            self._count(part, columns, shares)
            found.rows = self._extremes(part, columns)
            found.columns |= {kind.column: column for kind, column in zip(part, columns, strict=True)}
        return found

    def _look(self, types: Sequence[ColumnType]) -> tuple[list[ColumnStatistics], list[float]]:
        """What is to be counted, by some pages of the table; and for each column, which share of its values it takes to
        estimate how many there are."""
        share = min(_PAGES / max(self._pages(), 1), 1.0)
        part = f"TABLESAMPLE SYSTEM ({100 * share}) REPEATABLE (0)" if share < 1 else ""
        points = "array_agg(n / 100.0) FROM generate_series(1, 99) AS n"
        texts = []
        for kind in types:
            measure = _measure(kind)
            grid = (
                f"percentile_disc((SELECT {points})) WITHIN GROUP (ORDER BY {measure})::text[]" if measure else "NULL"
            )
            texts += [f"count(DISTINCT {kind.value})", grid]
        row = self.connection.execute(
            f"SELECT {', '.join(texts)} FROM {self.table.sql} AS t {part}".encode()
        ).fetchone()
        assert row is not None
        columns, shares = [], []
        for at, kind in enumerate(types):
            distinct, grid = row[2 * at], row[2 * at + 1]
            if distinct <= CATEGORIES:
                columns.append(ColumnStatistics("categories"))
            elif _measure(kind):
                columns.append(
                    ColumnStatistics("values" if kind.ordered else "lengths", grid=list(dict.fromkeys(grid)))
                )
            else:
                columns.append(ColumnStatistics("nothing"))
            shares.append(min(_HASHES / max(distinct / share**0.5, 1), 1.0))
            columns[-1].exact = shares[-1] == 1
        return columns, shares

    def _pages(self) -> int:
        query = "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::bigint"
        row = self.connection.execute(query, (self.table.sql,)).fetchone()
        return int(row[0]) if row else 0

    def _count(self, types: Sequence[ColumnType], columns: Sequence[ColumnStatistics], shares: Sequence[float]) -> None:
        """Count the rows by what each column has: by its class (`c3`) and by the hash of its value (`h3`)."""
        expressions = {}
        for at, (kind, column, share) in enumerate(zip(types, columns, shares, strict=True)):
            expressions[f"c{at}"] = _class(kind, column)
            if column.by != "categories":
                value = key_hash([(kind.sql, kind.base)], "", 0)
                expressions[f"h{at}"] = (
                    f"CASE WHEN {kind.sql} IS NOT NULL AND {value} <= {share_limit(share)} THEN {value} END"
                )
        rows = self.connection.execute(_grouped(expressions, self.table.sql).encode()).fetchall()
        for name, is_null, value, groups, number in rows:
            column, share = columns[int(name[1:])], shares[int(name[1:])]
            if name[0] == "h":
                column.distinct += 0 if is_null else round(groups / share)
            elif column.by == "categories":
                column.nulls += number if is_null else 0
                column.distinct += 0 if is_null else groups
                if value is not None:
                    column.categories[value] = column.categories.get(value, 0) + number
            elif is_null:
                column.nulls = number
            elif column.by != "nothing":
                column.counts = column.counts or [0] * (len(column.grid) + 1)
                column.counts[int(value)] = number

    def _extremes(self, types: Sequence[ColumnType], columns: Sequence[ColumnStatistics]) -> int:
        """Find the smallest and the largest values, the longest and the empty texts; return the number of rows."""
        names, texts = [], ["count(*)"]
        for at, kind in enumerate(types):
            for feature in kind.features():
                if feature.aggregate:
                    names.append((at, feature.name))
                    texts.append(
                        f"{feature.aggregate}({feature.expression})" + ("" if feature.name == "longest" else "::text")
                    )
                elif feature.name == "empty":
                    names.append((at, feature.name))
                    texts.append(f"count(*) FILTER (WHERE {feature.expression})")
        row = self.connection.execute(f"SELECT {', '.join(texts)} FROM {self.table.sql} AS t".encode()).fetchone()
        assert row is not None
        for column in columns:
            column.rows = row[0]
        for (at, name), value in zip(names, row[1:], strict=True):
            columns[at].extremes[name] = value
        return int(row[0])


def _measure(kind: ColumnType) -> str:
    """What of a column lies on a grid, in SQL; empty when nothing does."""
    if kind.ordered:
        return kind.sql
    return f"length(({kind.sql})::text)" if kind.text else ""


def _class(kind: ColumnType, column: ColumnStatistics) -> str:
    """What the rows of a column are counted by, in SQL."""
    if column.by == "categories":
        return kind.value
    if column.by == "nothing" or not column.grid:
        return f"CASE WHEN {kind.sql} IS NOT NULL THEN 0 END"
    points = ", ".join(literal(point) for point in column.grid)
    of = kind.base if column.by == "values" else "integer"
    return f"CASE WHEN {kind.sql} IS NOT NULL THEN width_bucket({_measure(kind)}, ARRAY[{points}]::{of}[]) END"


def _grouped(expressions: Mapping[str, str], table: str) -> str:
    """A query that counts the rows of a table by each of the expressions, in one scan. It has a row for each value: the
    name of the expression, whether it is NULL, its text, how many values and how many rows these are. The less frequent
    ones of very many values, and all hashes, come together in one row without a text."""
    names, values = "", ""
    for name in expressions:
        names += f" WHEN GROUPING({name}) = 0 THEN '{name}'"
        text = f"left({name}::text, {_LONGEST})" if name[0] == "c" else f"CASE WHEN {name} IS NOT NULL THEN '' END"
        values += f" WHEN GROUPING({name}) = 0 THEN {text}"
    rows = (
        f"SELECT {', '.join(f'{expression} AS {name}' for name, expression in expressions.items())} FROM {table} AS t"
    )
    counted = (
        f"SELECT CASE{names} END AS name, CASE{values} END AS value, count(*) AS number FROM ({rows}) AS t "
        f"GROUP BY GROUPING SETS ({', '.join(f'({name})' for name in expressions)})"
    )
    place = "row_number() OVER (PARTITION BY name ORDER BY value IS NULL, number DESC) AS place"
    ranked = f"SELECT *, {place} FROM ({counted}) AS c"
    return (
        f"SELECT name, value IS NULL, CASE WHEN name LIKE 'c%' AND place <= {_SHOWN} THEN value END, "
        f"count(*), sum(number)::bigint FROM ({ranked}) AS r GROUP BY 1, 2, 3"
    )
