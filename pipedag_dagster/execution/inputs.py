"""The inputs of the tasks of a stage run: which version of each table, and how a function gets it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import chain, count
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from pipedag_dagster.cache_functions import rows_hash
from pipedag_dagster.catalog.catalog import OutputKind, SourceVersion, StageVersion, TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.data import json_values, streams
from pipedag_dagster.data.streams import TableStream
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import NotMaterialized
from pipedag_dagster.execution.cache_key import is_arrow_backed
from pipedag_dagster.execution.call_outputs import CallOutputs
from pipedag_dagster.execution.stage_versions import StageVersions, stage_versions
from pipedag_dagster.frame_types import FrameType, batch_class, data_type, is_sql, is_stream_class
from pipedag_dagster.graph import nested
from pipedag_dagster.graph.external_table import ExternalTableReference
from pipedag_dagster.graph.flow import Output, Stage, TaskCall, map_outputs
from pipedag_dagster.graph.raw_sql import RawSql
from pipedag_dagster.graph.replaced_inputs import ReplacedInput
from pipedag_dagster.graph.tables import Table, bare_references
from pipedag_dagster.names import MAX_BYTES, quote
from pipedag_dagster.sampling.copies import copied_from
from pipedag_dagster.sampling.flow_samples import outputs_of, source_outputs
from pipedag_dagster.versions.table_store import TableStore


@dataclass
class Inputs:
    """Which table versions a stage run reads.

    Args:
        base: the committed version of the stage itself.
        pins: the versions of stages of the instance that the run sees. Others are read when somebody needs them: the
            run has pinned all stages of its flow.
        source_pins: the same in the instance that inputs are copied from.
        made: the tables that the calls of this run have made so far, by asset. It grows while the run goes on.
    """

    instance: ConfigContext
    stage: Stage
    run_id: str
    base: StageVersion
    pins: dict[str, StageVersion]
    source_pins: Mapping[str, StageVersion]
    made: dict[TaskCall, Mapping[str, TableVersion]] = field(default_factory=dict)
    _of_sources: dict[tuple[TableStore, str], StageVersion] = field(default_factory=dict, init=False)

    @property
    def is_pinned(self) -> bool:
        """Whether the versions stay as long as the run goes on, and so what was computed from them."""
        return True

    @property
    def store(self) -> TableStore:
        return self.instance.store.table_store

    def outputs_of(self, output: Output) -> CallOutputs:
        """The outputs of the call of an output (see `tables_of`)."""
        call = output.call

        def missing(asset: str) -> NotMaterialized:
            name = self.instance.config.name
            return NotMaterialized(
                f"{call.stage.name}.{asset} is needed, but was never committed in instance {name!r}. Run it first: "
                f"pipedag-dagster run {name} --select {call.stage.name}.{asset}"
            )

        return CallOutputs(call, self.tables_of(call), missing)

    def tables_of(self, call: TaskCall) -> Mapping[str, TableVersion]:
        """What a call has returned, by asset: in this run, in the pinned version, or, when it is a call of this stage
        that was not selected, in the committed version."""
        if call in self.made:
            return self.made[call]
        version = self.base if call.stage is self.stage else self.version_of(call.stage.name)
        return outputs_of(call, version)

    def of(self, call: TaskCall) -> dict[str, TableVersion]:
        """The tables that a call reads, by name. Their data versions are part of its key.

        Raises:
            NotMaterialized: one of them was never committed.
        """
        if call.task.from_source:
            what = "committed: " if call.source is None else f"{call.source.config.name}: {call.source_stage_name}."
            other = {f"{what}{name}": table for name, table in self.stage_versions(call).other.items()}
            return self.staged(call) | other
        return {
            f"{table.stage}.{asset}": table
            for output in call.inputs
            for asset, table in self.outputs_of(output).needed(output).items()
        }

    def staged(self, call: TaskCall) -> dict[str, TableVersion]:
        """Those tables that this run has staged, of a task that gets two versions of tables; none for other tasks."""
        tables = self.stage_versions(call).staged if call.task.from_source else {}
        return {f"staged: {name}": table for name, table in tables.items()}

    def stage_versions(self, call: TaskCall) -> StageVersions:
        """What a task under `@input_stage_versions` gets."""
        return stage_versions(self, call)

    def around(self, call: TaskCall) -> dict[str, str]:
        """The values and shapes around the tables that a call reads: a hash of each, by name."""
        return {name: digest(json_values.text(node)) for name, node in self.nodes_around(call).items()}

    def nodes_around(self, call: TaskCall) -> dict[str, Any]:
        """The same values and shapes, as JSON."""
        nodes = {str(output): self.outputs_of(output).around(output) for output in call.inputs}
        return {name: node for name, node in nodes.items() if node is not None}

    def replaced(self, call: TaskCall) -> dict[str, str]:
        """The columns and rows of the tables that take the place of inputs in this run: a hash of each, by name.

        Raises:
            NotMaterialized: a table does not exist.
        """
        content = {}
        for reference in nested.find(call.arguments, ReplacedInput):
            table = self.store.reader.read_external(reference, sa.Table).element
            columns = [(column.name, str(column.type)) for column in table.columns]
            rows = rows_hash(self.store.database, quote(reference.schema, reference.name))
            content[f"content of {reference.schema}.{reference.name}"] = digest(repr(columns), rows)
        return content

    def of_source(self, source: ConfigContext, call: TaskCall) -> dict[str, TableVersion]:
        """The tables that are copied instead of running an input task, by asset.

        Raises:
            NotMaterialized: the source has not committed one of them yet.
        """
        return source_outputs(self.instance, source, call, self.source_pins[call.stage.name])

    def sources(self, call: TaskCall) -> list[SourceVersion]:
        """The stage version of another instance that a call reads; empty when it reads its own instance only."""
        if call.source is not None:
            version = self.other_version(call)
            return [SourceVersion(call.source.config.name, version.stage, version.number)]
        source, stage = copied_from(self.instance, call), self.stage.name
        return [] if source is None else [SourceVersion(source.config.name, stage, self.source_pins[stage].number)]

    def other_version(self, call: TaskCall, stage: str | None = None) -> StageVersion:
        """The version of a stage that a task under `@input_stage_versions` gets beside that of this run.

        Args:
            stage: without it, the stage that the call names.
        """
        stage = stage or call.source_stage_name
        if call.source is None:
            return self.base if stage == self.stage.name else self.version_of(stage)
        store: TableStore = call.source.store.table_store
        if (store, stage) not in self._of_sources:  # it is asked for each of its tables
            self._of_sources[store, stage] = self._read(store, stage)
        return self._of_sources[store, stage]

    def version_of(self, stage: str) -> StageVersion:
        """The version of a stage of the instance that the run sees. Number 0 when it was never committed."""
        if stage not in self.pins:
            self.pins[stage] = self._read(self.store, stage)
        return self.pins[stage]

    def _read(self, store: TableStore, stage: str) -> StageVersion:
        return store.pin(self.run_id, [stage])[stage]


class Unpinned(Inputs):
    """For callers that only read: the versions that are committed now, without pinning them."""

    @property
    def is_pinned(self) -> bool:
        return False

    def _read(self, store: TableStore, stage: str) -> StageVersion:
        return store.current([stage])[stage]


def own_alias(name: str, taken: Collection[str]) -> str:
    """A name that is not taken yet, with a number where needed.

    >>> own_alias("orders", ["orders"])
    'orders_2'
    """
    numbered = (
        f"{name.encode()[: MAX_BYTES - len(end)].decode(errors='ignore')}{end}" for end in map("_{}".format, count(2))
    )
    return next(alias for alias in chain([name], numbered) if alias not in taken)


class Arguments:
    """The arguments of a call as functions get them; a table is read from the database only when it is needed.

    Args:
        shapes: tables are LazyFrames of polars without rows, for building a plan.
    """

    def __init__(self, inputs: Inputs, call: TaskCall, *, shapes: bool = False) -> None:
        self.inputs = inputs
        self.call = call
        self.shapes = shapes
        self._aliases: set[str] = set()
        self._streams: list[TableStream] = []

    def of_task(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """For the task itself."""
        self._aliases.clear()
        if self.call.task.from_source:
            return self._versions(), {name: self._read(self.call.arguments[name]) for name in self.call.task.pass_args}
        bound = self.call.task.signature.bind_partial()
        bound.arguments.update({name: self._read(value) for name, value in self.call.arguments.items()})
        return bound.args, bound.kwargs

    def of_cache_function(self, names: Collection[str] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """For the cache function, which takes the arguments `names`; all of them without it."""
        self._aliases.clear()
        if self.call.task.from_source:
            return self.of_task()
        arguments = self.call.arguments.items()
        return (), {name: self._references(value) for name, value in arguments if names is None or name in names}

    def _references(self, value: Any) -> Any:
        """An argument for a cache function: `Table(ExternalTableReference(…))` stays, with the name of the table."""

        def named(table: Table) -> Any:
            reference = table.obj
            is_unnamed = isinstance(reference, ExternalTableReference) and table.name is None
            return Table(reference, reference.name) if is_unnamed else table

        return self._read_data(nested.replace(value, Table, named))

    def _versions(self) -> tuple[Any, ...]:
        """The positional arguments of a task under `@input_stage_versions`."""
        call, own = self.call, self.inputs.store
        versions = self.inputs.stage_versions(call)
        other = own if call.source is None else call.source.store.table_store
        pairs = [(own, versions.staged.items()), (other, versions.other.items())]
        tables = [{name: self._table(store, t) for name, t in items if t.in_database} for store, items in pairs]
        blobs = [{name: self._table(store, t) for name, t in items if not t.in_database} for store, items in pairs]
        source = () if call.source is None else (call.source,)
        return (*tables, *(blobs if versions.has_blobs else ()), *source)

    def of_table(self, table: TableVersion, kind: type | None) -> Any:
        """A table of the instance as a type."""
        return self._value(self.inputs.store, table, kind)

    def _table(self, store: TableStore, table: TableVersion) -> Any:
        value = self._value(store, table, self.call.task.input_type)
        if not (self.call.task.add_input_source and table.in_database):
            return value
        return value, Table(None, table.name, primary_key=table.primary_key, indexes=table.indexes)

    def _value(self, store: TableStore, table: TableVersion, kind: type | None) -> Any:
        if not table.in_database:
            return store.read(table, kind)
        store.reader.refuse_lost(table)
        if self.shapes:
            return store.reader.shape(table)
        if is_sql(kind):  # it is pinned, so nobody needs to look whether it is there
            return self._with_alias_of_its_own(store.reader.described(table).alias(table.name))
        if is_stream_class(kind):
            return self._stream(store, table, kind)
        frame_type = FrameType.PANDAS if kind is None else data_type(kind)
        if frame_type is FrameType.POLARS_LAZY and table.kind is OutputKind.table:  # a view may choose another order
            return store.reader.scan(table)
        if frame_type is not FrameType.PANDAS:
            return store.read(table, kind)
        if is_arrow_backed(self.call, self.inputs.instance.config):
            from pipedag_dagster.data import pandas_frames  # noqa: PLC0415

            frame = pandas_frames.arrow_backed(store.read(table, pa.Table))
        else:
            frame = store.read(table, kind)
        frame.attrs["name"] = table.name
        return frame

    def _stream(self, store: TableStore, table: TableVersion, kind: Any) -> Any:
        batch = batch_class(kind)
        wants_arrow = data_type(batch) is FrameType.PANDAS and is_arrow_backed(self.call, self.inputs.instance.config)
        stream = store.reader.stream(table, pa.Table if batch is None or wants_arrow else batch)
        self._streams.append(stream)
        if batch is None:
            return streams.reader(stream)
        return self._arrow_backed(stream) if wants_arrow else stream

    @staticmethod
    def _arrow_backed(stream: TableStream) -> Iterator[Any]:
        from pipedag_dagster.data import pandas_frames  # noqa: PLC0415

        return map(pandas_frames.arrow_backed, stream)

    def close(self) -> None:
        """End the streams among the arguments."""
        for stream in self._streams:
            stream.close()

    def _with_alias_of_its_own(self, table: Any) -> Any:
        """Two inputs may have one name, as `raw.orders` and `clean.orders`: in a join the second is `orders_2`."""
        alias = own_alias(table.name, self._aliases)
        self._aliases.add(alias)
        return table if alias == table.name else table.element.alias(alias)

    def physical_names(self) -> dict[str, str]:
        """The tables in the arguments, quoted, by the name of the argument: `orders`, `tables.orders`, `tables.0`."""
        return dict(self._named(bare_references(self.call.arguments), ""))

    def _named(self, value: Any, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, Output):
            outputs = self.inputs.outputs_of(value)
            value = outputs.read(value, lambda table: table)
        if isinstance(value, TableVersion) and value.in_database:
            yield name, quote(self.inputs.store.schemas(value.stage).versions, value.physical)
        elif isinstance(value, ExternalTableReference):
            yield name, quote(value.schema, value.name)
        elif isinstance(value, dict | RawSql):
            for key, part in value.items():
                yield from self._named(part, f"{name}.{key}" if name else str(key))
        elif isinstance(value, list | tuple):
            for number, part in enumerate(value):
                yield from self._named(part, f"{name}.{number}")
        elif is_dataclass(value) and not isinstance(value, type | TableVersion):
            for one in fields(value):
                yield from self._named(getattr(value, one.name), f"{name}.{one.name}")

    def _read(self, value: Any) -> Any:
        """`value` with its outputs and external tables replaced by data."""
        return self._read_data(bare_references(value))

    def _read_data(self, value: Any) -> Any:
        def read(output: Output) -> Any:
            return self.inputs.outputs_of(output).read(output, lambda table: self._table(self.inputs.store, table))

        return map_outputs(nested.replace(value, ExternalTableReference, self._external), read)

    def _external(self, reference: ExternalTableReference) -> Any:
        """The table that a reference in the arguments names."""
        table = self.inputs.store.reader.read_external(reference, self.call.task.input_type)
        return self._with_alias_of_its_own(table) if isinstance(table, sa.Alias) else table
