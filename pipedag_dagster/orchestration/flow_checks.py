"""What is refused before a run, with Dagster and without it: flows that cannot run as they are wired."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipedag_dagster.checks import References
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import WiringError, did_you_mean
from pipedag_dagster.execution.sent_call import refuse_unpicklable
from pipedag_dagster.graph.flow import FlowGraph


def refuse_unusable(instance: ConfigContext, flows: Sequence[FlowGraph], *, may_be_empty: bool = False) -> None:
    """
    Raises:
        WiringError: the flows cannot run as they are wired on this instance.
    """
    names = [stage.name for flow in flows for stage in flow.stages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise WiringError(f"Two flows have a stage {twice[0]!r}. Stages of one instance need different names.")
    if not names and not may_be_empty:
        raise WiringError(f"Flow {flows[0].name if flows else ''!r} has no stage.")
    for name in names:
        instance.store.table_store.schemas(name)  # names that are too long are refused now
    for flow in flows:
        for stage in flow.stages:
            for call in stage.calls:
                call.task.about.refuse_unknown_tables(str(call), call.assets)
                if not call.task.lazy and (call.task.run_on or instance.config.tasks.on) != "threads":
                    refuse_unpicklable(call)
    refuse_wrong_references(flows)


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
        before = {stage.name, *stage.stages_before}
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
