"""Rows that refer to nothing, because their reference is NULL or the row is not there.

No chosen parent brings them. So they come at the rate of their siblings: each with a probability that is the share of
the parents that are chosen.
"""

from __future__ import annotations

from pipedag_dagster.names import quote
from pipedag_dagster.sampling.edges import Edge
from pipedag_dagster.sampling.row_order import share_limit
from pipedag_dagster.sampling.rules import All, ChildrenOf, Fraction, Relation, Rows, SampleSpec, Where
from pipedag_dagster.sampling.work_tables import Why, WorkTables, equal, given

_FEW = 0.05
"""Below this share of its rows, a parent is looked up in its index. Above, reading all of it takes less time."""


def add_loose_rows(work: WorkTables, spec: SampleSpec, edge: Edge) -> int:
    """Add rows of the child of an edge that refer to nothing by it. Returns how many were added.

    One scan. Whether the parent is there is asked only for rows that the hash admits.
    """
    share = share_of(work, spec, edge.origin)
    if not share:
        return 0
    child, relation, keys = edge.target, edge.relation, work.child_keys(edge.relation)
    rows = work.scan(
        child,
        by_reference=work.tables[edge.origin].reference_hash(work.tables[child], relation, work.seed),
        by_row=work.tables[child].row_hash("t", work.seed),
        applies=_applies(spec, relation),
    )
    limit = share_limit(share)
    same = equal("p", [quote(column) for column in relation.parent_columns], "c", keys)
    parent = f"SELECT true FROM {work.source(edge.origin)} AS p WHERE {same}"
    is_few = share < _FEW and work.has_index(edge.origin, relation.parent_columns)
    orphan = f"({parent} LIMIT 1) IS NULL" if is_few else "true"
    found = (
        f"SELECT c.*, {given('c', keys)} AS refers FROM ({rows}) AS c WHERE CASE WHEN {given('c', keys)} "
        f"THEN c.by_reference <= {limit} AND {orphan} ELSE c.applies AND c.by_row <= {limit} END"
    )
    if not is_few:  # a join needs a condition of its own, without CASE
        found = (
            f"WITH c AS MATERIALIZED ({found}) SELECT * FROM c WHERE NOT refers "
            f"UNION ALL SELECT * FROM c WHERE refers AND NOT EXISTS ({parent})"
        )
    if (cap := edge.cap(spec)) is not None:
        found = (
            f"SELECT * FROM (SELECT f.*, row_number() OVER (PARTITION BY refers, {', '.join(keys)} "
            f"ORDER BY by_row, handle) AS number FROM ({found}) AS f) AS f WHERE number <= {cap} OR NOT refers"
        )
    # They are known to lead nowhere by this relation.
    columns = [
        f"CASE WHEN false THEN {column} END AS {column}" if column in keys else column for column in work.columns(child)
    ]
    return work.insert(child, Why.child, f"SELECT {', '.join(columns)} FROM ({found}) AS f")


def share_of(work: WorkTables, spec: SampleSpec, name: str) -> float:
    """Which share of the rows of a table is chosen; of an empty table, which share of its rows would be."""
    return work.share(name) if work.size(name) else _share_of_none(spec, name, frozenset())


def _share_of_none(spec: SampleSpec, name: str, seen: frozenset[str]) -> float:
    """A rule that takes any rows at all would take all of so few. Of `children_of`, that is asked of the parents."""
    rule = spec.rule(name)
    if isinstance(rule, Fraction):
        return rule.share
    if isinstance(rule, ChildrenOf):
        upper = [parent for parent in rule.parents if parent not in seen | {name}]
        return max((_share_of_none(spec, parent, seen | {name}) for parent in upper), default=0.0)
    return float(isinstance(rule, All | Where) or (isinstance(rule, Rows) and rule.count > 0))


def _applies(spec: SampleSpec, relation: Relation) -> str:
    """An SQL condition on rows of the child: if they refer to nothing, it is by this relation.

    Rows for which no `when` of the relations of the child holds would be lost otherwise. Which parents the rule names
    makes no difference: a rule with fewer of them must not take rows that one with more does not.
    """
    if relation.when is None:
        return "true"
    conditions = [one.when for one in spec.relations if one.child == relation.child and one.when is not None]
    holds = " OR ".join(f"({condition})" for condition in conditions)
    return f"(({relation.when}) IS TRUE OR ({holds}) IS NOT TRUE)"
