"""Running one stage of one instance: run what must run (see `run_task`), stage the results, commit once.

A stage run holds the lock of the stage. It reads other stages in the versions that its run has pinned. Nothing
is visible before the commit at its end; when a task fails, what the others have staged is kept in the catalog for
the next run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from pipedag_dagster.catalog.catalog import RunRecord, SourceVersion, StageVersion, TableVersion
from pipedag_dagster.catalog.reason import Reason, ReasonKind
from pipedag_dagster.checks import Check
from pipedag_dagster.config.instances import CacheValidation
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.data import sent_rows
from pipedag_dagster.errors import NotMaterialized, PipedagError, TaskFailed, UnstorableResult, task_failed
from pipedag_dagster.execution.check_runner import Checker, refuse
from pipedag_dagster.execution.decide import Decider
from pipedag_dagster.execution.inputs import Inputs
from pipedag_dagster.execution.keyed_call import KeyedCall
from pipedag_dagster.execution.materialized import Refusal, dropped_if_it_fails
from pipedag_dagster.execution.progress import LoggedProgress, Progress
from pipedag_dagster.execution.run_log import SUSPICIOUS, is_suspicious, run_record, suspect
from pipedag_dagster.execution.run_task import TaskRunner
from pipedag_dagster.execution.sample_checks import sample_checks
from pipedag_dagster.execution.scheduler import Note, Scheduler
from pipedag_dagster.execution.stage_result import Outcome, StageResult
from pipedag_dagster.execution.store_outputs import OutputWriter
from pipedag_dagster.execution.user_frames import failed_line
from pipedag_dagster.execution.worker_calls import run_elsewhere
from pipedag_dagster.graph.flow import Stage, TaskCall
from pipedag_dagster.options import defined_at
from pipedag_dagster.postgres.failures import as_sqlalchemy
from pipedag_dagster.sampling.copies import copied_calls
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.renewal import renewed
from pipedag_dagster.workers.places import Places


def run_stage(
    instance: ConfigContext,
    stage: Stage,
    run_id: str,
    *,
    assets: Collection[str] | None = None,
    checks: Collection[tuple[str, str]] | None = None,
    validation: CacheValidation | None = None,
    progress: Progress | None = None,
) -> StageResult:
    """Bring the tables of one stage up to date and commit them.

    Args:
        instance: whose tables.
        run_id: all stages with the same run id see the same versions of what they read.
        assets: only these tables of the stage; all without it. What they need from the same stage is read from its
            committed version.
        checks: only these (asset, name of the check); those of `assets` without it.
        validation: replaces the instance's own `cache_validation`.
        progress: is told what happens. Without it, the log of this package is.

    Raises:
        TaskFailed: a task failed. What is visible is what was visible before.
        ChecksFailed: a blocking check failed. What is visible is what was visible before.
        NotMaterialized: something that is needed was never committed.
        FreshInput: the input changed while the mode asserts that it does not.
        RunActive: another run writes the stage, for longer than `lock_timeout`.
        ConnectionLost, DiskFull: of the database. What is visible is one whole version.
    """
    progress = progress or LoggedProgress()
    store = instance.store.table_store
    store.prepare([stage.name])
    names = stage.flow.stage_names
    read = {output.call.stage.name for call in stage.calls for output in call.inputs}
    pins = store.pin(run_id, names, {stage.name, *read}, is_prepared=True)
    source_pins = {}
    if instance.source is not None:
        # Tables of several stages may refer to each other, and are sampled together.
        copied = {stage.name, *(call.stage.name for call in copied_calls(instance, stage.flow))}
        source_pins = instance.source.store.table_store.pin(run_id, names, sorted(copied))
    places = Places(instance.config.tasks)
    with renewed(run_id), store.lock(stage.name, run_id, progress.message) as held, instance, closing(places):
        base = held.base(pins[stage.name])
        inputs = Inputs(instance, stage, run_id, base, pins, source_pins)
        run = _StageRun(
            instance,
            stage,
            run_id,
            validation or instance.config.cache_validation,
            progress,
            held,
            base,
            inputs,
            places,
        )
        calls = [call for call in stage.calls if assets is None or set(call.assets) & set(assets)]
        return run.run(calls, assets, _chosen(instance, stage, assets, checks))


def _chosen(
    instance: ConfigContext,
    stage: Stage,
    assets: Collection[str] | None,
    checks: Collection[tuple[str, str]] | None,
) -> list[tuple[str, Check]]:
    """The checks to evaluate, each with its asset."""
    declared: list[tuple[str, Check]] = [
        (asset, check) for call in stage.calls for asset in call.assets for check in call.task.about.checks_of(asset)
    ]
    of_samples = sample_checks(instance, stage.flow)
    own = ((asset, of_samples.get(f"{stage.name}.{asset}")) for call in stage.calls for asset in call.assets)
    declared += [(asset, check) for asset, check in own if check is not None]
    if checks is not None:
        return [(asset, check) for asset, check in declared if (asset, check.name) in checks]
    return [(asset, check) for asset, check in declared if assets is None or asset in assets]


@dataclass
class _StageRun:
    instance: ConfigContext
    stage: Stage
    run_id: str
    validation: CacheValidation
    progress: Progress
    held: LockedStage
    base: StageVersion
    inputs: Inputs
    places: Places
    outcomes: dict[TaskCall, Outcome] = field(default_factory=dict)
    done: int = 0  # tables

    def __post_init__(self) -> None:
        self.store = self.instance.store.table_store
        self.runner = TaskRunner(self.inputs, self.validation, self.held)
        self.decider = Decider(self.store, self.base, self.validation)

    # The stage as a whole

    def run(
        self, calls: list[TaskCall], assets: Collection[str] | None, checks: list[tuple[str, Check]]
    ) -> StageResult:
        started = time.monotonic()
        try:
            self._run_calls(calls)
        except PipedagError as error:
            error.add_note(self._left())
            raise
        outcomes = tuple(self.outcomes[call] for call in calls)
        cached = [asset for outcome in outcomes for asset in outcome.tables if asset not in outcome.written]
        if cached:
            # One line for all: each is an entry in Dagster's event log, which costs more than the look-up.
            self.progress.message(f"stage {self.stage.name}: {len(cached)} cached ({', '.join(cached)})")
        members = self._members(outcomes, assets)
        records = [
            run_record(self.run_id, outcome.reason_of(asset), outcome.seconds, table, self.base.tables.get(asset))
            for outcome in outcomes
            for asset, table in outcome.tables.items()
            if assets is None or asset in assets or asset not in outcome.call.assets
        ]
        previous = self.base.number
        same = {table.id for table in members.values()} == {table.id for table in self.base.tables.values()}
        checker = Checker(self.inputs, members)
        checked = checker.run((asset, check) for asset, check in checks if check.blocking)
        refuse(self.stage.name, checked, previous, staged=not same)
        number = self._commit(calls, members, records, same=same, started=started)
        checked += checker.run((asset, check) for asset, check in checks if not check.blocking)
        for result in checked:
            if not result.passed:
                self.progress.message(f"check failed: {result}")
        if checked:
            self.progress.message(
                f"stage {self.stage.name}: {sum(one.passed for one in checked)} of {len(checked)} checks passed"
            )
        others = (
            table for name, pin in self.inputs.pins.items() if name != self.stage.name for table in pin.tables.values()
        )
        seen = (*members.values(), *others)
        return StageResult(outcomes, number, previous, tuple(checked), seen, self._reads(calls))

    def _left(self) -> str:
        """What is visible after a failure, and what to expect of the next run."""
        seen = f"people see version {self.base.number}, as before" if self.base.number else "there is no version before"
        return f"Stage {self.stage.name!r} was not committed: {seen}. The next run reuses what has finished."

    def _commit(
        self,
        calls: list[TaskCall],
        members: Mapping[str, TableVersion],
        records: list[RunRecord],
        *,
        same: bool,
        started: float,
    ) -> int:
        """Make the tables visible, unless they are. Returns the number of the version that people see."""
        stage, previous = self.stage.name, self.base.number
        if previous and same and self.held.shows(self.base):
            self.held.keep(previous, records)
            self.progress.message(f"stage {stage}: unchanged, version {previous}")
            return previous
        sources = self._sources(calls)
        self.held.commit(previous + 1, members, records, sources=sources)
        self.progress.message(
            f"stage {stage}: committed version {previous + 1} after {time.monotonic() - started:.1f} s"
        )
        return previous + 1

    def _run_calls(self, calls: list[TaskCall]) -> None:
        total = sum(len(call.assets) for call in calls)
        config = self.instance.config
        Scheduler(
            self._run_call,
            started=self.progress.started,
            finished=lambda outcome: self._finished(outcome, total),
            failed=self.progress.failed,
            threads=max(config.max_concurrent, 0 if config.tasks.on == "threads" else config.tasks.count),
            fail_fast=config.fail_fast,
            name=self.stage.name,
        ).run_all(calls)

    def _finished(self, outcome: Outcome, total: int) -> None:
        self.outcomes[outcome.call] = outcome
        done, self.done = self.done, self.done + len(outcome.tables)
        for number, (asset, table) in enumerate(outcome.written.items(), done + 1):
            what = f"staged {_size(table)} in {outcome.seconds:.1f} s ({number}/{max(total, number)})"
            self.progress.message(f"{self.stage.name}.{asset}: {what}: {outcome.reason}")
        if not outcome.cached:
            notes = (note for table in outcome.tables.values() for note in table.parts.get("notes", ()))
            for note in dict.fromkeys(notes):
                self.progress.warning(note)
        self._suspect(outcome)
        self.progress.finished(outcome)

    def _suspect(self, outcome: Outcome) -> None:
        """Warn about a cache function whose value changes by itself."""
        if outcome.reason.kind is not ReasonKind.fresh_input:
            return
        asset, table = next(iter(outcome.tables.items()))
        now = run_record(self.run_id, outcome.reason, outcome.seconds, table, self.base.tables.get(asset))
        if is_suspicious([now, *self.store.records.runs(self.stage.name, asset, SUSPICIOUS)]):
            self.progress.message(suspect(outcome.call))

    def _members(self, outcomes: tuple[Outcome, ...], assets: Collection[str] | None) -> dict[str, TableVersion]:
        """The tables of the coming stage version, by asset: the selected ones, and others that the flow still has, or
        that somebody else has put there."""
        ours = {asset: call for call in self.stage.calls for asset in call.assets}
        calls = {call.name for call in self.stage.calls}
        ran = {outcome.call.name for outcome in outcomes}
        members = {
            asset: table
            for asset, table in self.base.tables.items()
            if table.flow != self.stage.flow.name or asset in ours or (table.task in calls and table.task not in ran)
        }
        made: dict[str, TableVersion] = {}
        for outcome in outcomes:
            for asset, table in outcome.tables.items():
                if assets is None or asset in assets or asset not in ours:
                    if ours.get(asset, outcome.call) is not outcome.call or asset in made:
                        other = ours[asset].name if asset in ours else made[asset].task
                        raise self._twice(table, other)
                    made[asset] = members[asset] = table
        names: dict[str, TableVersion] = {}
        for table in members.values():
            first = names.setdefault(table.name, table)
            if first is not table:
                raise self._twice(table, first.task)
        return members

    def _twice(self, table: TableVersion, other: str) -> TaskFailed:
        return TaskFailed(
            f"Stage {self.stage.name!r} would have two tables {table.name!r}: one by {other!r} and one by "
            f"{table.task!r}. Nothing was committed. Give one of them another name."
        )

    def _reads(self, calls: list[TaskCall]) -> dict[str, int]:
        """The versions of other stages that these calls have read."""
        names = dict.fromkeys(output.call.stage.name for call in calls for output in call.inputs)
        own = {name: self.inputs.version_of(name).number for name in names if name != self.stage.name}
        copied = (source for call in calls for source in self.inputs.sources(call))
        return own | {f"{source.instance}/{source.stage}": source.number for source in copied}

    def _sources(self, calls: list[TaskCall]) -> Collection[SourceVersion] | None:
        """The versions that inputs were copied from. None, when only other calls of the stage ran: then they stay."""
        copying = any(self.inputs.sources(call) for call in self.stage.calls)
        found = dict.fromkeys(source for call in calls for source in self.inputs.sources(call))
        return list(found) if found or not copying else None

    # One call

    def _run_call(self, call: TaskCall, note: Callable[[Note], None]) -> Outcome:
        try:
            outcome = self._run_task(call, note)
        except PipedagError as error:
            error.task, error.line = str(call), failed_line(error.__cause__) or defined_at(call.task.fn)
            raise
        self.inputs.made[call] = outcome.tables  # before any call that needs them starts
        return outcome

    def _run_task(self, call: TaskCall, note: Callable[[Note], None]) -> Outcome:
        started = time.monotonic()
        try:
            keyed = self.runner.key(call)
            with dropped_if_it_fails(self.held, keyed.materialized):
                decision = self.decider.decide(keyed)
                tables = decision.cached or self._run_and_store(keyed, decision.reason, note)
        except TaskFailed as error:
            cause = error if isinstance(error, Refusal) else error.__cause__
            kind = UnstorableResult if isinstance(error, UnstorableResult) else TaskFailed
            raise task_failed(f"{error}\n{self._where(call)}", as_sqlalchemy(cause), kind) from cause
        except NotMaterialized:
            self.held.check()  # a server that crashed has lost tables that were just written
            raise
        except PipedagError:
            raise
        except (Exception, SystemExit) as error:
            message = f"{call} failed: {type(error).__name__}: {error}\n{self._where(call)}"
            raise task_failed(message, error) from error
        reused = {table.version.asset for table in keyed.materialized if not table.is_new}
        made = {table.asset: table for table in tables}
        return Outcome(call, made, decision.reason, time.monotonic() - started, reused)

    def _run_and_store(self, keyed: KeyedCall, reason: Reason, note: Callable[[Note], None]) -> list[TableVersion]:
        note(partial(self.progress.running, keyed.call, reason))
        may_travel = keyed.outputs is None and not keyed.is_copied
        workers = self.places.workers(keyed.call.task.run_on) if may_travel else None
        if workers is not None:
            return run_elsewhere(
                workers,
                self.inputs,
                self.held,
                keyed,
                compare=self.decider.compares,
                progress=self.progress,
                note=note,
            )
        sent_rows.follower.set(lambda rows: note(partial(self.progress.sent, keyed.call, rows)))
        writer = OutputWriter(self.instance, keyed, self.held, time.monotonic(), self.decider.compares)
        with self.runner.run(keyed) as outputs:
            return writer.write(outputs)

    def _where(self, call: TaskCall) -> str:
        """Where the task failed, for its error message."""
        try:
            inputs = ", ".join(self.inputs.of(call)) or "none"
        except PipedagError:
            inputs = "unknown"
        return f"(task {call}, instance {self.instance.config.name!r}, input tables: {inputs})"


def _size(table: TableVersion) -> str:
    if not table.in_database:
        return f"a {table.kind.name} of {table.bytes:,} bytes"
    return f"{table.rows:,} row{'' if table.rows == 1 else 's'}"
