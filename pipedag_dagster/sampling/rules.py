"""What a sample is asked to contain: a rule for each table, relations between tables, and rows that it always has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipedag_dagster.digest import digest

ALGORITHM = 1
"""The version of the way in which rows are chosen. A change of it makes all samples anew."""


@dataclass(frozen=True)
class All:
    """Every row."""


@dataclass(frozen=True)
class Nothing:
    """No row, not even one that another table refers to through a relation of its own rule."""


@dataclass(frozen=True)
class Parents:
    """Only the rows that other rows in the sample refer to."""


@dataclass(frozen=True)
class Rows:
    """The `count` rows with the lowest hashes, and for each value of a column in `per_value` so many rows of it."""

    count: int
    per_value: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fraction:
    """Each row with this probability, decided by the hash of `key` (without it, of the table's own key)."""

    share: float
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class Where:
    """The rows for which an SQL condition on their columns holds."""

    condition: str


@dataclass(frozen=True)
class ChildrenOf:
    """The rows that refer to a chosen row of one of the `parents`; at most `per_parent` for each of these."""

    parents: tuple[str, ...]
    per_parent: int | None = None


@dataclass(frozen=True)
class Choose:
    """The rows that a function of the user chooses.

    It takes the source tables as `sa.Table`s, by their names, and returns the query that selects the keys of the rows
    (all columns of the primary key), or whole rows.

    Args:
        function: `module:function`.
        version: the fingerprint of its code.
    """

    function: str
    version: str = field(default="", compare=False)


Rule: TypeAlias = All | Nothing | Parents | Rows | Fraction | Where | ChildrenOf | Choose


def rule_text(rule: Rule) -> str:
    """A rule as it is written in YAML.

    >>> rule_text(ChildrenOf(("raw.planes",), 200))
    'children_of: raw.planes, per_parent: 200'
    """
    match rule:
        case All():
            return "all"
        case Nothing():
            return "none"
        case Parents():
            return "parents"
        case Rows():
            values = ", ".join(f"{column}: {count}" for column, count in rule.per_value.items())
            return f"rows: {rule.count}" + (f", per_value: {{{values}}}" if values else "")
        case Fraction():
            return f"fraction: {rule.share}" + (f", key: {', '.join(rule.key)}" if rule.key else "")
        case Where():
            return f"where: {rule.condition}"
        case ChildrenOf():
            capped = "" if rule.per_parent is None else f", per_parent: {rule.per_parent}"
            return f"children_of: {', '.join(rule.parents)}{capped}"
        case Choose():
            return f"choose: {rule.function}"


@dataclass(frozen=True)
class Relation:
    """Rows of `child` refer to rows of `parent`. Tables are named `stage.table`.

    Args:
        when: an SQL condition on the columns of the child; rows for which it does not hold refer to nothing here.
        follow: "parents": a child brings its parent. "both": a parent also brings its children, even when it was
            itself only referred to (1:1 extensions, translations).
    """

    child: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    when: str | None = None
    follow: Literal["parents", "both"] = "parents"

    def __str__(self) -> str:
        def side(table: str, columns: tuple[str, ...]) -> str:
            return f"{table}.{columns[0]}" if len(columns) == 1 else f"{table}.({', '.join(columns)})"

        when = f" when {self.when}" if self.when else ""
        return f"{side(self.child, self.columns)} -> {side(self.parent, self.parent_columns)}{when}"


@dataclass(frozen=True)
class Keep:
    """Rows that belong to every sample, whatever its size."""

    table: str
    where: str
    because: str = ""


@dataclass(frozen=True)
class EdgeCases:
    """How many rows of each rare kind a sample has; 0 asks for none.

    Args:
        per_value: rows for each value of a column that has at most `values` different ones.
        nulls: rows for each column that has NULLs.
        extremes: rows with the smallest and the largest value of each column, the longest and the empty text.
        orphans: rows for each relation that refer to no row.
    """

    per_value: int = 0
    values: int = 50
    nulls: int = 0
    extremes: int = 0
    orphans: int = 0


@dataclass(frozen=True)
class SampleSpec:
    """One sample of all input tables of an instance.

    Args:
        rules: by table (`stage.table`).
        default_rows: how many rows a table has that is not in `rules`; None for all.
        whole_below: tables with fewer rows than this are taken whole.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    relations: tuple[Relation, ...] = ()
    keep: tuple[Keep, ...] = ()
    edge_cases: EdgeCases = EdgeCases()
    default_rows: int | None = None
    whole_below: int = 0
    seed: int = 0
    max_rows: int | None = None

    def rule(self, table: str) -> Rule:
        """The rule of a table."""
        default = All() if self.default_rows is None else Rows(self.default_rows)
        return self.rules.get(table, default)

    def conditions(self) -> list[str]:
        """All SQL conditions in it."""
        rules = [rule.condition for rule in self.rules.values() if isinstance(rule, Where)]
        relations = [relation.when for relation in self.relations if relation.when is not None]
        return [*rules, *relations, *(kept.where for kept in self.keep)]

    def digest(self) -> str:
        """A hash of everything that the choice of rows depends on, apart from the tables."""
        rules = sorted((table, _text(rule)) for table, rule in self.rules.items())
        relations = sorted({repr(relation) for relation in self.relations})
        keep = sorted({repr((kept.table, kept.where)) for kept in self.keep})
        numbers = (self.default_rows, self.whole_below, self.seed)
        return digest(str(ALGORITHM), repr(rules), repr(relations), repr(keep), repr(self.edge_cases), repr(numbers))


def _text(rule: Rule) -> str:
    """A rule as text. The order in which columns and parents are written does not count."""
    if isinstance(rule, Rows):
        return repr(Rows(rule.count, dict(sorted(rule.per_value.items()))))
    if isinstance(rule, ChildrenOf):
        return repr(ChildrenOf(tuple(sorted(rule.parents)), rule.per_parent))
    return repr(rule)
