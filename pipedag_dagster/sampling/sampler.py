"""The samples of one small instance: which rows of its source it copies, chosen once and remembered.

Tables that refer to each other are sampled together, also across stages. The catalog of the small instance remembers
each sample by its rules and the physical tables, so that only one run chooses, and later ones use what it chose.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import psycopg

from pipedag_dagster.catalog.catalog import OutputKind, SampledRows, TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import NotMaterialized, SampleError
from pipedag_dagster.names import quote
from pipedag_dagster.postgres import temporary_tables
from pipedag_dagster.postgres.advisory_lock import TransactionLock
from pipedag_dagster.sampling import choose
from pipedag_dagster.sampling.changing_functions import changing_functions
from pipedag_dagster.sampling.chosen import Chosen
from pipedag_dagster.sampling.edge_cases import EdgeCase, edge_case_handles, relations_of
from pipedag_dagster.sampling.keep_sample import keep
from pipedag_dagster.sampling.profiles import Profiles
from pipedag_dagster.sampling.rules import All, EdgeCases, Nothing, Rows, Rule, SampleSpec
from pipedag_dagster.sampling.sample import Sample, is_in_order
from pipedag_dagster.sampling.selection import SETTINGS, Selection, Why
from pipedag_dagster.sampling.source_tables import Connection, SourceTable, source_table
from pipedag_dagster.sampling.split import refuse_split
from pipedag_dagster.versions import content_hash
from pipedag_dagster.versions.copy_rows import SourceRows, few

# A pooled connection would keep the work tables.
_CLEAN = "DISCARD TEMP"


class Sampler:
    """Samples of the tables of a source.

    Args:
        tables: the tables of the source that inputs are copied from, by `stage.asset`.
        spec: what the samples are asked to contain.
        numbers: the number of the version of each stage that the tables are of.
        missing: tables that the source has not made yet, with the error to raise when one of them is needed.
        remember: keep what was chosen in the catalog of the instance, which is there.
    """

    def __init__(
        self,
        instance: ConfigContext,
        source: ConfigContext,
        tables: Mapping[str, TableVersion],
        spec: SampleSpec,
        *,
        numbers: Mapping[str, int],
        missing: Mapping[str, NotMaterialized] | None = None,
        remember: bool = True,
    ) -> None:
        self.instance = instance
        self.source = source
        self.tables = tables
        self.spec = replace(spec, rules={name: _effective(spec, name, table) for name, table in tables.items()})
        self._numbers = numbers
        self._missing = missing or {}
        self._remember = remember
        self._lock = threading.Lock()
        self._samples: dict[str, Sample] = {}

    def of(self, name: str) -> Sample:
        """The sample of a table (`stage.asset`).

        Raises:
            SampleError: the rules give no sample that makes sense. Nothing was written.
        """
        with self._lock:
            if name not in self._samples:
                self._samples |= self._together(self.related(name))
            return self._samples[name]

    def known(self, name: str) -> Sample | None:
        """The sample of a table, if nobody must choose it: it was chosen before, or all rows are copied."""
        names = self.related(name)
        spec = self._spec_of(names)
        if self._is_whole(spec, names):
            return self._whole(spec, name)
        key = self._key(spec, choose.as_conditions(spec, self.source, self.tables))
        rows = self._before(key)
        return None if rows is None else Sample(self.tables[name], self._rules(spec), rows[name], key)

    def related(self, name: str) -> list[str]:
        """The tables that are sampled together with a table: those that relations lead to, and itself.

        Raises:
            NotMaterialized: the source has not made one of them yet.
        """
        found, todo = {name}, [name]
        while todo:
            table = todo.pop()
            if table in self._missing:
                raise self._missing[table]
            for relation in self.spec.relations:
                sides = {relation.child, relation.parent}
                if table in sides and sides <= self.tables.keys() | self._missing.keys():
                    todo += sides - found
                    found |= sides
        return sorted(found)

    def origin(self, sample: Sample) -> SourceRows:
        """The rows of a sample, for copying them."""
        table, rows = sample.table, sample.rows
        store, ours = self.source.store.table_store, self.instance.store.table_store
        if rows.rows_of_view is not None:
            relation = quote(ours.catalog.schema, rows.rows_of_view)
            return SourceRows(
                ours.database, relation, table.columns, None, False, rows.content, content_hash=rows.content
            )
        handles = None
        if sample.key is not None and not rows.is_whole:
            name = f"{table.stage}.{table.asset}"
            handles = ours.catalog.handles(sample.key, name)
        physical = quote(store.schemas(table.stage).versions, table.physical)
        is_few = few(rows.rows, rows.source_rows)
        # The data version of a whole table may be no hash.
        known = table.content_hash if rows.is_whole else rows.content
        return SourceRows(store.database, physical, table.columns, handles, is_few, rows.content, content_hash=known)

    def is_whole(self, name: str) -> bool:
        """Whether all rows of a table, and of those that are sampled with it, are copied: nothing is to be chosen."""
        names = self.related(name)
        return self._is_whole(self._spec_of(names), names)

    def groups(self) -> list[list[str]]:
        """All tables: those that are sampled together, together."""
        groups: list[list[str]] = []
        for name in self.tables:
            if not any(name in group for group in groups):
                groups.append(self.related(name))
        return groups

    @contextmanager
    def looking(self, names: Sequence[str]) -> Iterator[Chosen]:
        """Choose the sample of related tables, for looking at it within the transaction. Nothing is left behind, and
        too large a sample is not refused."""
        self._refuse_split(names)
        spec = self._spec_of(names)
        conditions = choose.as_conditions(spec, self.source, self.tables)
        with self.source.store.table_store.database.transaction() as connection:
            yield self._chosen(connection, spec, conditions)
            connection.execute(_CLEAN)

    # Choosing

    def _together(self, names: Sequence[str]) -> dict[str, Sample]:
        spec = self._spec_of(names)
        if self._is_whole(spec, names):
            return {name: self._whole(spec, name) for name in names}
        self._refuse_split(names)
        conditions = choose.as_conditions(spec, self.source, self.tables)
        key, rules = self._key(spec, conditions), self._rules(spec)
        rows = self._before(key)
        if rows is None:
            rows = self._remembered(key, spec, conditions) if self._remember else self._tried(spec, conditions)
        return {name: Sample(self.tables[name], rules, rows[name], key) for name in names}

    def _remembered(self, key: str, spec: SampleSpec, conditions: SampleSpec) -> dict[str, SampledRows]:
        """Choose: one run does, and others wait for it."""
        store = self.instance.store.table_store
        with store.database.begin() as connection:
            lock = f"pipedag:{store.catalog.schema}:sample:{key}"
            TransactionLock(lock, f"the sample of {', '.join(spec.rules)}").take(connection)
            before = store.catalog.sample(connection, key)
            if before is not None:
                return before
            source = self.source.store.table_store.database
            writer = connection.connection.driver_connection
            assert isinstance(writer, psycopg.Connection)
            with nullcontext(writer) if store.database.same_as(source) else source.transaction() as reader:
                chosen = self._accepted(reader, spec, conditions)
                rows = _with_rows_of_views(key, chosen.rows, self.tables)
                store.catalog.add_sample(connection, key, rows)
                keep(reader, writer, store.catalog, key, chosen.selection, rows)
                reader.execute(_CLEAN)
            return rows

    def _before(self, key: str) -> dict[str, SampledRows] | None:
        store = self.instance.store.table_store
        return store.records.sample(key) if store.exists() else None

    def _tried(self, spec: SampleSpec, conditions: SampleSpec) -> dict[str, SampledRows]:
        """Choose, and leave nothing behind."""
        with self.source.store.table_store.database.transaction() as connection:
            chosen = self._accepted(connection, spec, conditions)
            connection.execute(_CLEAN)
            return chosen.rows

    def _accepted(self, connection: Connection, spec: SampleSpec, conditions: SampleSpec) -> Chosen:
        chosen = self._chosen(connection, spec, conditions)
        refusal = chosen.refusal(self.instance.config.name)
        if refusal is not None:
            raise SampleError(refusal)
        return chosen

    def _chosen(self, connection: Connection, spec: SampleSpec, conditions: SampleSpec) -> Chosen:
        """Choose.

        Args:
            spec: what is asked for.
            conditions: the same, with a condition in place of each function.
        """
        temporary_tables.require(connection, "Choosing a sample")
        if changing := changing_functions(connection, spec.conditions()):
            raise SampleError(
                f"{changing[0]}() in a condition may have another result every time, and so would the sample. "
                "Write the condition without it, or declare the function IMMUTABLE if it is."
            )
        store = self.source.store.table_store
        tables = {name: source_table(store, self.tables[name]) for name in spec.rules}
        try:
            cases = self._edge_cases(connection, tables, spec)
            handles = {name: [case.handle for case in found] for name, found in cases.items()}
            selection = Selection(connection, tables, conditions, handles)
            selection.run()
        except (psycopg.ProgrammingError, psycopg.DataError) as error:
            said = " ".join(filter(None, (error.diag.message_primary, error.diag.message_hint)))
            raise SampleError(
                f"Instance {self.instance.config.name!r}: the sample of {', '.join(tables)} cannot be chosen: {said}. "
                "Fix the condition, or the relation, under `sample:`."
            ) from error
        rows = {name: self._rows(connection, selection, name) for name in tables}
        return Chosen(connection, spec, selection, cases, rows)

    def _edge_cases(
        self, connection: Connection, tables: Mapping[str, SourceTable], spec: SampleSpec
    ) -> dict[str, list[EdgeCase]]:
        """The rare rows, by table. Views have none."""
        if spec.edge_cases == EdgeCases(values=spec.edge_cases.values):
            return {}
        connection.execute(SETTINGS.encode())
        profiles = Profiles(self.instance, self.source, self.tables, remember=self._remember)
        partial = (name for name in tables if not isinstance(spec.rule(name), All | Nothing))
        return {
            name: edge_case_handles(
                connection, tables[name], relations_of(name, tables, spec.relations), spec, profiles
            )
            for name in partial
            if not tables[name].is_view
        }

    def _rows(self, connection: Connection, selection: Selection, name: str) -> SampledRows:
        table, counts = self.tables[name], selection.counts(name)
        rows = sum(counts.values())
        reasons = {why.name: count for why, count in sorted(counts.items())}
        total = table.rows
        if table.kind is OutputKind.view:
            count = connection.execute(f"SELECT count(*) FROM {selection.source(name)}".encode()).fetchone()
            total = count[0] if count else 0
        if rows == total:
            return SampledRows(table.data_version, rows, total, reasons)
        ordered = is_in_order(table)
        relation, handles = selection.source(name), f"SELECT handle FROM {selection.handles(name)}"
        content = content_hash.content(connection, relation, table.columns, ordered=ordered, handles=handles)
        return SampledRows(content, rows, total, reasons)

    def _refuse_split(self, names: Iterable[str]) -> None:
        stages = {self.tables[name].stage for name in names}
        refuse_split(self.instance, self.source, {stage: self._numbers[stage] for stage in stages})

    # Rules

    def _spec_of(self, names: Collection[str]) -> SampleSpec:
        """What is asked of these tables."""
        relations = tuple(one for one in self.spec.relations if {one.child, one.parent} <= set(names))
        return replace(
            self.spec,
            rules={name: self.spec.rule(name) for name in names},
            relations=relations,
            keep=tuple(one for one in self.spec.keep if one.table in names),
        )

    def _is_whole(self, spec: SampleSpec, names: Iterable[str]) -> bool:
        return all(isinstance(spec.rule(name), All) for name in names)

    def _whole(self, spec: SampleSpec, name: str) -> Sample:
        table = self.tables[name]
        rows = SampledRows(table.data_version, table.rows, table.rows, {Why.rule.name: table.rows})
        return Sample(table, self._rules(spec), rows, None)

    def _rules(self, spec: SampleSpec) -> str:
        return "all rows" if self._is_whole(spec, spec.rules) else spec.digest()

    def _key(self, spec: SampleSpec, conditions: SampleSpec) -> str:
        physical = (part for name in spec.rules for part in (name, self.tables[name].physical))
        return digest(spec.digest(), conditions.digest(), *physical)


def _effective(spec: SampleSpec, name: str, table: TableVersion) -> Rule:
    """The rule of a table. A rule that takes all rows of a small table is `all`."""
    rule = spec.rule(name)
    if table.kind is OutputKind.view:
        return rule  # nobody knows how many rows it has
    if table.rows < spec.whole_below or (isinstance(rule, Rows) and rule.count >= table.rows):
        return All()
    return rule


def _with_rows_of_views(
    key: str, rows: Mapping[str, SampledRows], tables: Mapping[str, TableVersion]
) -> dict[str, SampledRows]:
    """With names for the tables that keep the rows of views."""
    views = {name for name, one in rows.items() if tables[name].kind is OutputKind.view and not one.is_whole}
    return {
        name: replace(one, rows_of_view=f"sample_{digest(key, name)}") if name in views else one
        for name, one in rows.items()
    }
