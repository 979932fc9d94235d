"""Checks as Dagster asset checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import dagster as dg

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.checks import References
from pipedag_dagster.errors import WiringError, did_you_mean
from pipedag_dagster.execution.check_result import CheckResult
from pipedag_dagster.execution.query_text import with_view_names
from pipedag_dagster.execution.sample_checks import SampleReferences
from pipedag_dagster.graph.calls import StageCalls
from pipedag_dagster.graph.flow import FlowGraph, Stage
from pipedag_dagster.orchestration.keys import asset_key
from pipedag_dagster.orchestration.metadata import Metadata, Value, as_text, markdown, of_relations, sql
from pipedag_dagster.orchestration.translator import TableProps
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


def refuse_wrong_references(flows: Iterable[FlowGraph]) -> None:
    """
    Raises:
        WiringError: a check refers to a table that does not exist, or that is made later; or it says how samples follow
            it, but the tables are not sampled.
    """
    stages = [stage for flow in flows for stage in flow.stages]
    tables = {f"{stage.name}.{asset}" for stage in stages for call in stage.calls for asset in call.assets}
    inputs = {
        f"{stage.name}.{asset}"
        for stage in stages
        for call in stage.calls
        if call.task.input or call.task.from_source
        for asset in call.assets
    }
    for stage in stages:
        before = _before(stage)
        for call in stage.calls:
            for asset in call.assets:
                for check in call.task.about.checks_of(asset):
                    if not isinstance(check, References):
                        continue
                    target, subject = f"{check.stage}.{check.table}", f"{stage.name}.{asset}: check {check.name!r}"
                    if target not in tables:
                        raise WiringError(
                            f"{subject} refers to {target}, but there is no such table.{did_you_mean(target, tables)}"
                        )
                    computed = [each for each in (f"{stage.name}.{asset}", target) if each not in inputs]
                    if check.sample == "both" and computed:
                        raise WiringError(
                            f"{subject}: sample='both' has no effect, because {computed[0]} is computed, not sampled. "
                            "Remove it."
                        )
                    if check.stage not in before:
                        raise WiringError(
                            f"{subject} refers to {target}, but stage {check.stage!r} does not have to run before "
                            f"{stage.name!r}. The check could see an old version. Move it to a stage that reads both."
                        )


def _before(stage: Stage) -> set[str]:
    """The names of the stage and of all stages that it reads, directly or not."""
    names: set[str] = set()
    waiting: list[StageCalls] = [stage]
    while waiting:
        current = waiting.pop()
        if current.name not in names:
            names.add(current.name)
            waiting += [needed.call.stage for call in current.calls for needed in call.inputs]
    return names
