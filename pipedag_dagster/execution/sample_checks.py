"""The check that a sample has what its rows refer to. Small instances have it for each table that is copied with
relations; nobody has to declare it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from pipedag_dagster.catalog.catalog import CheckFinding, TableVersion
from pipedag_dagster.checks import Check
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.digest import digest
from pipedag_dagster.execution.check_result import EVALUATED, REMEMBERED, CheckResult
from pipedag_dagster.execution.inputs import Inputs
from pipedag_dagster.graph.flow import FlowGraph
from pipedag_dagster.sampling.copies import copied_calls
from pipedag_dagster.sampling.profiles import Profiles
from pipedag_dagster.sampling.report import CommittedSample, prepare, relation_report
from pipedag_dagster.sampling.rules import Nothing, Relation
from pipedag_dagster.sampling.source_tables import source_table
from pipedag_dagster.sampling.spec import InputTable, declared_relations, sample_spec

NAME = "sample_references"


@dataclass(frozen=True, kw_only=True)
class SampleReferences(Check):
    """No row of a sample refers to a row that the source has and the sample does not."""

    relations: tuple[Relation, ...]

    @property
    def wrong(self) -> str:
        return "refer to a row that only the source has"


def sample_checks(instance: ConfigContext, flow: FlowGraph) -> dict[str, SampleReferences]:
    """The checks of the tables that an instance copies, by `stage.asset`."""
    if instance.source is None:
        return {}
    # Names that are not known here may be those of tables of another flow, so none looks misspelt.
    listed = [
        InputTable(f"{call.stage.name}.{asset}", declared=False)
        for call in copied_calls(instance, flow)
        for asset in call.assets
    ]
    spec = sample_spec(instance.config, listed, declared_relations(flow), quiet=True)
    names = {table.name for table in listed}
    relations: dict[str, list[Relation]] = {}
    for relation in spec.relations:
        if {relation.child, relation.parent} <= names and not isinstance(spec.rule(relation.parent), Nothing):
            relations.setdefault(relation.child, []).append(relation)
    return {child: _check(instance.source.config.name, tuple(found)) for child, found in relations.items()}


def _check(source: str, relations: tuple[Relation, ...]) -> SampleReferences:
    listed = "; ".join(map(str, relations))
    description = f"Rows refer to no row that {source} has and this sample does not: {listed}."
    return SampleReferences(name=NAME, description=description, relations=relations)


def evaluate(
    inputs: Inputs, members: Mapping[str, TableVersion], check: SampleReferences, table: TableVersion
) -> CheckResult:
    """The result of a check of a copied table.

    A relation to a table of another stage is looked at only if that stage runs before.

    Args:
        members: the coming version of the stage, by asset.
    """
    started = time.monotonic()
    source = inputs.instance.source
    assert source is not None
    ours, theirs = inputs.store, source.store.table_store
    pairs: dict[str, tuple[TableVersion, TableVersion]] = {}
    before = inputs.stage.stages_before
    for name in {side for relation in check.relations for side in (relation.child, relation.parent)}:
        stage, _, asset = name.partition(".")
        here = members if stage == inputs.stage.name else inputs.version_of(stage).tables if stage in before else {}
        there = inputs.source_pins[stage].tables if stage in inputs.source_pins else {}
        if asset in here and asset in there:
            pairs[name] = (here[asset], there[asset])
    relations = [one for one in check.relations if {one.child, one.parent} <= pairs.keys()]
    key = digest(NAME, *map(str, relations), *(one.physical for name in sorted(pairs) for one in pairs[name]))
    found, how = ours.records.findings([key]).get(key), REMEMBERED
    if found is None:
        how = EVALUATED
        tables = {
            name: CommittedSample(source_table(ours, sample), source_table(theirs, original), {})
            for name, (sample, original) in pairs.items()
        }
        profiles = Profiles(inputs.instance, source, {name: pair[1] for name, pair in pairs.items()}, remember=True)
        try:
            with (
                ours.database.transaction(read_only=True) as sample_connection,
                theirs.database.transaction(read_only=True) as source_connection,
            ):
                prepare(sample_connection, source_connection)
                reports = [
                    relation_report(sample_connection, source_connection, one, tables, profiles) for one in relations
                ]
        except psycopg.Error as error:
            message = f"could not be evaluated: the database says: {error.diag.message_primary or type(error).__name__}"
            return CheckResult(check, table.stage, table.asset, None, message)
        broken = sum(report.broken for report in reports)
        found = CheckFinding(broken, [report.as_json() for report in reports], time.monotonic() - started)
        ours.records.add_finding(key, table, found)
    message = f"no broken reference among {table.rows:,} rows"
    if found.bad_rows:
        which = ", ".join(f"{one['broken']:,} by {one['relation']}" for one in found.sample if one["broken"])
        message = f"{found.bad_rows:,} of {table.rows:,} rows {check.wrong}: {which}"
    skipped = [str(relation) for relation in check.relations if relation not in relations]
    if skipped:
        message += f". Not looked at, because the other stage does not run before: {'; '.join(skipped)}"
    return CheckResult(
        check, table.stage, table.asset, found.bad_rows, message, seconds=found.seconds, how=how, relations=found.sample
    )
