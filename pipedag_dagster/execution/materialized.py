"""`Table(…).materialize()`: tables that a task writes itself while it runs.

They are written into the schema of physical tables at once, where nobody but the task sees them, and recorded with the
other outputs of the call. If the task fails, they are dropped.

A lazy task is called in every run. So each of its tables has a key of its own, with its query. What the catalog has for
that key is used instead of writing it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Self

import psycopg
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import DatabaseError, TaskFailed, UnstorableResult, task_failed
from pipedag_dagster.execution.cache_key import TABLE_PART, Key
from pipedag_dagster.execution.decide import Decider
from pipedag_dagster.execution.inputs import Arguments
from pipedag_dagster.execution.keyed_call import KeyedCall, labels
from pipedag_dagster.execution.store_outputs import write_physical
from pipedag_dagster.execution.task_outputs import FrameTable, MaterializedTable, QueryTable, ViewOutput
from pipedag_dagster.execution.unpack import Unpacking, own_name
from pipedag_dagster.frame_types import is_sql
from pipedag_dagster.graph.flow import Slot
from pipedag_dagster.graph.tables import Table
from pipedag_dagster.graph.task_context import TaskContext
from pipedag_dagster.names import physical_name, table_name
from pipedag_dagster.options import caller
from pipedag_dagster.postgres.failures import as_sqlalchemy
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.same_content import Identity
from pipedag_dagster.versions.write_table import PhysicalTable

Source = QueryTable | FrameTable | ViewOutput


class NotWritten(BaseException):
    """Ends a lazy task whose table would have to be written, when nothing may be written. It is no error of the task,
    so the task must not catch it as one."""

    def __init__(self, table: MaterializedTable) -> None:
        self.table = table


@dataclass
class Materializer:
    """The tables that one call of a task writes itself. `with` makes it the one of the task that runs.

    Args:
        held: the stage; None if nothing may be written.
        unpacking: says what becomes of a `Table`.
        decider: finds the tables that a lazy task has written before. None: each table is written, and has the key of
            the call.
        reuse: whether tables that the catalog has are used.
        is_draft: the task gets no data, but builds a plan. Nothing is written.
    """

    keyed: KeyedCall
    arguments: Arguments
    held: LockedStage | None
    unpacking: Unpacking
    decider: Decider | None = None
    reuse: bool = True
    is_draft: bool = False
    was_called: bool = False
    tables: list[MaterializedTable] = field(default_factory=list)
    _objects: dict[int, tuple[Any, MaterializedTable]] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)
    _tainted_by: str | None = None
    _has_returned: bool = False

    def __post_init__(self) -> None:
        self.call = self.keyed.call
        self._steps = count(1)
        self._context = TaskContext(self.call, self.arguments.inputs.instance, self.materialize)

    def __enter__(self) -> Self:
        self._context.__enter__()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._context.__exit__(kind, error, traceback)
        if error is not None:
            self.drop()

    def drop(self) -> None:
        """Drop what was written."""
        _drop(self.held, self.tables)

    def refuse_tainted(self) -> None:
        """
        Raises:
            RuntimeError: the task has written a table twice, or by `materialize_table`, as one does in a debugger. So
                nobody knows what its other tables were made from.
        """
        if self._tainted_by is not None:
            raise RuntimeError(
                f"The task {self.call.task.name} has been tainted by interactive debugging: it has materialized "
                f"{self._tainted_by!r} twice, or by materialize_table(). Nothing of it was kept. Call "
                "Table(…).materialize() once for each table."
            )

    # What the task calls

    def materialize(self, table: Table, *, is_debug: bool = False) -> Callable[[type | None], Any]:
        """Write a table. Returns a function that reads it as a type.

        Args:
            is_debug: the task fails at its end.
        """
        self.was_called = True
        if self._has_returned:
            raise UnstorableResult(
                f"{self.call} materializes a table after it has returned, while its stream is read. Write it before."
            )
        if self.is_draft:
            obj = table.obj
            return lambda kind: obj
        written = next((one for obj, one in self._objects.values() if obj is table), None)
        if written is not None:
            self._tainted_by = self._tainted_by or written.name
            if table.obj is None:
                raise UnstorableResult(
                    f"{self.call} materializes {written.name!r} a second time, but its data is gone since the first "
                    "time. Write materialize(clear_table_obj=False)."
                )
        try:
            output = self._output(table)
            materialized = self._find_or_write(table, output)
        except UnstorableResult as error:
            raise _refused(error, table) from error.__cause__
        if is_debug or any(one.name == output.name for one in self.tables):
            self._tainted_by = self._tainted_by or output.name
        self.tables.append(materialized)
        self._objects[id(table)] = (table, materialized)
        return lambda kind: self._read(materialized, kind)

    def _output(self, table: Table) -> Source:
        """What is to be written. Which output of the call it is, is known when the task has returned."""
        name = own_name(table)
        asset = f"{self.call.name}_step_{next(self._steps)}" if name is None else table_name(name)
        return self.unpacking.table(table, Slot(asset, ("materialize()", len(self.tables))))

    def _find_or_write(self, table: Table, output: Source) -> MaterializedTable:
        key = None if self.decider is None else self._key(output)
        content = output.content.version if isinstance(output, FrameTable) and key is not None else None
        source = replace(output, frame=None) if isinstance(output, FrameTable) else output
        known = Table(None, table.name)

        def result(version: TableVersion, physical: PhysicalTable | None) -> MaterializedTable:
            number = len(self.tables)
            return MaterializedTable(output.slot, output.name, number, known, source, content, version, physical, key)

        found = self.decider.materialized(self.keyed, key) if self.decider and key and self.reuse else None
        if found is not None:
            return result(found, None)
        if self.held is None:
            empty = PhysicalTable(physical_name(output.name), (), 0, 0, None)
            raise NotWritten(result(self._version(output, empty, Identity("")), empty))
        physical = write_physical(self.held, output, self.keyed.source)
        identity = Identity("") if key is None else self._identity(self.held, output, physical, key)
        return result(self._version(output, physical, identity), physical)

    def _identity(self, held: LockedStage, output: Source, physical: PhysicalTable, key: Key) -> Identity:
        """What a table of a lazy task holds. The key of the call needs it."""
        assert self.decider is not None
        if isinstance(output, ViewOutput):
            return Identity(digest(key.cache_key, output.name))
        before = self.decider.materialized_before(self.keyed, key)
        asset = output.slot.asset if before is None else before.asset
        return held.identify(asset, physical, compare=self.decider.compares)

    def _key(self, output: Source) -> Key:
        inputs = {**self.keyed.inputs, **by_name(self.tables)}
        parts = {
            TABLE_PART: output.slot.asset,
            "text": [output.identity(labels(inputs, versions=False))],
            "query": [output.identity(labels(inputs, versions=True))],
        }
        return Key({**self.keyed.key.parts, **parts})

    def _version(self, output: Source, physical: PhysicalTable, identity: Identity) -> TableVersion:
        """The table version as far as it is known now."""
        constraints = None if isinstance(output, ViewOutput) else output.constraints
        return TableVersion(
            stage=self.call.stage.name,
            asset=output.slot.asset,
            name=output.name,
            flow=self.call.stage.flow.name,
            task=self.call.name,
            execution="",
            slot="",
            task_key="",
            cache_key="",
            parts={},
            run_id="" if self.held is None else self.held.run_id,
            code_version="",
            kind=physical.kind,
            data_version=identity.data_version,
            content_hash=identity.content_hash,
            bytes=physical.bytes,
            physical=physical.physical,
            columns=physical.columns,
            primary_key=() if constraints is None else constraints.primary_key,
            indexes=() if constraints is None else constraints.indexes,
            rows=physical.rows,
            seconds=0.0,
            query=None,
        )

    def _read(self, table: MaterializedTable, kind: type | None) -> Any:
        input_type = self.call.task.input_type
        kind = kind or (input_type if is_sql(input_type) else sa.Table)
        value = self.arguments.of_table(table.version, kind)
        self._objects[id(value)] = (value, table)
        return value

    # What unpacking the result asks

    def take(self, value: Any) -> MaterializedTable | None:
        """The table that an object in the result stands for. Each table is taken once: a second time, the object is a
        query like any other."""
        _, table = self._objects.get(id(value), (None, None))
        if table is None or table.version.physical in self._taken:
            return None
        self._taken.add(table.version.physical)
        return table

    def rest(self) -> Sequence[MaterializedTable]:
        """The tables that are not in the result."""
        self._has_returned = True
        return [table for table in self.tables if table.version.physical not in self._taken]


@contextmanager
def dropped_if_it_fails(held: LockedStage, tables: Sequence[MaterializedTable]) -> Iterator[None]:
    """Drop what a task has written itself if it cannot be recorded."""
    try:
        yield
    except BaseException:
        _drop(held, tables)
        raise


def _drop(held: LockedStage | None, tables: Sequence[MaterializedTable]) -> None:
    """What cannot be dropped now, the next commit of the stage drops."""
    written = [table.version for table in reversed(tables) if table.is_new]
    if held is not None and written:
        with suppress(DatabaseError, psycopg.Error, sa.exc.SQLAlchemyError):
            held.drop(written)


def by_name(tables: Sequence[MaterializedTable]) -> Mapping[str, TableVersion]:
    """The table versions, as inputs are named."""
    return {f"{table.version.stage}.{table.slot.asset}": table.version for table in tables}


class Refusal(UnstorableResult):
    """What the task sees when a table cannot be written. The line of the task is in its traceback."""


def _refused(error: UnstorableResult, table: Table) -> TaskFailed:
    """The error of `materialize()`. Of a query, it can be caught as what SQLAlchemy raises for the same, too."""
    beside = as_sqlalchemy(error.__cause__)
    if beside is None and isinstance(table.obj, sa.ClauseElement):
        beside = sa.exc.ProgrammingError(str(error), None, error)
    return task_failed(f"{error} ({caller()})", beside, Refusal)
