"""Checks as Dagster asset checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import dagster as dg

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.checks import References
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.execution.check_result import CheckResult
from pipedag_dagster.execution.query_text import with_view_names
from pipedag_dagster.execution.sample_checks import SampleReferences
from pipedag_dagster.graph.flow import Stage
from pipedag_dagster.orchestration.keys import asset_key
from pipedag_dagster.orchestration.metadata import Metadata, Value, as_text, markdown, of_relations, sql
from pipedag_dagster.orchestration.translator import PipedagTranslator, TableProps, asset_specs
from pipedag_dagster.versions.table_store import TableStore


def check_specs(props: TableProps, of_sample: SampleReferences | None = None) -> Iterator[dg.AssetCheckSpec]:
    """The checks of a table, for Dagster.

    Args:
        of_sample: the check that a sample has, which nobody declares.
    """
    if of_sample is not None:
        yield dg.AssetCheckSpec(of_sample.name, asset=props.key, description=of_sample.description)
    for check in props.task.about.checks_of(props.table):
        target = []
        if isinstance(check, References) and (check.stage, check.table) != (props.stage, props.table):
            target = [asset_key(props.instance.instance_id, check.stage, check.table)]
        yield dg.AssetCheckSpec(
            check.name,
            asset=props.key,
            description=check.description + _sampled(props),
            additional_deps=target,
            blocking=check.blocking,
        )


def _sampled(props: TableProps) -> str:
    if props.copied_from is None:
        return ""
    return f" The table is a sample of {props.deps[0].to_user_string()}: a missing row may not have been sampled."


def check_result(
    props: TableProps, result: CheckResult, store: TableStore, shown: Iterable[TableVersion] | None
) -> dg.AssetCheckResult:
    """The result of a check, for Dagster.

    Args:
        shown: the tables that people see as views; the query of the check names these views. None when the stage was
            not committed: then the query names the physical tables.
    """
    metadata: Metadata = {
        "pipedag/how": Value.text(result.how),
        "pipedag/seconds": Value.float(round(result.seconds, 3)),
    }
    if result.bad_rows is not None:
        metadata["pipedag/bad_rows"] = Value.int(result.bad_rows)
    if result.sample:
        metadata["pipedag/bad_rows_sample"] = Value.md(markdown([*result.sample[0]], map(as_text, result.sample)))
    metadata |= of_relations(result.relations)
    if result.query and not result.passed:
        query = result.query if shown is None else with_view_names(result.query, store, shown)
        metadata["pipedag/query"] = Value.md(sql(query))
    if props.copied_from is not None:
        metadata["pipedag/sample_of"] = Value.asset(props.deps[0])
    if shown is None:
        metadata["pipedag/committed"] = Value.bool(False)
    return dg.AssetCheckResult(
        passed=result.passed,
        asset_key=props.key,
        check_name=result.check.name,
        metadata=metadata,
        severity=dg.AssetCheckSeverity[result.check.severity],
        description=result.message,
    )


def evaluations(
    instance: ConfigContext,
    stages: Iterable[Stage],
    checks: Iterable[tuple[CheckResult, Iterable[TableVersion] | None]],
) -> list[dg.AssetCheckEvaluation]:
    """The results of checks of a run without Dagster, in the form that they have with it."""
    specs = (spec for stage in stages for spec in asset_specs(instance, stage, PipedagTranslator()))
    props = {(each.stage, each.table): each for each, _ in specs}
    found = []
    for check, shown in checks:
        result = check_result(props[check.stage, check.asset], check, instance.store.table_store, shown)
        assert result.asset_key is not None
        assert result.check_name is not None
        found.append(
            dg.AssetCheckEvaluation(
                asset_key=result.asset_key,
                check_name=result.check_name,
                passed=result.passed,
                metadata=result.metadata,
                severity=result.severity,
                description=result.description,
                blocking=check.check.blocking,
            )
        )
    return found
