"""Comparing two tables of one database, in the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import psycopg

from pipedag_dagster.comparing.relation import Relation, comparable, differs, key_conditions
from pipedag_dagster.comparing.table_diff import ColumnDiff, Status, TableDiff, ValueDiff, described_row
from pipedag_dagster.errors import NotComparable, did_you_mean
from pipedag_dagster.names import quote

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_BATCH = 200
"""How many columns one statement compares."""


def compare(
    connection: Connection,
    name: str,
    left: Relation,
    right: Relation,
    *,
    key: Sequence[str] = (),
    examples: int = 3,
    note: str = "",
) -> TableDiff:
    """What differs between two tables.

    Args:
        name: `stage.table`.
        key: the columns by which rows of both sides are the same row. Without it, the primary key of a side, if the
            other side has the columns and they are unique there; else whole rows are compared.
        examples: so many rows of one side are shown, and whether values are.
        note: how the tables came to be in one database.

    Raises:
        NotComparable: a column of `key` does not exist, or several rows of a side have the same key.
    """
    columns = tuple(_columns(left, right))
    shared = [column.name for column in left.columns if column.name in right.types]
    chosen = _chosen_key(connection, name, left, right, key)
    found: dict[str, Any] = {"name": name, "left_rows": left.rows, "right_rows": right.rows, "columns": columns}
    if chosen:
        found |= _by_key(connection, left, right, chosen, shared, examples)
    elif shared:
        found |= _by_row(connection, left, right, shared, examples)
        why = "No key is known: whole rows were compared. --key names columns."
        note = f"{note} {why}".strip()
    counts = [found.get(count) for count in ("only_left", "only_right", "changed")]
    different = bool(columns) or any(counts) or left.rows != right.rows
    return TableDiff(status=Status.different if different else Status.equal, note=note if different else "", **found)


def _columns(left: Relation, right: Relation) -> Iterator[ColumnDiff]:
    for name, kind in left.types.items():
        if kind != right.types.get(name):
            yield ColumnDiff(name, kind, right.types.get(name))
    for name, kind in right.types.items():
        if name not in left.types:
            yield ColumnDiff(name, None, kind)


# Keys


def _chosen_key(
    connection: Connection, name: str, left: Relation, right: Relation, wanted: Sequence[str]
) -> tuple[str, ...]:
    for column in wanted:
        for side in (left, right):
            if column not in side.types:
                raise NotComparable(f"--key: {name} has no column {column!r}.{did_you_mean(column, side.types)}")
    if wanted:
        for place, side in (("left", left), ("right", right)):
            if (row := _repeated(connection, side, wanted)) is not None:
                raise NotComparable(
                    f"--key {','.join(wanted)} is not unique in {name} of the {place} side: several rows have "
                    f"{described_row(row)}. Name more columns."
                )
        return tuple(wanted)
    for one, other in ((left, right), (right, left)):
        key = one.primary_key
        if key and all(column in other.types for column in key) and _repeated(connection, other, key) is None:
            return key
    return ()


def _repeated(connection: Connection, side: Relation, key: Sequence[str]) -> dict[str, str | None] | None:
    """A key that several rows have, if there is one."""
    if side.primary_key and set(side.primary_key) <= set(key):
        return None
    columns = ", ".join(map(quote, key))
    texts = ", ".join(f"{quote(column)}::text" for column in key)
    query = f"SELECT {texts} FROM {side.table} GROUP BY {columns} HAVING count(*) > 1 LIMIT 1"
    row = connection.execute(query.encode()).fetchone()
    return None if row is None else dict(zip(key, row, strict=True))


# By key


def _by_key(
    connection: Connection, left: Relation, right: Relation, key: tuple[str, ...], shared: Sequence[str], examples: int
) -> dict[str, Any]:
    conditions = " AND ".join(part for column in key for part in key_conditions(left, right, column))
    joined = (
        f"(SELECT true AS there, t.* FROM {left.table} AS t) AS l "
        f"FULL JOIN (SELECT true AS there, t.* FROM {right.table} AS t) AS r ON {conditions}"
    )
    changes = [differs(left, right, column) for column in shared]
    both = "l.there AND r.there"
    counts = [
        f"count(*) FILTER (WHERE {both})",
        "count(*) FILTER (WHERE r.there IS NULL)",
        "count(*) FILTER (WHERE l.there IS NULL)",
        f"count(*) FILTER (WHERE {both} AND ({' OR '.join(changes)}))",
    ]
    totals = connection.execute(f"SELECT {', '.join(counts)} FROM {joined}".encode()).fetchone() or (0, 0, 0, 0)
    values: list[ValueDiff] = []
    if totals[3]:
        for start in range(0, len(shared), _BATCH):
            values += _values(connection, joined, key, shared[start : start + _BATCH], changes[start : start + _BATCH])
    if not examples:
        values = [ValueDiff(value.column, value.rows, (), None, None) for value in values]
    return {
        "key": key,
        "both": totals[0],
        "only_left": totals[1],
        "only_right": totals[2],
        "changed": totals[3],
        "values": tuple(values),
        "left_examples": _alone(connection, joined, "l", "r", key, examples if totals[1] else 0),
        "right_examples": _alone(connection, joined, "r", "l", key, examples if totals[2] else 0),
    }


def _values(
    connection: Connection, joined: str, key: Sequence[str], columns: Sequence[str], changes: Sequence[str]
) -> Iterator[ValueDiff]:
    """The columns with other values, each with the row that has the lowest key as text."""
    keys = ", ".join(f"{quote('l', column)}::text" for column in key)
    parts = []
    for column, differs_here in zip(columns, changes, strict=True):
        where = f"FILTER (WHERE l.there AND r.there AND {differs_here})"
        example = f'ARRAY[{keys}, {quote("l", column)}::text, {quote("r", column)}::text] COLLATE "C"'
        parts += [f"count(*) {where}", f"min({example}) {where}"]
    row = connection.execute(f"SELECT {', '.join(parts)} FROM {joined}".encode()).fetchone() or ()
    for column, rows, example in zip(columns, row[::2], row[1::2], strict=True):
        if rows:
            *found, before, after = example
            yield ValueDiff(column, rows, tuple(found), before, after)


def _alone(
    connection: Connection, joined: str, side: str, other: str, key: Sequence[str], limit: int
) -> tuple[dict[str, str | None], ...]:
    """The keys of a few rows that only one side has, the lowest ones."""
    if not limit:
        return ()
    texts = ", ".join(f"{quote(side, column)}::text" for column in key)
    order = ", ".join(str(number) for number in range(1, len(key) + 1))
    natural = ", ".join(quote(side, column) for column in key)
    query = f"SELECT {texts} FROM {joined} WHERE {other}.there IS NULL ORDER BY {natural or order} LIMIT {limit}"
    return tuple(dict(zip(key, row, strict=True)) for row in connection.execute(query.encode()).fetchall())


# By whole rows


def _by_row(
    connection: Connection, left: Relation, right: Relation, shared: Sequence[str], examples: int
) -> dict[str, Any]:
    """Each table is a bag of rows: equal ones are counted."""
    sides = ((left, right, 1), (right, left, 0))
    bag = " UNION ALL ".join(
        f"SELECT {sign} AS l, {1 - sign} AS r, ARRAY[{_texts('t', shared)}] AS shown, "
        + ", ".join(f"{comparable(side, other, 't', column)} AS c{at}" for at, column in enumerate(shared))
        + f" FROM {side.table} AS t"
        for side, other, sign in sides
    )
    group = ", ".join(f"c{at}" for at in range(len(shared)))
    grouped = f'SELECT sum(l) AS l, sum(r) AS r, min(shown COLLATE "C") AS shown FROM ({bag}) AS b GROUP BY {group}'
    query = (
        "SELECT coalesce(sum(least(l, r)), 0)::bigint, coalesce(sum(greatest(l - r, 0)), 0)::bigint, "
        f"coalesce(sum(greatest(r - l, 0)), 0)::bigint FROM ({grouped}) AS g"
    )
    both, only_left, only_right = connection.execute(query.encode()).fetchone() or (0, 0, 0)

    def alone(condition: str, limit: int) -> tuple[dict[str, str | None], ...]:
        if not limit:
            return ()
        rows = connection.execute(
            f"SELECT shown FROM ({grouped}) AS g WHERE {condition} ORDER BY shown LIMIT {limit}".encode()
        ).fetchall()
        return tuple(dict(zip(shared, shown, strict=True)) for (shown,) in rows)

    return {
        "both": both,
        "only_left": only_left,
        "only_right": only_right,
        "left_examples": alone("l > r", examples if only_left else 0),
        "right_examples": alone("r > l", examples if only_right else 0),
    }


def _texts(alias: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{quote(alias, column)}::text" for column in columns)
