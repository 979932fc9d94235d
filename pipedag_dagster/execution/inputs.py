"""What the tasks of a stage run read: which version of each table, and how a function gets it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import NotMaterialized
from pipedag_dagster.flow import Output, Stage, TaskCall
from pipedag_dagster.store.catalog import Source, StageVersion, TableVersion
from pipedag_dagster.store.table_store import TableStore


@dataclass
class Inputs:
    """Which table versions a stage run reads.

    Args:
        base: the committed version of the stage itself.
        pins: the version of each stage of the instance that the run sees.
        source_pins: the same in the instance that inputs are copied from.
        made: what the calls of this run have made so far, by asset; grows while it runs.
    """

    instance: ConfigContext
    stage: Stage
    run_id: str
    base: StageVersion
    pins: Mapping[str, StageVersion]
    source_pins: Mapping[str, StageVersion]
    made: dict[TaskCall, Mapping[str, TableVersion]] = field(default_factory=dict)

    @property
    def store(self) -> TableStore:
        return self.instance.store.table_store

    def tables_of(self, output: Output) -> dict[str, TableVersion]:
        """The table versions behind an output, by asset: as this run made them, as it has pinned them, or, for a
        call of this stage that was not selected, as they are committed."""
        call = output.call
        if call in self.made:
            tables = self.made[call]
        else:
            version = self.base if call.stage is self.stage else self.pins[call.stage.name]
            tables = {
                asset: table
                for asset, table in version.tables.items()
                if asset in call.assets or table.task == call.name
            }
        if output.key is not None or call.count is not None or len(call.slots) == 1:
            missing = [slot.asset for slot in output.slots if slot.asset not in tables]
            if missing:
                raise NotMaterialized(
                    f"{call.stage.name}.{missing[0]} is needed, but was never committed in instance "
                    f"{self.instance.config.name!r}. Run it first: pipedag-dagster run {self.instance.config.name} "
                    f"--select {call.stage.name}.{missing[0]}"
                )
            return {slot.asset: tables[slot.asset] for slot in output.slots}
        return dict(tables)

    def of(self, call: TaskCall) -> dict[str, TableVersion]:
        """What a call reads, by name: the data versions of these make its key.

        Raises:
            NotMaterialized: something of it was never committed.
        """
        if call.source is not None:
            return {
                f"{call.source.config.name}: {table.stage}.{name}": table
                for name, table in self.source_tables(call).items()
            }
        return {
            f"{table.stage}.{asset}": table for output in call.inputs for asset, table in self.tables_of(output).items()
        }

    def of_source(self, source: ConfigContext, stage: str, asset: str) -> TableVersion:
        """What is copied in place of an input task.

        Raises:
            NotMaterialized: the source has not committed it yet.
        """
        version = self.source_pins[stage]
        if asset not in version.tables:
            raise NotMaterialized(
                f"Instance {source.config.name!r}, from which {self.instance.config.name!r} copies its inputs, has no "
                f"table {stage}.{asset} yet. Run it first: pipedag-dagster run {source.config.name}"
            )
        return version.tables[asset]

    def source_tables(self, call: TaskCall) -> dict[str, TableVersion]:
        """For a task under @input_stage_versions: what the source has, without what other tasks here make."""
        version = self._source_version(call)
        if not version.number:
            name = call.source.config.name
            raise NotMaterialized(
                f"Instance {name!r}, from which {call} copies, has not committed stage {version.stage!r} yet. "
                f"Run it first: pipedag-dagster run {name}"
            )
        others = {asset for other in self.stage.calls if other is not call for asset in other.assets}
        return {
            table.name: table for table in version.tables.values() if table.name not in others | {table.asset} & others
        }

    def sources(self, call: TaskCall) -> list[Source]:
        """What is copied for a call; empty when it runs on its own instance only."""
        if call.source is not None:
            version = self._source_version(call)
            return [Source(call.source.config.name, version.stage, version.number)]
        if call.task.input and self.instance.source is not None:
            name = self.stage.name
            return [Source(self.instance.source.config.name, name, self.source_pins[name].number)]
        return []

    def _source_version(self, call: TaskCall) -> StageVersion:
        stage = getattr(call.source_stage, "name", str(call.source_stage))
        version: StageVersion = call.source.store.table_store.pin(self.run_id, [stage])[stage]
        return version


class Unpinned(Inputs):
    """For who only looks: what is committed now, without keeping it."""

    def _source_version(self, call: TaskCall) -> StageVersion:
        stage = getattr(call.source_stage, "name", str(call.source_stage))
        version: StageVersion = call.source.store.table_store.current([stage])[stage]
        return version


class Arguments:
    """The arguments of a call as functions get them; tables are read from the database only when they are taken.

    Args:
        shapes: tables are LazyFrames of polars without rows, for building a plan.
    """

    def __init__(self, inputs: Inputs, call: TaskCall, *, shapes: bool = False) -> None:
        self.inputs = inputs
        self.call = call
        self.shapes = shapes

    def of_task(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """For the task itself."""
        if self.call.source is not None:
            return self._of_source(), {name: self.call.arguments[name] for name in self.call.task.pass_args}
        bound = self.call.task.signature.bind_partial()
        bound.arguments.update({name: self._read(value) for name, value in self.call.arguments.items()})
        return bound.args, bound.kwargs

    def of_cache_function(self, names: Collection[str] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """For the cache function, which takes the arguments `names`; all of them without it."""
        if self.call.source is not None:
            return self.of_task()
        arguments = self.call.arguments.items()
        return (), {name: self._read(value) for name, value in arguments if names is None or name in names}

    def _of_source(self) -> tuple[Any, ...]:
        inputs, call = self.inputs, self.call
        staged = {
            table.name: self._table(inputs.store, table)
            for tables in list(inputs.made.values())
            for table in tables.values()
        }
        source = call.source.store.table_store
        tables = {name: self._table(source, table) for name, table in inputs.source_tables(call).items()}
        return staged, tables, call.source

    def _table(self, store: TableStore, table: TableVersion) -> Any:
        return store.shape(table) if self.shapes else store.read(table, self.call.task.input_type)

    def _read(self, value: Any) -> Any:
        """`value` with its outputs replaced by data."""
        if isinstance(value, Output):
            tables = self.inputs.tables_of(value)
            data = {asset: self._table(self.inputs.store, table) for asset, table in tables.items()}
            slots = value.slots
            if value.key is not None or (len(slots) == 1 and slots[0].key is None):
                return data[slots[0].asset]
            return data if value.call.count is None else tuple(data[slot.asset] for slot in slots)
        if isinstance(value, dict):
            return {key: self._read(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._read(part) for part in value)
        return value
