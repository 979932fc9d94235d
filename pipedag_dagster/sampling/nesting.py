"""When a sample is certainly part of another one of the same source, whatever the rows are.

Each step of a selection adds rows, and adds more when it starts from more. So it is enough to compare what the steps
start from: the rules of each table, kept rows, edge cases, and the seed by which rows are put in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from pipedag_dagster.sampling.rules import (
    All,
    ChildrenOf,
    Choose,
    Fraction,
    Nothing,
    Parents,
    Rows,
    Rule,
    SampleSpec,
    Where,
)
from pipedag_dagster.sql_condition import condition

_WORDS: dict[type[Rule], str] = {
    All: "all",
    Nothing: "none",
    Parents: "parents",
    Rows: "rows",
    Fraction: "fraction",
    Where: "where",
    ChildrenOf: "children_of",
    Choose: "choose",
}


def not_within(small: SampleSpec, wide: SampleSpec, name: str, tables: Sequence[str]) -> Iterator[tuple[object, str]]:
    """Why `small` may have rows that `wide` has not: the part of the sample that is to blame, and a sentence.

    Args:
        name: the instance of `wide`, for the sentences.
        tables: all input tables.
    """
    if small.seed != wide.seed:
        yield "seed", f"seed {small.seed} chooses other rows than seed {wide.seed} of {name!r}. Remove it here."
    if small.whole_below > wide.whole_below:
        yield "whole_below", f"whole_below: {small.whole_below} is more than the {wide.whole_below} of {name!r}."
    for relation in small.relations:
        if relation not in wide.relations:
            yield relation, f"{name!r} does not follow this relation. Write it into a file that both read."
    known = {(kept.table, kept.where) for kept in wide.keep}
    for kept in small.keep:
        if (kept.table, kept.where) not in known:
            yield kept, f"{name!r} does not keep these rows. Write it into a file that both read."
    theirs = asdict(wide.edge_cases)
    for key, count in asdict(small.edge_cases).items():
        if count > theirs[key]:
            yield "edge_cases", f"edge_cases.{key}: {count} is more than the {theirs[key]} of {name!r}."
    for table in tables:
        for message in _rule_not_within(small.rule(table), wide.rule(table), name):
            yield (table if table in small.rules else "rows"), f"{table}: {message}"


def _rule_not_within(small: Rule, wide: Rule, name: str) -> Iterator[str]:
    match small, wide:
        case (_, All()) | (Nothing(), _):
            return
        case Parents(), _ if not isinstance(wide, Nothing):
            return
        case Rows(), Rows():
            yield from _rows(small, wide, name)
        case Fraction(), Fraction():
            if small.share > wide.share:
                yield f"fraction: {small.share:g} is more than the {wide.share:g} of {name!r}."
            if small.key != wide.key:
                yield f"the fraction has another key than in {name!r}. Write the same key in both."
        case Where(), Where():
            if not condition(small.condition).conjuncts >= condition(wide.condition).conjuncts:
                advice = f"Repeat that condition, and maybe add more of them with AND: ({wide.condition}) AND …"
                yield f"its condition may hold where the one of {name!r} does not. {advice}"
        case ChildrenOf(), ChildrenOf():
            yield from _children(small, wide, name)
        case Choose(), Choose():
            if small != wide:
                yield f"{small.function} may choose other rows than {wide.function} of {name!r}. Use one function."
        case _:
            ours, theirs = _WORDS[type(small)], _WORDS[type(wide)]
            yield f"`{ours}` may choose rows that `{theirs}` of {name!r} does not. Write `{theirs}` here, too."


def _rows(small: Rows, wide: Rows, name: str) -> Iterator[str]:
    if small.count > wide.count:
        yield f"rows: {small.count} is more than the {wide.count} of {name!r}."
    for column, count in small.per_value.items():
        theirs = wide.per_value.get(column, 0)
        if count > theirs:
            yield f"per_value.{column}: {count} is more than the {theirs} of {name!r}."


def _children(small: ChildrenOf, wide: ChildrenOf, name: str) -> Iterator[str]:
    for parent in small.parents:
        if parent not in wide.parents:
            yield f"it has the children of {parent}, which {name!r} does not have."
    if wide.per_parent is None:
        return
    if small.per_parent is None:
        yield f"it has no per_parent, and {name!r} has per_parent: {wide.per_parent}. Write it here, too."
    elif small.per_parent > wide.per_parent:
        yield f"per_parent: {small.per_parent} is more than the {wide.per_parent} of {name!r}."
