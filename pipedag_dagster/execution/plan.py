"""What a run would do, and why. No task runs, nothing is locked, pinned or written.

Cache functions are called, and lazy tasks build their queries on the committed tables. Whether a task that runs makes
other content cannot be known before. Then the plan for the tasks that need it is open.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from pipedag_dagster.catalog.catalog import StageVersion, TableVersion
from pipedag_dagster.catalog.reason import CACHED, NEW
from pipedag_dagster.config.instances import CacheValidation
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import DatabaseMissing, NotMaterialized, PipedagError
from pipedag_dagster.execution import cache_key
from pipedag_dagster.execution.cache_key import Key
from pipedag_dagster.execution.decide import Decider
from pipedag_dagster.execution.inputs import Inputs, Unpinned
from pipedag_dagster.execution.run_task import TaskRunner
from pipedag_dagster.graph.flow import Stage, TaskCall
from pipedag_dagster.sampling.copies import copied_from, source_of


class Action(enum.StrEnum):
    """What a run would do about a table. `shown`: its result exists, but people see another one, or none. `perhaps`: it
    would run if one of its inputs changes."""

    cached = "cached"
    shown = "shown"
    runs = "runs"
    perhaps = "perhaps"
    fails = "fails"


@dataclass(frozen=True)
class PlannedTable:
    """What a run would do about one table.

    Attributes:
        reason: why it would run, as the run would say it; or why it would fail.
        open: the inputs that would be made again before it, by name. Their content is not known yet.
    """

    stage: str
    asset: str
    action: Action
    reason: str
    open: tuple[str, ...] = ()


def plan(
    instance: ConfigContext,
    stages: Iterable[Stage],
    selected: Callable[[str, str], bool] = lambda stage, asset: True,
    validation: CacheValidation | None = None,
) -> list[PlannedTable]:
    """What a run would do about each table, in the order in which it would.

    Args:
        stages: in their order.
        selected: whether a table (stage, asset) is one of those that would be run.
        validation: replaces the instance's own `cache_validation`.

    Raises:
        DatabaseError: the database cannot be reached.
    """
    stages = list(stages)
    # A missing database is not created: an instance that never ran has no tables.
    looking = instance
    if instance.config.create_database_if_not_exists:
        config = instance.config.model_copy(update={"create_database_if_not_exists": False})
        looking = ConfigContext(config, instance.files)
    names = list(dict.fromkeys(name for stage in stages for name in (stage.name, *stage.flow.stage_names)))
    pins = _committed(looking, names)
    source_pins = {} if looking.source is None else _committed(looking.source, names) or _nothing(names)
    made: dict[TaskCall, Mapping[str, TableVersion]] = {}
    open_calls: dict[TaskCall, Action] = {}
    planned: list[PlannedTable] = []
    with looking:
        for stage in stages:
            versions = pins or _nothing(names)
            inputs = Unpinned(looking, stage, "", versions[stage.name], versions, source_pins, made)
            one = _StagePlan(inputs, validation or instance.config.cache_validation, pins is not None, open_calls)
            for call in stage.calls:
                if any(selected(stage.name, asset) for asset in call.assets):
                    planned += one.of(call)
    return planned


def _committed(instance: ConfigContext, stages: list[str]) -> dict[str, StageVersion] | None:
    """The visible versions; None when the instance has never run."""
    store = instance.store.table_store
    try:
        return store.current(stages) if store.exists() else None
    except DatabaseMissing:
        return None


def _nothing(stages: list[str]) -> dict[str, StageVersion]:
    return {stage: StageVersion(stage, 0, {}) for stage in stages}


@dataclass
class _StagePlan:
    inputs: Inputs
    validation: CacheValidation
    ran: bool
    open_calls: dict[TaskCall, Action]
    runner: TaskRunner = field(init=False)
    decider: Decider = field(init=False)

    def __post_init__(self) -> None:
        self.runner = TaskRunner(self.inputs, self.validation)
        self.decider = Decider(self.inputs.store, self.inputs.base, self.validation)

    def of(self, call: TaskCall) -> list[PlannedTable]:
        """What would become of the tables of a call."""
        before = {output.call: self.open_calls.get(output.call) for output in call.inputs}
        failed = [other for other, action in before.items() if action is Action.fails]
        unknown = tuple(
            f"{output.call.stage.name}.{slot.asset}"
            for output in call.inputs
            for slot in output.slots
            if before[output.call] is not None
        )
        if failed:
            action, reason = Action.fails, f"{failed[0]} fails before it"
        else:
            try:
                action, reason = self._first(call) if not self.ran else self._decide(call, unknown)
            except PipedagError as error:
                action, reason = Action.fails, str(error)
        if action is Action.cached:
            return [self._found(table) for table in self.inputs.made[call].values()]
        self.open_calls[call] = action
        return [PlannedTable(call.stage.name, asset, action, reason, unknown) for asset in call.assets]

    def _found(self, table: TableVersion) -> PlannedTable:
        visible = self.inputs.base.tables.get(table.asset)
        same = visible is not None and visible.id == table.id
        return PlannedTable(table.stage, table.asset, Action.cached if same else Action.shown, str(CACHED))

    def _first(self, call: TaskCall) -> tuple[Action, str]:
        """For an instance that has never run."""
        source = copied_from(self.inputs.instance, call)
        if source is not None:
            self.inputs.of_source(source, call)
        if call.source is not None:
            self.inputs.stage_versions(call)
        reads_source = source_of(self.inputs.instance, call) is not None
        cache_key.assert_not_fresh(call, self.validation, reads_source=reads_source, reason=NEW)
        return Action.runs, str(NEW)

    def _decide(self, call: TaskCall, unknown: tuple[str, ...]) -> tuple[Action, str]:
        """As the run would decide if the inputs that are not known yet did not change."""
        before = self.inputs.base.tables.get(call.assets[0])
        try:
            decision = self.decider.decide(self.runner.key(call))
        except NotMaterialized:
            if not unknown:
                raise
            return Action.runs, str(cache_key.why(self._without_inputs(call, before), before))
        except PipedagError:
            raise
        except Exception as error:  # of a lazy task
            if unknown:  # it may need what they will be
                return (Action.runs, str(NEW)) if before is None else (Action.perhaps, "")
            return Action.fails, f"{call} fails: {type(error).__name__}: {error}"
        if not decision.cached:
            return Action.runs, str(decision.reason)
        if unknown:
            return Action.perhaps, ""
        self.inputs.made[call] = {table.asset: table for table in decision.cached}
        return Action.cached, str(CACHED)

    def _without_inputs(self, call: TaskCall, before: TableVersion | None) -> Key:
        """The key as far as it is known while an input does not exist."""
        code = None if call.task.lazy else cache_key.task_code_version(call)
        known = {"task": call.name, "arguments": cache_key.argument_hashes(call), "code": code}
        kept = {} if before is None else {name: before.parts.get(name) for name in ("text", "cache")}
        return Key({**known, **kept})
