"""Weights, by which totals of a source are estimated from a sample.

A row is chosen when its hash is below a threshold: that of the first row that was not chosen. Given the hashes of all
other rows, this is the probability of the row, and its weight is one divided by it. So weighted counts and sums have no
bias (rank conditioning: E. Cohen and H. Kaplan, Summarizing data using bottom-k sketches, 2007). When several rules
could choose a row, the largest threshold counts. Kept rows weigh 1. Rows that are there only because they are rare, or
because others refer to them, were not drawn and weigh 0.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipedag_dagster.errors import SampleError
from pipedag_dagster.names import literal, quote
from pipedag_dagster.sampling.report import CommittedSample
from pipedag_dagster.sampling.rules import All, ChildrenOf, Fraction, Relation, Rows, SampleSpec, Where
from pipedag_dagster.sampling.source_tables import Connection, SourceTable

_HASHES = 2.0**64


def weight(connection: Connection, table: SourceTable, spec: SampleSpec) -> str:
    """The weight of a row `t` of a sampled table, as an SQL expression. It has the thresholds as constants, so it can
    be evaluated in the sample, without its source.

    Args:
        connection: to the source, in a transaction with `selection.SETTINGS`.
        table: of the source.

    Raises:
        SampleError: the rule of the table is none by which single rows are drawn.
    """
    kept = [f"({one.where})" for one in spec.keep if one.table == table.name]
    drawn = _drawn(connection, table, spec)
    return f"CASE WHEN {' OR '.join(kept)} THEN 1.0 ELSE {drawn} END" if kept else drawn


def _drawn(connection: Connection, table: SourceTable, spec: SampleSpec) -> str:
    rule = spec.rule(table.name)
    place = _place(table.row_hash("t", spec.seed))
    if isinstance(rule, All) or _rows(connection, table) < spec.whole_below:
        return "1.0"
    if isinstance(rule, Where):
        return f"CASE WHEN ({rule.condition}) THEN 1.0 ELSE 0.0 END"
    if isinstance(rule, Fraction):
        key = rule.key or table.primary_key
        if key:
            place = _place(table.hash_of(tuple(quote("t", name) for name in key), key, spec.seed))
        return _inverse(place, repr(rule.share))
    if isinstance(rule, Rows):
        limits = [repr(_threshold(connection, table, spec.seed, rule.count))]
        limits += [_by_value(connection, table, spec.seed, column, count) for column, count in rule.per_value.items()]
        return _inverse(place, f"greatest({', '.join(limits)})")
    raise SampleError(
        f"{table.name}: its rows have no weights, because its rule draws no single rows. Weights exist for the rules "
        "rows, fraction, where and all, and for children of a table with such a rule."
    )


def _rows(connection: Connection, table: SourceTable) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table.sql}".encode()).fetchone()
    return int(row[0]) if row else 0


def _place(hash_: str) -> str:
    """Where a hash lies among all hashes: between 0 and 1."""
    return f"(({hash_})::double precision / {_HASHES!r} + 0.5)"


def _inverse(place: str, probability: str) -> str:
    return f"CASE WHEN {place} < {probability} THEN 1.0 / ({probability}) ELSE 0.0 END"


def _threshold(connection: Connection, table: SourceTable, seed: int, count: int) -> float:
    """The place of the first row that is not among so many with the lowest hashes; 1 when all are."""
    place = _place(table.row_hash("t", seed))
    query = f"SELECT {place} FROM {table.sql} AS t ORDER BY 1 OFFSET {count} LIMIT 1"
    row = connection.execute(query.encode()).fetchone()
    return float(row[0]) if row else 1.0


def _by_value(connection: Connection, table: SourceTable, seed: int, column: str, count: int) -> str:
    """The same for the rows with each value of a column, as an SQL expression."""
    value = f"({quote('t', column)})::text"
    numbered = (
        f"SELECT {value} AS value, {_place(table.row_hash('t', seed))} AS place, row_number() OVER "
        f"(PARTITION BY {quote('t', column)} ORDER BY {table.row_hash('t', seed)}) AS number FROM {table.sql} AS t"
    )
    query = f"SELECT value, place FROM ({numbered}) AS n WHERE number = {count + 1}"
    cases = ""
    for found, place in connection.execute(query.encode()):
        same = f"{value} IS NULL" if found is None else f"{value} = {literal(found)}"
        cases += f" WHEN {same} THEN {place!r}"
    return f"CASE{cases} ELSE 1.0 END" if cases else "1.0"


def child_weight(
    connection: Connection, relation: Relation, tables: Mapping[str, CommittedSample], spec: SampleSpec
) -> str:
    """The weight of a row `t` that came as a child: that of its parent in the sample. A row without a parent was drawn
    as often as parents were chosen.

    Args:
        connection: to the source.
        tables: has both tables of the relation.
    """
    child, parent = tables[relation.child], tables[relation.parent]
    ours, theirs = relation.columns, relation.parent_columns
    same = " AND ".join(f"{quote('p', name)} = {quote('t', own)}" for name, own in zip(theirs, ours, strict=True))
    drawn = f"SELECT t.*, {weight(connection, parent.source, spec)} AS sample_weight FROM {parent.sample.sql} AS t"
    of_parent = f"(SELECT p.sample_weight FROM ({drawn}) AS p WHERE {same} LIMIT 1)"
    chosen = sum(count for reason, count in parent.reasons.items() if reason != "reference")
    rows = _rows(connection, parent.source)
    share = repr(chosen / rows) if rows else "0.0"
    keys = tuple(quote("t", column) for column in ours)
    given = " AND ".join(f"{key} IS NOT NULL" for key in keys)
    orphan = _inverse(_place(parent.source.hash_of(keys, theirs, spec.seed)), share)
    unset = _inverse(_place(child.source.row_hash("t", spec.seed)), share)
    return f"CASE WHEN ({given}) IS NOT TRUE THEN {unset} ELSE coalesce({of_parent}, {orphan}) END"


def table_weight(connection: Connection, name: str, tables: Mapping[str, CommittedSample], spec: SampleSpec) -> str:
    """The weight of a row `t` of any sampled table (`stage.asset`), as an SQL expression.

    Raises:
        SampleError: the rule of the table, or of its parent, gives no weights.
    """
    rule = spec.rule(name)
    if not isinstance(rule, ChildrenOf):
        return weight(connection, tables[name].source, spec)
    relations = [one for one in spec.relations if one.child == name and one.parent in rule.parents]
    kept = any(one.table == name for one in spec.keep)
    if len(relations) != 1 or rule.per_parent is not None or kept or relations[0].parent == name:
        raise SampleError(
            f"{name}: its rows have no weights. Children have the weight of their parent only if they have one parent, "
            "no per_parent and no keep."
        )
    return child_weight(connection, relations[0], tables, spec)
