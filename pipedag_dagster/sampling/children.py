"""The children of chosen rows; and, at the rate of these, the rows that refer to nothing."""

from __future__ import annotations

from pipedag_dagster.names import quote
from pipedag_dagster.sampling.row_order import share_limit
from pipedag_dagster.sampling.rules import All, ChildrenOf, Fraction, Relation, Rows, SampleSpec, Where
from pipedag_dagster.sampling.work_tables import Why, WorkTables, equal, given

_FEW = 0.05
"""Below this share of its rows, a parent is looked up in its index. Above, reading all of it takes less time."""


def add_children(work: WorkTables, spec: SampleSpec, relation: Relation) -> int:
    """Add the rows of the child that its rule `children_of` chooses by one relation. Returns how many were added.

    These are the children of chosen rows, and rows that refer to nothing: their reference is NULL, or its parent is not
    there. Each of the latter comes with a probability that is the share of the parents that are chosen.

    One scan of the child finds both. Whether a row is an orphan is asked only for those that the hash admits.
    """
    work.analyze(relation.parent)
    child, keys, parents = relation.child, work.child_keys(relation), work.parent_keys(relation)
    chosen = (
        f"SELECT DISTINCT {', '.join(parents)}, true AS there FROM {work.handles(relation.parent)} "
        f"WHERE why <= {int(Why.child)}"
    )
    rows = work.scan(
        child,
        by_reference=work.tables[relation.parent].reference_hash(work.tables[child], relation, work.seed),
        by_row=work.tables[child].row_hash("t", work.seed),
        applies=_applies(spec, relation),
    )
    share = share_of(work, spec, relation.parent)
    limit = share_limit(share)
    refers = given("c", keys)
    loose = f"CASE WHEN {refers} THEN c.by_reference <= {limit} ELSE c.applies AND c.by_row <= {limit} END"
    found = (
        f"SELECT c.*, o.there, {refers} AS refers FROM ({rows}) AS c "
        f"LEFT JOIN ({chosen}) AS o ON {equal('o', parents, 'c', keys)} WHERE o.there OR {loose if share else 'false'}"
    )
    few = share < _FEW and work.has_index(relation.parent, relation.parent_columns)
    kept = (
        "SELECT * FROM c WHERE there OR NOT refers UNION ALL "
        f"SELECT * FROM c WHERE there IS NULL AND refers AND {_is_orphan(work, relation, few=few)}"
    )
    if (cap := cap_of(spec, relation)) is not None:
        kept = (
            f"SELECT * FROM (SELECT k.*, row_number() OVER (PARTITION BY refers, {', '.join(keys)} "
            f"ORDER BY by_row, handle) AS number FROM ({kept}) AS k) AS k WHERE number <= {cap} OR NOT refers"
        )
    # An orphan is known to lead nowhere by this relation.
    columns = [f"CASE WHEN there THEN {key} END AS {key}" if key in keys else key for key in work.columns(child)]
    query = f"WITH c AS MATERIALIZED ({found}) SELECT {', '.join(columns)} FROM ({kept}) AS k"
    return work.insert(child, Why.child, query)


def cap_of(spec: SampleSpec, relation: Relation) -> int | None:
    """How many children each parent brings at most by a relation; None for all."""
    rule = spec.rule(relation.child)
    return rule.per_parent if isinstance(rule, ChildrenOf) and relation.parent in rule.parents else None


def is_chosen_by(spec: SampleSpec, relation: Relation) -> bool:
    """Whether the rule of the child takes the children of chosen rows by this relation."""
    rule = spec.rule(relation.child)
    return isinstance(rule, ChildrenOf) and relation.parent in rule.parents


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

    Rows for which no `when` of the relations of the rule holds would be lost otherwise.
    """
    if relation.when is None:
        return "true"
    ours = [other for other in spec.relations if other.child == relation.child and is_chosen_by(spec, other)]
    if any(other.when is None for other in ours):
        return f"({relation.when}) IS TRUE"
    holds = " OR ".join(f"({other.when})" for other in ours)
    return f"(({relation.when}) IS TRUE OR ({holds}) IS NOT TRUE)"


def _is_orphan(work: WorkTables, relation: Relation, *, few: bool) -> str:
    """An SQL condition on rows `c` of the child: the parent has no row that they refer to."""
    columns = [quote(column) for column in relation.parent_columns]
    same = f"FROM {work.source(relation.parent)} AS p WHERE {equal('p', columns, 'c', work.child_keys(relation))}"
    return f"(SELECT true {same} LIMIT 1) IS NULL" if few else f"NOT EXISTS (SELECT {same})"
