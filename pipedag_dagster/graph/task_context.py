"""The task that runs now, for code that the task calls."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any, Self

from pipedag_dagster.errors import NoTask, WiringError
from pipedag_dagster.graph.calls import TaskCall
from pipedag_dagster.graph.schema import SCRIPT_SCHEMA, Schema, schema_name

_current: ContextVar[TaskContext | None] = ContextVar("task_context", default=None)


@dataclass(eq=False)
class TaskContext:
    """The task that runs now.

    Attributes:
        task: the call of the task, with its `name` and its `stage`.
        instance: for which it runs.
        materialize: writes a table now, and returns a function that reads it as a type (see `Table.materialize`).

    Example:
        @materialize
        def report():
            return Table(rows(TaskContext.get().name))
    """

    task: TaskCall
    instance: Any
    materialize: Callable[..., Callable[[type | None], Any]] = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the task."""
        return self.task.task.name

    @property
    def stage(self) -> Any:
        """The stage of the task."""
        return self.task.stage

    @classmethod
    def get(cls) -> TaskContext:
        """The context of the task that runs in this thread.

        Raises:
            NoTask: no task runs here.
        """
        current = _current.get()
        if current is None:
            raise NoTask("No task runs here: TaskContext.get() works inside of a task, while a flow runs it.")
        return current

    @classmethod
    def current(cls) -> TaskContext | None:
        """The context of the task that runs in this thread; None without a task."""
        return _current.get()

    def refuse_others(self, instance: Any, schema: Schema | str | None) -> None:
        """Refuse an instance or a schema that is not the task's own.

        Raises:
            WiringError
        """
        own = self.instance
        if instance is not None and (instance.pipedag_name, instance.instance_id) != (
            own.pipedag_name,
            own.instance_id,
        ):
            raise WiringError(
                f"{self.task} runs for {own!r}, and can materialize a table for no other instance than that, "
                "ConfigContext.get(). Leave config_context= out."
            )
        names = (SCRIPT_SCHEMA, own.store.table_store.get_schema(self.stage.name).get())
        if schema is not None and schema_name(schema) not in names:
            raise WiringError(
                f"{self.task} runs in stage {self.stage.name!r}, so its tables cannot be materialized in the schema "
                f"{schema_name(schema)!r}. Leave schema= out."
            )

    def __enter__(self) -> Self:
        self._token: Token[TaskContext | None] = _current.set(self)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        _current.reset(self._token)
