"""The result of a run: what was done, and reading it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import RunRecord, TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import NotMaterialized, did_you_mean
from pipedag_dagster.execution.call_outputs import CallOutputs
from pipedag_dagster.frame_types import is_sql, is_stream_class
from pipedag_dagster.graph.flow import FlowGraph, Output, TaskCall
from pipedag_dagster.graph.not_drawn import NotDrawn
from pipedag_dagster.graph.not_here import Instead
from pipedag_dagster.graph.task import Task

if TYPE_CHECKING:
    import dagster as dg

Data = TypeVar("Data")


def read_type(task: Task) -> type | None:
    """The type in which people get the tables of a task that they ask for without a type; None for the default."""
    kind = task.input_type
    return None if kind is None or is_stream_class(kind) or is_sql(kind) else kind


class FinalTaskState(enum.Enum):
    """What became of a call of a task."""

    UNKNOWN = 0
    COMPLETED = 1
    CACHE_VALID = 2
    FAILED = 10

    def is_successful(self) -> bool:
        return self in (FinalTaskState.COMPLETED, FinalTaskState.CACHE_VALID)

    def is_failure(self) -> bool:
        return self is FinalTaskState.FAILED


class TaskStates(dict[Any, FinalTaskState]):
    """The states of calls. An output stands for its call."""

    def __missing__(self, key: Any) -> FinalTaskState:
        if isinstance(key, Output):
            return self[key.call]
        raise KeyError(key)


class Result(NotDrawn):
    """The result of a run.

    Attributes:
        successful: whether the run succeeded.
        error: the error of a run that failed, else None. `exception` is the same.
        flow: the flow that was run.
        run_id: the id of the run: that of the Dagster run, if it went through Dagster.
        checks: Dagster's results of the checks that were evaluated: `.asset_key`, `.check_name`, `.passed`,
            `.severity`, `.description`, `.metadata`.
    """

    task_values = Instead("Write result.get(task) for what a task has returned, or result.tables for all tables.")
    evolve = Instead("A result cannot be changed.")
    subflow = Instead("Write result.flow for the flow, or result.task_states for what was run.")
    underlying = Instead("Write result.run_id for the run of Dagster.")

    def __init__(
        self,
        instance: ConfigContext,
        run_id: str,
        error: BaseException | None,
        checks: Callable[[], Sequence[dg.AssetCheckEvaluation]] = tuple,
    ) -> None:
        self.instance = instance
        self.run_id = run_id
        self.error = error
        self._evaluations = checks
        self.flow: FlowGraph | None = None

    @cached_property
    def checks(self) -> tuple[dg.AssetCheckEvaluation, ...]:
        """Dagster's results of the checks. Only looking at them imports Dagster."""
        return tuple(self._evaluations())

    @property
    def successful(self) -> bool:
        return self.error is None

    @property
    def exception(self) -> BaseException | None:
        return self.error

    @property
    def config_context(self) -> ConfigContext:
        """The instance of the run."""
        return self.instance

    @property
    def task_states(self) -> TaskStates:
        """What became of each call of the flow, by the call or its output. Calls that the run did not reach, or that
        failed, are `FAILED` if the run failed; calls that were not chosen are `UNKNOWN`."""
        states: dict[TaskCall, FinalTaskState] = {}
        done = {(run.stage, table.task): run.cached for run, table in self.tables}
        for call in [] if self.flow is None else [call for stage in self.flow.stages for call in stage.calls]:
            cached = done.get((call.stage.name, call.name))
            if cached is None:
                states[call] = FinalTaskState.UNKNOWN if self.error is None else FinalTaskState.FAILED
            else:
                states[call] = FinalTaskState.CACHE_VALID if cached else FinalTaskState.COMPLETED
        return TaskStates(states)

    @property
    def tables(self) -> list[tuple[RunRecord, TableVersion]]:
        """Each table of the run, with what was done about it and why."""
        return self.instance.store.table_store.records.of_run(self.run_id)

    @overload
    def get(self, task: str, as_type: type[sa.Table]) -> sa.Alias: ...
    @overload
    def get(self, task: str, as_type: type[Data]) -> Data: ...
    @overload
    def get(self, task: Output | TaskCall | str, as_type: type | None = None) -> Any: ...
    def get(
        self, task: Output | TaskCall | str, as_type: type | None = None, write_local_table_cache: bool = False
    ) -> Any:
        """Read the result of a task from the database.

        Args:
            task: the handle that the task's call returned while wiring; or the name of a table, `"stage.table"`.
            as_type: `pd.DataFrame`, `pa.Table`, `pl.DataFrame`, `pl.LazyFrame` or `sa.Table`. Without it, the
                `input_type` of the task, if it is a frame; else, and for the name of a table, a `pd.DataFrame`.
            write_local_table_cache: accepted for pydiverse.pipedag, without an effect.

        Returns:
            A table, a value, or the object of a blob. If the task returns several, all of them, in the shape in which
            the task has returned them.

        Raises:
            NotMaterialized: the run did not make the table, or its version was dropped since.
        """
        if isinstance(task, str):
            return self._read(task, as_type)
        output = Output(task) if isinstance(task, TaskCall) else task
        call = output.call
        made = {
            table.asset: table
            for run, table in self.tables
            if run.stage == call.stage.name and (table.asset in call.assets or table.task == call.name)
        }

        def missing(asset: str) -> NotMaterialized:
            return NotMaterialized(
                f"Run {self.run_id[:8]} has no table {call.stage.name}.{asset}: the run failed before, or the version "
                "was dropped since. To keep results, run and read inside of `with StageLockContext():`."
            )

        store = self.instance.store.table_store
        kind = as_type or read_type(call.task)
        return CallOutputs(call, made, missing).read(output, lambda table: store.read(table, kind))

    def _read(self, name: str, as_type: type | None) -> Any:
        """The table of a name, in Dagster or in SQL."""
        tables = {f"{table.stage}.{alias}": table for _, table in self.tables for alias in (table.name, table.asset)}
        if name.lower() not in tables:
            hint = did_you_mean(name.lower(), tables)
            raise NotMaterialized(f"Run {self.run_id[:8]} has no table {name!r}.{hint}")
        return self.instance.store.table_store.read(tables[name.lower()], as_type)
