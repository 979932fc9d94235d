"""Checks as Dagster asset checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import dagster as dg

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.checks import References
from pipedag_dagster.errors import WiringError, did_you_mean
from pipedag_dagster.execution.check_runner import CheckResult
from pipedag_dagster.execution.query_text import with_view_names
from pipedag_dagster.graph.flow import FlowGraph, Stage
from pipedag_dagster.orchestration.keys import asset_key
from pipedag_dagster.orchestration.metadata import Metadata, Value, as_text, markdown, sql
from pipedag_dagster.orchestration.translator import TableProps
from pipedag_dagster.versions.table_store import TableStore


def check_specs(props: TableProps) -> Iterator[dg.AssetCheckSpec]:
    """The checks of a table."""
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
    return f" Of a sample of {props.deps[0].to_user_string()}: a row that is missing may not have been sampled."


def check_result(
    props: TableProps, result: CheckResult, store: TableStore, shown: Iterable[TableVersion] | None
) -> dg.AssetCheckResult:
    """What became of a check.

    Args:
        shown: the tables that people see as views, by which they are called in the query; None when it was not
            committed: then the physical tables are.
    """
    metadata: Metadata = {
        "pipedag/how": Value.text(result.how),
        "pipedag/seconds": Value.float(round(result.seconds, 3)),
    }
    if result.bad_rows is not None:
        metadata["pipedag/bad_rows"] = Value.int(result.bad_rows)
    if result.sample:
        metadata["pipedag/bad_rows_sample"] = Value.md(markdown([*result.sample[0]], map(as_text, result.sample)))
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
        WiringError: a check refers to a table that is not there, or that is made later.
    """
    stages = [stage for flow in flows for stage in flow.stages]
    tables = {f"{stage.name}.{asset}" for stage in stages for call in stage.calls for asset in call.assets}
    for stage in stages:
        before = _before(stage)
        for call in stage.calls:
            for asset in call.assets:
                for check in call.task.about.checks_of(asset):
                    if not isinstance(check, References):
                        continue
                    target, what = f"{check.stage}.{check.table}", f"{stage.name}.{asset}: check {check.name!r}"
                    if target not in tables:
                        raise WiringError(
                            f"{what} refers to {target}, which is no table.{did_you_mean(target, tables)}"
                        )
                    if check.stage not in before:
                        raise WiringError(
                            f"{what} refers to {target}, but nothing makes stage {check.stage!r} run before "
                            f"{stage.name!r}: the check would see an old version of it. Declare it in a stage that "
                            f"reads both."
                        )


def _before(stage: Stage) -> set[str]:
    """The stage and all that it reads, directly or not."""
    found: dict[str, Stage] = {}
    todo = [stage]
    while todo:
        one = todo.pop()
        if one.name not in found:
            found[one.name] = one
            todo += [needed.call.stage for call in one.calls for needed in call.inputs]
    return set(found)
