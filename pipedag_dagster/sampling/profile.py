"""The rare rows of a physical table, found in one scan.

The first look reads some pages of the table, chosen at random. It says which columns have few values, and which values
are common. Then one scan picks two kinds of rows: those with the lowest hashes, which have all common values among
them, and all rows with anything that is not common. The first look only saves work. The result does not depend on it:
where it was wrong, the scan is repeated and picks all rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipedag_dagster.sampling.features import ColumnType, Feature, FeatureName, column_types
from pipedag_dagster.sampling.row_order import share_limit
from pipedag_dagster.sampling.source_tables import Connection, SourceTable

_COLUMNS = 100
"""So many columns are searched in one scan. PostgreSQL allows 1,664 expressions in a query."""
_LONGEST = 100  # characters of a value in the result
_LEAST = {"values": 50, "depth": 3}
"""A profile answers questions up to these, or up to what was asked for. So instances of two sizes share one."""


@dataclass(frozen=True)
class FirstLook:
    """How a table is looked at first.

    Args:
        pages: so many are read.
        common: what is on so many of them is common. Pages, not rows: rows that are alike often lie together.
    """

    pages: int = 400
    common: int = 20


class ProfileStore(Protocol):
    """Remembers what was found out about physical tables, which never change."""

    def profile(self, table: SourceTable, key: str) -> Any: ...
    def add_profile(self, table: SourceTable, key: str, body: Any) -> None: ...


@dataclass(frozen=True)
class RareRows:
    """The rows with one rare thing.

    Attributes:
        value: of the column, as text, where the feature is a value.
        handles: the ctids of the rows with the lowest hashes, lowest first.
    """

    feature: FeatureName
    column: str
    value: str | None
    handles: tuple[str, ...]


def rare_rows(
    connection: Connection,
    table: SourceTable,
    seed: int,
    store: ProfileStore,
    *,
    values: int,
    depth: int,
    first_look: FirstLook = FirstLook(),
) -> list[RareRows]:
    """The rare rows of a table.

    Args:
        connection: in a transaction. Nothing is written.
        seed: of the hash by which rows are ordered.
        store: asked first. What was found is added to it.
        values: columns with more different values have no rows by value.
        depth: so many rows of each kind, at most.
    """
    key = f"rare rows, seed {seed}"
    body = store.profile(table, key)
    if body is None or body["values"] < values or body["depth"] < depth:
        limits = {"values": max(values, _LEAST["values"]), "depth": max(depth, _LEAST["depth"])}
        found = _Scan(connection, table, seed, limits["values"], limits["depth"], first_look).run()
        body = limits | {"rows": [[rare.feature, rare.column, rare.value, list(rare.handles)] for rare in found]}
        store.add_profile(table, key, body)
    rows = [RareRows(feature, column, value, tuple(handles)) for feature, column, value, handles in body["rows"]]
    return [rare for rare in rows if rare.feature != "value" or _values(rows, rare.column) <= values]


def _values(rows: Sequence[RareRows], column: str) -> int:
    return sum(rare.feature == "value" and rare.column == column for rare in rows)


class _Scan:
    """The search for rare rows in one table. In its SQL, `f3` is the expression of the feature with the number 3."""

    def __init__(
        self, connection: Connection, table: SourceTable, seed: int, values: int, depth: int, look: FirstLook
    ) -> None:
        self.connection = connection
        self.table = table
        self.hash = table.row_hash("t", seed)
        self.values = values
        self.depth = depth
        self.pages = look.pages
        self.common = look.common + 2 * depth

    def run(self) -> list[RareRows]:
        columns = column_types(self.connection, self.table)
        parts = [columns[at : at + _COLUMNS] for at in range(0, len(columns), _COLUMNS)]
        return [rare for part in parts for rare in self._search(part)]

    def _search(self, columns: Sequence[ColumnType]) -> list[RareRows]:
        features = [feature for column in columns for feature in column.features()]
        share = min(self.pages / max(self._pages(), 1), 1.0)
        sample = self._sample(features, share)
        seen = self._look(sample, features)
        few = [at for at, feature in enumerate(features) if feature.name != "value" or seen[at] <= self.values]
        wanted = {at: features[at] for at in few}
        found = None
        if share < 1:
            found = self._pick(sample, wanted, _Limits(share_limit(share), self.common, seen))
        return self._pick(sample, wanted, None) or [] if found is None else found

    def _pages(self) -> int:
        query = "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::bigint"
        row = self.connection.execute(query, (self.table.sql,)).fetchone()
        return int(row[0]) if row else 0

    def _sample(self, features: Sequence[Feature], share: float) -> str:
        part = f"TABLESAMPLE SYSTEM ({100 * share}) REPEATABLE (0)" if share < 1 else ""
        rows = f"SELECT split_part(t.ctid::text, ',', 1) AS page, {_listed(dict(enumerate(features)))}"
        return f"sample AS MATERIALIZED ({rows} FROM {self.table.sql} AS t {part})"

    def _look(self, sample: str, features: Sequence[Feature]) -> list[int]:
        """For each feature: how many values the sample has, or on how many of its pages there are rows with it."""
        counts = []
        for at, feature in enumerate(features):
            if feature.name == "value":
                counts.append(f"count(DISTINCT f{at})")
            else:
                where = f"f{at} = (SELECT {feature.aggregate}(f{at}) FROM sample)" if feature.aggregate else f"f{at}"
                counts.append(f"count(DISTINCT page) FILTER (WHERE {where})")
        row = self.connection.execute(f"WITH {sample} SELECT {', '.join(counts)} FROM sample".encode()).fetchone()
        return [int(count) for count in row or ()]

    def _pick(self, sample: str, wanted: Mapping[int, Feature], limits: _Limits | None) -> list[RareRows] | None:
        """The rare rows; None when the limits left out too many.

        Args:
            limits: which rows to pick; without it, all.
        """
        common = [
            f"common{at} AS MATERIALIZED (SELECT f{at} AS value FROM sample WHERE f{at} IS NOT NULL GROUP BY f{at} "
            f"HAVING count(DISTINCT page) >= {self.common})"
            for at, feature in wanted.items()
            if feature.name == "value"
        ]
        rows = f"SELECT t.ctid AS handle, {self.hash} AS hash, {_listed(wanted)} FROM {self.table.sql} AS t"
        condition = limits.picked(wanted) if limits else "true"
        picked = f"picked AS MATERIALIZED (SELECT * FROM ({rows}) AS t WHERE {condition})"
        queries = [self._lowest(at, feature) for at, feature in wanted.items()]
        if limits:
            missed = " OR ".join(limits.missed(wanted, self.depth)) or "false"
            queries.append(f"SELECT -1, NULL, NULL, NULL WHERE {missed}")
        query = f"WITH {', '.join([sample, *common, picked])} {' UNION ALL '.join(queries)}"
        groups: dict[tuple[int, str], tuple[str | None, list[str]]] = {}
        for at, value, first, handle in self.connection.execute(query.encode()):
            if at == -1:
                return None
            groups.setdefault((at, first), (value, []))[1].append(handle)
        return [
            RareRows(wanted[at].name, wanted[at].column, value, tuple(handles))
            for (at, _), (value, handles) in groups.items()
        ]

    def _lowest(self, at: int, feature: Feature) -> str:
        """A query for the rows of a feature with the lowest hashes. Rows that belong together have the same `first`."""
        within, where = "", f"f{at}"
        if feature.name == "value":
            within, where = f"PARTITION BY f{at}", f"f{at} IS NOT NULL"
        elif feature.aggregate:
            where = f"f{at} = (SELECT {feature.aggregate}(f{at}) FROM picked)"
        value = f"left(f{at}::text, {_LONGEST})" if feature.name == "value" else "NULL"
        numbered = (
            f"SELECT {value} AS value, first_value(handle) OVER w AS first, handle, row_number() OVER w AS place "
            f"FROM picked WHERE {where} WINDOW w AS ({within} ORDER BY hash, handle)"
        )
        counted = f"SELECT *, count(*) FILTER (WHERE place = 1) OVER () AS groups FROM ({numbered}) AS n"
        return (
            f"(SELECT {at}, value, first::text, handle::text FROM ({counted}) AS n "
            f"WHERE place <= {self.depth} AND groups <= {self.values} ORDER BY first, place)"
        )


@dataclass(frozen=True)
class _Limits:
    """Which rows the scan picks: those with hashes up to `hash`, and those with anything that is not common.

    Attributes:
        common: on so many pages of the sample is what is common.
        seen: for each feature, how many values the sample has, or on how many of its pages there are rows with it.
    """

    hash: int
    common: int
    seen: Sequence[int]

    def picked(self, wanted: Mapping[int, Feature]) -> str:
        """A condition: the row is picked."""
        return " OR ".join([f"hash <= {self.hash}", *(self._is_rare(at, feature) for at, feature in wanted.items())])

    def _is_rare(self, at: int, feature: Feature) -> str:
        if feature.name == "value":
            # Neither NOT IN nor <> ALL, which would compare with one value after the other.
            return f"(f{at} IS NOT NULL AND (f{at} IN (SELECT value FROM common{at})) IS NOT TRUE)"
        if not feature.aggregate:
            return "false" if self.seen[at] >= self.common else f"f{at}"
        if not self.seen[at]:
            return f"f{at} IS NOT NULL"
        beyond = {"min": "<", "max": ">"}[feature.aggregate] + ("" if self.seen[at] >= self.common else "=")
        return f"f{at} {beyond} (SELECT {feature.aggregate}(f{at}) FROM sample)"

    def missed(self, wanted: Mapping[int, Feature], depth: int) -> Iterator[str]:
        """Conditions: something common has too few rows among those with low hashes."""
        low = f"hash <= {self.hash}"
        for at, feature in wanted.items():
            if feature.name == "value":
                yield (
                    f"EXISTS (SELECT FROM common{at} LEFT JOIN picked ON f{at} = value AND {low} "
                    f"GROUP BY value HAVING count(handle) < {depth})"
                )
            elif self.seen[at] >= self.common:
                extreme = f"(SELECT {feature.aggregate}(f{at}) FROM sample)"
                where = f"f{at} = {extreme}" if feature.aggregate else f"f{at}"
                yield f"(SELECT count(*) FROM picked WHERE {where} AND {low}) < {depth}"


def _listed(features: Mapping[int, Feature]) -> str:
    return ", ".join(f"{feature.expression} AS f{at}" for at, feature in features.items())
