"""What can be wrong with the rules of a sample, seen together: each mistake with the part of the sample to blame."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from pipedag_dagster.errors import did_you_mean
from pipedag_dagster.sampling.components import components
from pipedag_dagster.sampling.rules import (
    ChildrenOf,
    Fraction,
    Keep,
    Nothing,
    Parents,
    Relation,
    Rows,
    SampleSpec,
    Where,
)
from pipedag_dagster.sql_condition import condition

Mistakes = Iterator[tuple[object, str]]


def rule_mistakes(spec: SampleSpec, tables: Sequence[str]) -> Mistakes:
    """Rules that contradict each other, or the relations."""
    for table, rule in spec.rules.items():
        if isinstance(rule, ChildrenOf):
            yield from _children_mistakes(spec, table, rule, tables)
        elif isinstance(rule, Nothing):
            yield from _nothing_mistakes(spec, table, tables)


def _children_mistakes(spec: SampleSpec, table: str, rule: ChildrenOf, tables: Sequence[str]) -> Mistakes:
    for parent in rule.parents:
        leading = [relation for relation in spec.relations if (relation.child, relation.parent) == (table, parent)]
        if not leading:
            example = f"{table}.<column> -> {parent}.<column>"
            advice = f"Write one into sample.relations, as in `{example}`, or references(…) on the task of {table}."
            yield table, f"children_of: no relation leads from {table} to {parent}. {advice}"
        elif len(leading) > 1:
            names = "; ".join(map(str, leading))
            advice = "children_of cannot know which one is meant: use `choose`."
            yield table, f"children_of: several relations lead from {table} to {parent}: {names}. {advice}"
    if rule.per_parent is not None and any(table in circle for circle in _circles(spec, tables)):
        message = f"per_parent: {table} is among its own parents, so a limit would not be the same for all samples."
        yield table, f"{message} Remove per_parent."


def _circles(spec: SampleSpec, tables: Sequence[str]) -> Iterator[set[str]]:
    """The tables that lead to themselves when relations are followed down to children."""
    down: dict[str, set[str]] = {table: set() for table in tables}
    for relation in spec.relations:
        rule = spec.rule(relation.child)
        if relation.follow == "both" or (isinstance(rule, ChildrenOf) and relation.parent in rule.parents):
            down[relation.parent].add(relation.child)
    for component in components(down):
        if len(component) > 1 or component & down[min(component)]:
            yield component


def _nothing_mistakes(spec: SampleSpec, table: str, tables: Sequence[str]) -> Mistakes:
    sources = _with_rows(spec, tables)
    for relation in spec.relations:
        if relation.parent == table and relation.child != table and relation.child in sources:
            advice = "Write `parents`, which copies the rows that are referred to and no others."
            yield table, f"none: rows of {relation.child} would refer to rows that are not there ({relation}). {advice}"
    for kept in spec.keep:
        if kept.table == table:
            yield table, f"none: {kept.where!r} is to be kept. Write `parents`, which copies kept rows as well."


def _with_rows(spec: SampleSpec, tables: Sequence[str]) -> set[str]:
    """The tables that may have rows in the sample."""
    kept = {kept.table for kept in spec.keep}
    reached = {table for table in tables if table in kept or not isinstance(spec.rule(table), Nothing | Parents)}
    while more := {
        relation.parent
        for relation in spec.relations
        if relation.child in reached
        and relation.parent not in reached
        and not isinstance(spec.rule(relation.parent), Nothing)
    }:
        reached |= more
    return reached


def column_mistakes(spec: SampleSpec, columns: Mapping[str, Mapping[str, str] | None]) -> Mistakes:
    """Columns that the tables do not have, and relations between columns that do not compare.

    Args:
        columns: the types of the columns by table; None for tables whose columns are not known.
    """
    for table, rule in spec.rules.items():
        known = columns.get(table)
        if known is not None:
            wanted = tuple(rule.per_value) if isinstance(rule, Rows) else rule.key if isinstance(rule, Fraction) else ()
            yield from ((table, message) for message in _missing(table, wanted, known))
            if isinstance(rule, Where):
                yield from _in_condition(table, table, rule.condition, known)
    for kept in spec.keep:
        if (known := columns.get(kept.table)) is not None:
            yield from _in_condition(kept, kept.table, kept.where, known)
    for relation in spec.relations:
        yield from _relation_mistakes(relation, columns.get(relation.child), columns.get(relation.parent))


def _relation_mistakes(
    relation: Relation, child: Mapping[str, str] | None, parent: Mapping[str, str] | None
) -> Mistakes:
    if child is not None:
        yield from ((relation, message) for message in _missing(relation.child, relation.columns, child))
        if relation.when is not None:
            yield from _in_condition(relation, relation.child, relation.when, child)
    if parent is not None:
        yield from ((relation, message) for message in _missing(relation.parent, relation.parent_columns, parent))
    if child is None or parent is None:
        return
    for ours, theirs in zip(relation.columns, relation.parent_columns, strict=True):
        if ours in child and theirs in parent and _family(child[ours]) != _family(parent[theirs]):
            types = f"{relation.child}.{ours} is {child[ours]}, and {relation.parent}.{theirs} is {parent[theirs]}"
            advice = "Give them one type in the input task, or do not let samples follow the relation (sample=None)."
            yield relation, f"{types}: they do not compare. {advice}"


def _in_condition(part: Keep | Relation | str, table: str, text: str, known: Collection[str]) -> Mistakes:
    yield from ((part, f"{table}: {message}") for message in condition(text).unknown_columns(known))


def _missing(table: str, wanted: Sequence[str], known: Collection[str]) -> Iterator[str]:
    for column in wanted:
        if column not in known:
            yield f"{table} has no column {column!r}.{did_you_mean(column, known)}"


_FAMILIES = {
    "a number": "smallint|integer|bigint|numeric|decimal|real|double precision",
    "text": "text|character varying|character|varchar|char|name|citext",
    "a time": "date|timestamp.*",
}


def _family(kind: str) -> str:
    """Types of one family are compared by PostgreSQL.

    >>> _family("character varying(3)")
    'text'
    """
    plain = re.sub(r"\s*\([^)]*\)", "", kind)
    return next((family for family, names in _FAMILIES.items() if re.fullmatch(names, plain)), plain)
