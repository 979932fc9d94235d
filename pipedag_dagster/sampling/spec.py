"""What the YAML asks a sample to contain, as rules for the input tables of a pipeline.

Names of tables may be written without their stage where only one input table has the name.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipedag_dagster.checks import References
from pipedag_dagster.config.instance_config import InstanceConfig
from pipedag_dagster.config.keys import Key
from pipedag_dagster.config.sample import Sample, TableSample, relation_parts
from pipedag_dagster.errors import ConfigError, Problem, did_you_mean
from pipedag_dagster.graph.flow import FlowGraph
from pipedag_dagster.sampling.rules import (
    All,
    ChildrenOf,
    Choose,
    EdgeCases,
    Fraction,
    Keep,
    Nothing,
    Parents,
    Relation,
    Rows,
    Rule,
    SampleSpec,
    Where,
)


@dataclass(frozen=True)
class InputTable:
    """An input table of a pipeline.

    Args:
        name: `stage.asset`.
        sql_name: its name in SQL, where it differs.
        columns: the PostgreSQL types by name; None where they are not known yet.
        declared: whether the name is known before the task runs. Tables of a task without `outputs=` may get other
            names in SQL while it runs.
    """

    name: str
    sql_name: str | None = None
    columns: Mapping[str, str] | None = None
    declared: bool = True


_WORDS: dict[str, Rule] = {"all": All(), "none": Nothing(), "parents": Parents()}


def declared_relations(flow: FlowGraph) -> list[Relation]:
    """The relations that `references(…)` declares on input tasks."""
    relations = []
    for stage in flow.stages:
        for call in stage.calls:
            if not (call.task.input or call.task.from_source):
                continue
            for slot in call.slots:
                for check in call.task.about.checks_of(slot.asset):
                    if isinstance(check, References) and check.sample is not None:
                        child, parent = f"{stage.name}.{slot.asset}", f"{check.stage}.{check.table}"
                        sides = (child, check.columns, parent, check.target_columns)
                        relations.append(Relation(*sides, check.when, check.sample))
    return relations


def sample_spec(config: InstanceConfig, tables: Sequence[InputTable], declared: Sequence[Relation] = ()) -> SampleSpec:
    """What the section `sample` of an instance asks for.

    Args:
        tables: all input tables of the instance.
        declared: relations that tasks declare. Those in the YAML are added.

    Raises:
        ConfigError: the section does not fit the tables. All mistakes are listed, with file and line.
    """
    reader = _Reader(config.problem, tables)
    spec = reader.spec(config.sample, config.default_rows, declared)
    if reader.problems:
        raise ConfigError(reader.problems)
    reader.warn()
    return spec


@dataclass
class _Reader:
    """Turns names and texts of the YAML into rules, and collects what is wrong with them."""

    problem: Callable[[Key, str], Problem]
    tables: Sequence[InputTable]
    problems: list[Problem] = field(default_factory=list)
    unknown: dict[str, Key] = field(default_factory=dict)

    def spec(self, sample: Sample, default_rows: int | None, declared: Sequence[Relation]) -> SampleSpec:
        names = {table.name for table in self.tables}
        relations = [relation for relation in declared if {relation.child, relation.parent} <= names]
        for number, text in enumerate(sample.relations):
            relation = self._relation(("sample", "relations", number), text)
            if relation is not None and relation not in relations:
                relations.append(relation)
        keep = []
        for number, kept in enumerate(sample.keep):
            table = self._table(("sample", "keep", number), kept.table)
            if table is not None:
                keep.append(Keep(table, kept.where, kept.because))
        rules = {}
        for name, written in sample.tables.items():
            key: Key = ("sample", "tables", name)
            table = self._table(key, name)
            rule = self._rule(key, written)
            if table is not None and rule is not None:
                rules[table] = rule
        return SampleSpec(
            rules,
            tuple(relations),
            tuple(dict.fromkeys(keep)),
            EdgeCases(**sample.edge_cases.model_dump()),
            default_rows,
            sample.whole_below,
            sample.seed,
            sample.max_rows,
        )

    def _relation(self, key: Key, text: str) -> Relation | None:
        parts = relation_parts(text)
        child, parent = self._table(key, parts.child), self._table(key, parts.parent)
        if child is None or parent is None:
            return None
        return Relation(child, parts.columns, parent, parts.parent_columns, parts.when)

    def _rule(self, key: Key, written: TableSample) -> Rule | None:
        if written.rule is not None:
            return _WORDS[written.rule]
        if written.rows is not None:
            return Rows(written.rows, written.per_value)
        if written.fraction is not None:
            return Fraction(written.fraction, written.key)
        if written.where is not None:
            return Where(written.where)
        if written.children_of:
            parents = [self._table(key, name) for name in written.children_of]
            return ChildrenOf(tuple(parent for parent in parents if parent is not None), written.per_parent)
        if written.choose is not None:
            return Choose(written.choose)
        return None

    def _table(self, key: Key, text: str) -> str | None:
        """The input table that somebody calls `text`."""
        name = text.lower()
        found = [table.name for table in self.tables if name in _names(table)]
        exact = [each for each in found if each == name or each.partition(".")[2] == name]
        found = exact or found
        if len(found) > 1:
            self._mistake(key, f"there are several input tables {text!r}. Write one of: {', '.join(found)}.")
        elif not found:
            declared = {each for table in self.tables if table.declared for each in _names(table)}
            if difflib.get_close_matches(name, declared, n=1, cutoff=0.8):
                self._mistake(key, f"no input task makes a table {text!r}.{did_you_mean(name, declared)}")
            else:
                self.unknown.setdefault(text, key)
        return found[0] if len(found) == 1 else None

    def _mistake(self, key: Key, message: str) -> None:
        self.problems.append(self.problem(key, message))

    def warn(self) -> None:
        """Name the tables that nobody knows: they may be tables of another flow, or names that a task gives its tables
        while it runs."""
        if self.unknown:
            names = ", ".join(map(repr, self.unknown))
            message = f"nobody reads {names}, because no input task here makes such a table."
            problem = self.problem(next(iter(self.unknown.values())), message)
            warnings.warn_explicit(problem.message, UserWarning, str(problem.file), problem.line or 1)


def _names(table: InputTable) -> Iterable[str]:
    """All that people may call a table."""
    stage, _, asset = table.name.partition(".")
    names = [table.name, asset]
    if table.sql_name is not None:
        names += [f"{stage}.{table.sql_name}", table.sql_name]
    return names
