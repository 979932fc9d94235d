"""How the rows of two tables refer to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from pipedag_dagster.names import quote
from pipedag_dagster.sampling.profile import ProfileStore
from pipedag_dagster.sampling.rules import Relation
from pipedag_dagster.sampling.source_tables import Connection, SourceTable

_ORPHAN, _UNSET = -1, -2


@dataclass
class RelationStatistics:
    """How the rows of a table refer to another one.

    Attributes:
        rows: that the relation is about: those for which its condition holds.
        unset: rows whose reference is NULL.
        orphans: rows that refer to a row that does not exist.
        children: how many parents have no child, 1, 2 to 3, 4 to 7, … children: each range is twice as wide.
        most: children of one parent.
    """

    rows: int = 0
    unset: int = 0
    orphans: int = 0
    children: list[int] = field(default_factory=list)
    most: int = 0

    @property
    def orphan_share(self) -> float:
        return self.orphans / self.rows if self.rows else 0.0

    @property
    def unset_share(self) -> float:
        return self.unset / self.rows if self.rows else 0.0

    @property
    def children_per_parent(self) -> float:
        """The mean."""
        parents = sum(self.children)
        return (self.rows - self.unset - self.orphans) / parents if parents else 0.0


def source_relation(
    connection: Connection, relation: Relation, child: SourceTable, parent: SourceTable, store: ProfileStore
) -> RelationStatistics:
    """The statistics of a relation in the source. Nothing is scanned when the store has them."""
    key = f"statistics of {relation} in {parent.schema}.{parent.physical}"
    body = store.profile(child, key)
    if body is None:
        body = asdict(relation_statistics(connection, relation, child, parent))
        store.add_profile(child, key, body)
    return RelationStatistics(**body)


def relation_statistics(
    connection: Connection, relation: Relation, child: SourceTable, parent: SourceTable
) -> RelationStatistics:
    """The statistics of a relation between two tables: each is scanned once."""
    given = " AND ".join(f"r.{column} IS NOT NULL" for column in _numbered(relation.columns))
    same = " AND ".join(f"r.{column} = k.{column}" for column in _numbered(relation.columns))
    query = (
        f"WITH r AS ({_references(relation, child)}), k AS ({_keys(relation, parent)}) "
        f"SELECT CASE WHEN k.rows IS NULL THEN CASE WHEN {given} THEN {_ORPHAN} ELSE {_UNSET} END "
        "WHEN r.rows IS NULL THEN 0 ELSE 1 + floor(ln(r.rows) / ln(2) + 1e-9)::integer END AS place, "
        "count(*), coalesce(sum(r.rows), 0)::bigint, coalesce(max(r.rows), 0) "
        f"FROM r FULL JOIN k ON {same} GROUP BY place ORDER BY place"
    )
    found = RelationStatistics()
    for place, keys, rows, most in connection.execute(query.encode()):
        found.rows += rows
        if place == _ORPHAN:
            found.orphans = rows
        elif place == _UNSET:
            found.unset = rows
        else:
            found.children += [0] * (place - len(found.children)) + [keys]
            found.most = max(found.most, most)
    return found


def broken_references(
    connection: Connection,
    relation: Relation,
    child: SourceTable,
    parent: SourceTable,
    source: Connection,
    source_child: SourceTable,
    source_parent: SourceTable,
) -> int:
    """How many rows of a sample refer to a row that the source has and the sample does not.

    Args:
        connection: to the sample, whose tables are `child` and `parent`.
        source: a connection to the source, which may be on another server.
    """
    names = _numbered(relation.columns)
    given = " AND ".join(f"r.{name} IS NOT NULL" for name in names)
    same = " AND ".join(f"r.{name} = k.{name}" for name in names)
    orphans = (
        f"SELECT r.rows, {', '.join(f'r.{name}::text' for name in names)} FROM ({_references(relation, child)}) AS r "
        f"WHERE {given} AND NOT EXISTS (SELECT FROM ({_keys(relation, parent)}) AS k WHERE {same})"
    )
    rows = connection.execute(orphans.encode()).fetchall()
    if not rows:
        return 0
    types = [source_child.types[column] for column in relation.columns]
    arrays = ", ".join(["%s::bigint[]"] + ["%s::text[]"] * len(names))
    keys = " AND ".join(
        f"{quote('p', column)} = k.{name}::{kind}"
        for column, name, kind in zip(relation.parent_columns, names, types, strict=True)
    )
    query = (
        f"SELECT coalesce(sum(k.rows), 0)::bigint FROM unnest({arrays}) AS k (rows, {', '.join(names)}) "
        f"WHERE EXISTS (SELECT FROM {source_parent.sql} AS p WHERE {keys})"
    )
    counted = source.execute(query.encode(), [list(column) for column in zip(*rows, strict=True)]).fetchone()
    return int(counted[0]) if counted else 0


def _numbered(columns: Sequence[str]) -> list[str]:
    return [f"k{at}" for at in range(len(columns))]


def _references(relation: Relation, child: SourceTable) -> str:
    """A query for what rows refer to, each with the number of rows."""
    columns = [quote("t", column) for column in relation.columns]
    listed = ", ".join(f"{column} AS {name}" for column, name in zip(columns, _numbered(columns), strict=True))
    where = f" WHERE ({relation.when})" if relation.when else ""
    return f"SELECT {listed}, count(*) AS rows FROM {child.sql} AS t{where} GROUP BY {', '.join(columns)}"


def _keys(relation: Relation, parent: SourceTable) -> str:
    """A query for what can be referred to, each with the number of rows."""
    columns = [quote("t", column) for column in relation.parent_columns]
    listed = ", ".join(f"{column} AS {name}" for column, name in zip(columns, _numbered(columns), strict=True))
    given = " AND ".join(f"{column} IS NOT NULL" for column in columns)
    return f"SELECT {listed}, count(*) AS rows FROM {parent.sql} AS t WHERE {given} GROUP BY {', '.join(columns)}"
