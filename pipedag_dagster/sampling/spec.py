"""What the YAML and the tasks ask a sample to contain, as rules for the input tables of a pipeline.

Names of tables may be written without their stage where only one input table has the name.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipedag_dagster.checks import References
from pipedag_dagster.config.instance_config import InstanceConfig
from pipedag_dagster.config.keys import Key
from pipedag_dagster.config.sample import Sample, TableSample, relation_parts
from pipedag_dagster.errors import ConfigError, Problem, did_you_mean
from pipedag_dagster.fingerprint.fingerprint import fingerprint
from pipedag_dagster.function_reference import function_at
from pipedag_dagster.graph.flow import FlowGraph
from pipedag_dagster.sampling.nesting import not_within
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
from pipedag_dagster.sampling.spec_mistakes import column_mistakes, rule_mistakes
from pipedag_dagster.sql_condition import condition


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

    @property
    def names(self) -> list[str]:
        """All that people may call the table."""
        stage, _, asset = self.name.partition(".")
        in_sql = [] if self.sql_name is None else [f"{stage}.{self.sql_name}", self.sql_name]
        return [self.name, asset, *in_sql]


def declared_relations(flow: FlowGraph) -> list[Relation]:
    """The relations that `references(…)` declares on input tasks."""
    relations = []
    for stage in flow.stages:
        for call in stage.calls:
            if not (call.task.input or call.task.from_source):
                continue
            for asset in call.assets:
                for check in call.task.about.checks_of(asset):
                    if isinstance(check, References) and check.sample is not None:
                        child, parent = f"{stage.name}.{asset}", f"{check.stage}.{check.table}"
                        sides = (child, check.columns, parent, check.target_columns)
                        relations.append(Relation(*sides, check.when, check.sample))
    return relations


def sample_spec(
    config: InstanceConfig, tables: Sequence[InputTable], declared: Sequence[Relation] = (), *, quiet: bool = False
) -> SampleSpec:
    """What the section `sample` of an instance asks for.

    Args:
        tables: all input tables of the instance. Columns and their types are checked where they are known.
        declared: relations that tasks declare. Those in the YAML are added. Relations to other tables are left out.
        quiet: do not warn of names that no input table has.

    Raises:
        ConfigError: the section does not fit the tables. All mistakes are listed, with file and line.
    """
    reader = _Reader(config.problem, tables)
    spec = reader.spec(config.sample, config.default_rows, declared)
    problems = reader.problems
    if config.wider is not None and not problems:
        outer = _Reader(config.wider.problem, tables)
        wider = outer.spec(config.wider.sample, config.wider.default_rows, declared)
        problems = outer.problems or [
            reader.problem_of(part, f"{config.name!r} is within {config.wider.instance_name!r}, but {message}")
            for part, message in not_within(spec, wider, config.wider.instance_name, [table.name for table in tables])
        ]
    if problems:
        raise ConfigError(problems)
    if reader.loading and not quiet:
        reader.warn()
    return spec


@dataclass
class _Reader:
    """Turns names and texts of the YAML into rules, and collects what is wrong with them."""

    problem: Callable[[Key, str], Problem]
    tables: Sequence[InputTable]
    problems: list[Problem] = field(default_factory=list)
    unknown: dict[str, Key] = field(default_factory=dict)
    places: dict[object, Key] = field(default_factory=dict)
    """Where each part of the sample was written: the name of a table for its rule, a Relation, a Keep."""

    @property
    def loading(self) -> bool:
        """Whether no columns are known yet. Then `tables` has all input tables; later, maybe those of one flow."""
        return all(table.columns is None for table in self.tables)

    def spec(self, sample: Sample, default_rows: int | None, declared: Sequence[Relation]) -> SampleSpec:
        spec = SampleSpec(
            self._rules(sample.tables),
            tuple(self._relations(sample.relations, declared)),
            tuple(dict.fromkeys(self._keep(sample))),
            EdgeCases(**sample.edge_cases.model_dump()),
            default_rows,
            sample.whole_below,
            sample.seed,
            sample.max_rows,
        )
        if not self.problems:
            self._add(rule_mistakes(spec, [table.name for table in self.tables]))
        if not self.problems:
            self._add(column_mistakes(spec, {table.name: table.columns for table in self.tables}))
        return spec

    def _add(self, mistakes: Iterable[tuple[object, str]]) -> None:
        self.problems += [self.problem_of(part, message) for part, message in mistakes]

    def problem_of(self, part: object, message: str) -> Problem:
        """A mistake in a part of the sample: a table, a Relation, a Keep, or the name of a key of the section."""
        if (key := self.places.get(part)) is not None:
            return self.problem(key, message)
        if isinstance(part, Relation):
            return Problem(None, None, f"references(…) of {part.child}: {message}")
        in_sample = isinstance(part, str) and "." not in part
        return self.problem(("sample", part) if isinstance(part, str) and in_sample else ("sample",), message)

    def _rules(self, written: Mapping[str, TableSample]) -> dict[str, Rule]:
        rules: dict[str, Rule] = {}
        names: dict[str, str] = {}
        for text, table_sample in written.items():
            key: Key = ("sample", "tables", text)
            table = self._table(key, text)
            if table is not None and (other := names.setdefault(table, text)) != text:
                self._mistake(key, f"is the same table as {other!r}, and a table has one rule. Keep one of them.")
            elif (rule := self._rule(key, table_sample, known=table is not None)) is not None and table is not None:
                rules[table] = rule
                self.places[table] = key
        return rules

    def _rule(self, key: Key, written: TableSample, *, known: bool) -> Rule | None:
        if written.rule is not None:
            return _WORDS[written.rule]
        if written.rows is not None:
            return Rows(written.rows, written.per_value)
        if written.fraction is not None:
            return Fraction(written.fraction, written.key)
        if written.where is not None:
            return Where(written.where)
        if written.choose is not None:
            return self._choose(key, written.choose)
        if not written.children_of or not known:
            return None
        parents = [self._table(key, name, required=True) for name in written.children_of]
        return ChildrenOf(tuple(parent for parent in parents if parent is not None), written.per_parent)

    def _choose(self, key: Key, reference: str) -> Rule | None:
        try:
            return Choose(reference, fingerprint(function_at(reference, "my_pipeline.sampling:claims")).version)
        except ValueError as error:
            self._mistake(key, f"choose: {error}")
        except Exception as error:  # the module of the user may raise anything when it is imported
            self._mistake(key, f"choose: {reference!r} cannot be imported: {type(error).__name__}: {error}")
        return None

    def _relations(self, written: Sequence[str], declared: Sequence[Relation]) -> Iterable[Relation]:
        """All relations, each once; `both` wins."""
        names = {table.name for table in self.tables}
        relations = [relation for relation in declared if {relation.child, relation.parent} <= names]
        for number, text in enumerate(written):
            key: Key = ("sample", "relations", number)
            parts = relation_parts(text)
            child, parent = self._table(key, parts.child), self._table(key, parts.parent)
            if child is not None and parent is not None:
                relation = Relation(child, parts.columns, parent, parts.parent_columns, parts.when)
                relations.append(relation)
                self.places.setdefault(relation, key)
        unique: dict[object, Relation] = {}
        for relation in relations:
            first = unique.setdefault(_identity(relation), relation)
            if relation.follow == "both" and first.follow != "both":
                unique[_identity(relation)] = both = replace(first, follow="both")
                if first in self.places:
                    self.places[both] = self.places[first]
        return unique.values()

    def _keep(self, sample: Sample) -> Iterable[Keep]:
        for number, kept in enumerate(sample.keep):
            key: Key = ("sample", "keep", number)
            if (table := self._table(key, kept.table)) is not None:
                keep = Keep(table, kept.where, kept.because)
                self.places.setdefault(keep, key)
                yield keep

    def _table(self, key: Key, text: str, *, required: bool = False) -> str | None:
        """The input table that somebody calls `text`. An asset wins over a table of the same name in SQL."""
        name = text.lower()
        matches = [table for table in self.tables if name in table.names[:2]]
        matches = matches or [table for table in self.tables if name in map(str.lower, table.names)]
        if len(matches) == 1:
            return matches[0].name
        declared = {each for table in self.tables if table.declared for each in table.names}
        if matches:
            choices = ", ".join(table.name for table in matches)
            self._mistake(key, f"there are several input tables {text!r}. Write one of: {choices}.")
        elif required or (self.loading and difflib.get_close_matches(name, declared, n=1, cutoff=0.8)):
            self._mistake(key, f"no input task makes a table {text!r}.{did_you_mean(name, declared)}")
        else:
            self.unknown.setdefault(text, key)
        return None

    def _mistake(self, key: Key, message: str) -> None:
        self.problems.append(self.problem(key, message))

    def warn(self) -> None:
        """Name the tables that nobody knows: they may be tables of another flow, or names that a task gives its tables
        while it runs."""
        if self.unknown:
            names = ", ".join(map(repr, self.unknown))
            message = f"nothing reads {names}, because no input task here makes such a table."
            problem = self.problem(next(iter(self.unknown.values())), message)
            warnings.warn_explicit(problem.message, UserWarning, str(problem.file), problem.line or 1)


_WORDS: dict[str, Rule] = {"all": All(), "none": Nothing(), "parents": Parents()}


def _identity(relation: Relation) -> object:
    """What makes two relations the same one, however they are written."""
    pairs = frozenset(zip(relation.columns, relation.parent_columns, strict=True))
    when = None if relation.when is None else condition(relation.when).conjuncts
    return relation.child, relation.parent, pairs, when
