"""Running several stages in this process, without Dagster: each after the stages that it reads."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.config.instances import CacheValidation
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ChecksFailed
from pipedag_dagster.execution.check_result import CheckResult
from pipedag_dagster.execution.progress import Progress
from pipedag_dagster.execution.stage_run import run_stage
from pipedag_dagster.graph.flow import Stage


@dataclass
class StagesResult:
    """What became of the stages of a run.

    Attributes:
        errors: of the stages that failed.
        checks: each check that was evaluated, with the tables that people see; None when its stage was not committed.
    """

    errors: list[Exception] = field(default_factory=list)
    checks: list[tuple[CheckResult, tuple[TableVersion, ...] | None]] = field(default_factory=list)


def run_stages(
    instance: ConfigContext,
    stages: Iterable[Stage],
    run_id: str,
    *,
    assets: Mapping[str, Collection[str]] | None = None,
    validation: CacheValidation,
    progress: Progress,
) -> StagesResult:
    """Run stages one after the other. After a failure, those that do not need the failed one still run, unless the
    instance has `fail_fast`.

    Args:
        stages: each after those that it reads.
        assets: the tables to run, by stage; all without it.
    """
    result = StagesResult()
    left_out: set[str] = set()  # they failed, or need a stage that failed
    with _stopped_like_interrupted():
        for stage in stages:
            chosen = None if assets is None else assets.get(stage.name, ())
            calls = [call for call in stage.calls if chosen is None or set(call.assets) & set(chosen)]
            if not calls:
                continue
            if left_out & {output.call.stage.name for call in calls for output in call.inputs}:
                left_out.add(stage.name)
                continue
            try:
                done = run_stage(instance, stage, run_id, assets=chosen, validation=validation, progress=progress)
            except Exception as error:
                if isinstance(error, ChecksFailed):
                    result.checks += [(each, None) for each in error.results]
                result.errors.append(error)
                left_out.add(stage.name)
                if instance.config.fail_fast:
                    break
            else:
                result.checks += [(each, done.seen) for each in done.checks]
    return result


@contextlib.contextmanager
def _stopped_like_interrupted() -> Iterator[None]:
    """A process that is asked to stop (SIGTERM) releases its pins and says what is left, as it does after Ctrl-C."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
