"""The committed samples of a small instance, for comparing them with their source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError, NotMaterialized
from pipedag_dagster.graph.flow import FlowGraph
from pipedag_dagster.sampling.copies import copied_calls
from pipedag_dagster.sampling.profiles import Profiles
from pipedag_dagster.sampling.report import CommittedSample, TableReport, prepare, report
from pipedag_dagster.sampling.rules import SampleSpec
from pipedag_dagster.sampling.source_tables import Connection, SourceTable, source_table
from pipedag_dagster.sampling.spec import InputTable, declared_relations, sample_spec
from pipedag_dagster.sampling.weights import table_weight


@dataclass(frozen=True)
class _Pair:
    """A table that was copied: as it is in the small instance, and in the source."""

    sample: TableVersion
    source: TableVersion


@dataclass(frozen=True)
class _Committed:
    """The committed samples of an instance.

    Attributes:
        pairs, tables: by `stage.asset`.
        spec: what they were asked to contain.
    """

    source: ConfigContext
    pairs: Mapping[str, _Pair]
    tables: Mapping[str, CommittedSample]
    spec: SampleSpec


def report_of(instance: ConfigContext, flows: Iterable[FlowGraph]) -> list[TableReport]:
    """Compare the input tables that a small instance shows with those of its source.

    They are compared with the version of the source that they were copied from; if that is not kept any more, with the
    one that the source shows now.

    Args:
        flows: the flows of the instance.

    Raises:
        ConfigError: the instance has no `copy_source`.
        NotMaterialized: the instance has no copied table yet.
    """
    committed = _committed(instance, list(flows))
    tables, source = committed.tables, committed.source
    profiles = Profiles(instance, source, {name: pair.source for name, pair in committed.pairs.items()}, remember=True)
    with (
        instance.store.table_store.database.transaction(read_only=True) as sample_connection,
        source.store.table_store.database.transaction(read_only=True) as source_connection,
    ):
        _hold(source_connection, tables)
        return report(sample_connection, source_connection, tables, committed.spec, profiles)


def weights_of(instance: ConfigContext, flows: Iterable[FlowGraph], text: str) -> str:
    """A query for the rows of a sampled table with their weights (see `weights.py`). It reads only the small instance.

    Args:
        text: the table, as `stage.asset`.

    Raises:
        ConfigError: the instance has no `copy_source`.
        NotMaterialized: the instance has no such copied table.
        SampleError: the rules of the sample give this table no weights.
    """
    committed = _committed(instance, list(flows))
    name = text.lower()
    if name not in committed.tables:
        known = ", ".join(committed.tables)
        raise NotMaterialized(
            f"Instance {instance.config.name!r} has no copied table {text!r}. Choose one of: {known}."
        )
    with committed.source.store.table_store.database.transaction(read_only=True) as connection:
        _hold(connection, committed.tables)
        prepare(connection)
        views = {
            name: replace(table, sample=_view(instance, committed, name)) for name, table in committed.tables.items()
        }
        weight = table_weight(connection, name, views, committed.spec)
    return f"SELECT t.*, {weight} AS sample_weight FROM {views[name].sample.sql} AS t"


def _view(instance: ConfigContext, committed: _Committed, name: str) -> SourceTable:
    """A sampled table by the name that people see. It does not change with the next version."""
    sample = committed.pairs[name].sample
    schema = instance.store.table_store.schemas(sample.stage).current
    return replace(committed.tables[name].sample, schema=schema, physical=sample.name)


def _hold(connection: Connection, tables: Mapping[str, CommittedSample]) -> None:
    """A run of the source may not drop what is being read."""
    names = ", ".join(table.source.sql for table in tables.values())
    connection.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE".encode())


def _committed(instance: ConfigContext, flows: Sequence[FlowGraph]) -> _Committed:
    source = instance.source
    if source is None:
        raise ConfigError(
            f"Instance {instance.config.name!r} reads its inputs itself, so there is nothing to compare it with. "
            "Choose an instance with copy_source."
        )
    pairs = dict(_pairs(instance, source, flows))
    if not pairs:
        raise NotMaterialized(
            f"Instance {instance.config.name!r} has no table yet that was copied from {source.config.name!r}. "
            f"Run it first: pipedag-dagster run {instance.config.name}"
        )
    listed = [InputTable(name, pair.source.name, pair.source.column_types) for name, pair in pairs.items()]
    named = {name for name in _names(instance, flows) if name not in pairs}
    listed += [InputTable(name) for name in sorted(named)]
    relations = [relation for flow in flows for relation in declared_relations(flow)]
    spec = sample_spec(instance.config, listed, relations)
    ours, theirs = instance.store.table_store, source.store.table_store
    tables = {
        name: CommittedSample(source_table(ours, pair.sample), source_table(theirs, pair.source), _reasons(pair.sample))
        for name, pair in pairs.items()
    }
    return _Committed(source, pairs, tables, spec)


def _names(instance: ConfigContext, flows: Iterable[FlowGraph]) -> list[str]:
    calls = [call for flow in flows for call in copied_calls(instance, flow)]
    return [f"{call.stage.name}.{asset}" for call in calls for asset in call.assets]


def _pairs(instance: ConfigContext, source: ConfigContext, flows: Iterable[FlowGraph]) -> Iterator[tuple[str, _Pair]]:
    """The copied tables that are there in both instances, by `stage.asset`."""
    names = _names(instance, flows)
    stages = list(dict.fromkeys(name.partition(".")[0] for name in names))
    versions = instance.store.table_store.current(stages)
    if not source.store.table_store.exists():
        return
    copied = {stage: _source_tables(instance, source, stage) for stage in stages if versions[stage].number}
    for name in names:
        stage, _, asset = name.partition(".")
        sample, original = versions[stage].tables.get(asset), copied.get(stage, {}).get(asset)
        if sample is not None and original is not None and sample.in_database and original.in_database:
            yield name, _Pair(sample, original)


def _source_tables(instance: ConfigContext, source: ConfigContext, stage: str) -> Mapping[str, TableVersion]:
    ours, theirs = instance.store.table_store, source.store.table_store
    with ours.database.read() as connection:
        commits = ours.catalog.commits(connection, stage)
    numbers = [one.number for one in commits[0].sources if one.stage == stage] if commits else []
    with theirs.database.read() as connection:
        for number in numbers:
            tables = theirs.catalog.versions(connection, {stage: number})[stage].tables
            if tables:
                return tables
        return theirs.catalog.current(connection, [stage])[stage].tables


def _reasons(table: TableVersion) -> dict[str, int]:
    return dict(table.parts.get("sample", {}).get("reasons", {}))
