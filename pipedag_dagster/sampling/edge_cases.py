"""Rows that a sample has because they are rare.

Always the rows with the lowest hashes, so every machine chooses the same ones, and a sample that asks for more of each
kind has those of a sample that asks for fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipedag_dagster.names import quote
from pipedag_dagster.sampling.features import FeatureName
from pipedag_dagster.sampling.profile import ProfileStore, RareRows, rare_rows
from pipedag_dagster.sampling.rules import EdgeCases, Relation, SampleSpec
from pipedag_dagster.sampling.source_tables import Connection, SourceTable

_LEAST_DEPTH = 3


@dataclass(frozen=True)
class EdgeCase:
    """A rare row.

    Attributes:
        handle: its ctid.
        reason: for people: "NULL in tailnum".
    """

    handle: str
    reason: str


def edge_case_handles(
    connection: Connection,
    table: SourceTable,
    relations: Mapping[Relation, SourceTable],
    spec: SampleSpec,
    profile_store: ProfileStore,
) -> list[EdgeCase]:
    """The rare rows of a table that a sample has. A row may be in the list for several reasons.

    Args:
        connection: in a transaction with `selection.SETTINGS`. Nothing is written.
        relations: those that concern the table, each with the table that it refers to.
        spec: how many rows of each kind, and the seed of the hash.
        profile_store: remembers what was found in physical tables. Nothing is scanned when it has the answer.
    """
    wanted = spec.edge_cases
    cases: list[EdgeCase] = []
    if wanted.per_value or wanted.nulls or wanted.extremes:
        depth = max(wanted.per_value, wanted.nulls, wanted.extremes)
        values = wanted.values if wanted.per_value else 0
        for rare in rare_rows(connection, table, spec.seed, profile_store, values=values, depth=depth):
            count = _wanted(wanted, rare.feature)
            cases += [EdgeCase(handle, _reason(rare)) for handle in rare.handles[:count]]
    for relation, parent in relations.items():
        if relation.child == table.name and wanted.orphans:
            handles = _orphans(connection, relation, table, parent, spec.seed, wanted.orphans, profile_store)
            cases += [EdgeCase(handle, f"refers to no row by {relation}") for handle in handles]
    keys = {relation.parent_columns for relation in relations if relation.parent == table.name}
    for key in sorted(keys) if wanted.extremes else ():
        handles = _duplicates(connection, table, key, spec.seed, wanted.extremes, profile_store)
        cases += [EdgeCase(handle, f"has the ({', '.join(key)}) of another row") for handle in handles]
    return cases


def relations_of(
    name: str, tables: Mapping[str, SourceTable], relations: Sequence[Relation]
) -> dict[Relation, SourceTable]:
    """The relations that concern a table, each with the table that it refers to."""
    return {relation: tables[relation.parent] for relation in relations if name in (relation.child, relation.parent)}


def _wanted(cases: EdgeCases, feature: FeatureName) -> int:
    return {"value": cases.per_value, "NULL": cases.nulls}.get(feature, cases.extremes)


def _reason(rare: RareRows) -> str:
    if rare.feature == "value":
        return f"{rare.column} = {rare.value}"
    return f"NULL in {rare.column}" if rare.feature == "NULL" else f"{rare.feature} {rare.column}"


def _orphans(
    connection: Connection,
    relation: Relation,
    child: SourceTable,
    parent: SourceTable,
    seed: int,
    count: int,
    store: ProfileStore,
) -> list[str]:
    """The rows with the lowest hashes that refer to a row that does not exist."""
    columns = [quote("t", column) for column in relation.columns]
    same = _equal([quote("p", column) for column in relation.parent_columns], columns)
    conditions = [f"{column} IS NOT NULL" for column in columns] + ([f"({relation.when})"] if relation.when else [])
    query = (
        f"SELECT t.ctid::text FROM {child.sql} AS t WHERE {' AND '.join(conditions)} "
        f"AND NOT EXISTS (SELECT FROM {parent.sql} AS p WHERE {same}) ORDER BY {child.row_hash('t', seed)}, t.ctid"
    )
    key = f"orphans of {relation} in {parent.schema}.{parent.physical}, seed {seed}"
    return _remembered(connection, child, key, query, count, store)


def _duplicates(
    connection: Connection, table: SourceTable, key: tuple[str, ...], seed: int, count: int, store: ProfileStore
) -> list[str]:
    """Two rows of each key that is not unique: of the keys and of their rows, those with the lowest hashes."""
    if table.primary_key and set(table.primary_key) <= set(key):
        return []
    columns = [quote("t", column) for column in key]
    listed, given = ", ".join(columns), " AND ".join(f"{column} IS NOT NULL" for column in columns)
    places = ", ".join(f"{column} AS k{at}" for at, column in enumerate(columns))
    order = table.hash_of(tuple(columns), key, seed)
    depth = max(count, _LEAST_DEPTH)
    keys = (
        f"SELECT {places}, row_number() OVER (ORDER BY {order}) AS place FROM {table.sql} AS t WHERE {given} "
        f"GROUP BY {listed} HAVING count(*) > 1 ORDER BY place LIMIT {depth}"
    )
    same = _equal([f"d.k{at}" for at in range(len(key))], columns)
    number = f"row_number() OVER (PARTITION BY d.place ORDER BY {table.row_hash('t', seed)}, t.ctid) AS number"
    rows = f"SELECT t.ctid, d.place, {number} FROM {table.sql} AS t JOIN ({keys}) AS d ON {same}"
    query = f"SELECT ctid::text FROM ({rows}) AS n WHERE number <= 2 ORDER BY place, number"
    return _remembered(connection, table, f"duplicates of ({', '.join(key)}), seed {seed}", query, 2 * count, store)


def _remembered(
    connection: Connection, table: SourceTable, key: str, query: str, count: int, store: ProfileStore
) -> list[str]:
    """The first rows of a query for handles."""
    body = store.profile(table, key)
    if body is None or body["depth"] < count:
        depth = max(count, 2 * _LEAST_DEPTH)
        rows = connection.execute(f"{query} LIMIT {depth}".encode())
        body = {"depth": depth, "handles": [handle for (handle,) in rows]}
        store.add_profile(table, key, body)
    return list(body["handles"][:count])


def _equal(left: Sequence[str], right: Sequence[str]) -> str:
    return " AND ".join(f"{one} = {other}" for one, other in zip(left, right, strict=True))
