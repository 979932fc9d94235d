"""Storing what a task returned, where nobody sees it yet: tables, views, blobs and values."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from pipedag_dagster.catalog.catalog import Column, OutputKind, TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.data import json_values, polars_plans
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.execution import cache_key
from pipedag_dagster.execution.cache_key import Key
from pipedag_dagster.execution.keyed_call import KeyedCall, labels
from pipedag_dagster.execution.notes import query_notes
from pipedag_dagster.execution.observed import Observed
from pipedag_dagster.execution.query_text import with_view_names
from pipedag_dagster.execution.run_log import code_of, with_query
from pipedag_dagster.execution.task_outputs import (
    BlobOutput,
    CopiedTable,
    FrameTable,
    MaterializedTable,
    QueryTable,
    ScriptOutput,
    TaskOutput,
    TaskOutputs,
    ValueOutput,
    ViewOutput,
)
from pipedag_dagster.execution.unpack import check, fill_scripts, slot_of_script
from pipedag_dagster.names import physical_name
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.write_table import Constraints, PhysicalTable

log = logging.getLogger(__name__)


@dataclass
class OutputWriter:
    """Stores the outputs of one execution of one call.

    Args:
        held: the stage, whose lock the run holds.
        started: when the call began (`time.monotonic()`). The first output gets the time since then.
        compare: tables are compared with their earlier versions, so that nothing after them runs for the same content.
    """

    instance: ConfigContext
    keyed: KeyedCall
    held: LockedStage
    started: float
    compare: bool = True
    _versions: list[TableVersion] = field(default_factory=list)
    _script_assets: dict[int, dict[str, str]] = field(default_factory=dict)
    _plans: dict[str, str | None] = field(default_factory=dict)
    _streams: dict[int, PhysicalTable] = field(default_factory=dict)
    _materialized: dict[str, TableVersion] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.call = self.keyed.call
        self.store = self.instance.store.table_store
        self.stage = self.call.stage.name
        self.execution = secrets.token_hex(8)
        self.observed = Observed()

    def write(self, result: TaskOutputs) -> list[TableVersion]:
        """Store the outputs, and record them in the catalog for this or a later run.

        Raises:
            UnstorableResult: one of them cannot be stored.
        """
        # What one query has written is kept apart from what others have, to see that it has written nothing else.
        with self.held.together() if len(result.outputs) == 1 else nullcontext():
            return self._write_all(result)

    def _write_all(self, result: TaskOutputs) -> list[TableVersion]:
        self._streams = {  # before all others: the task runs until they are read
            number: write_physical(self.held, output, self.keyed.source)
            for number, output in enumerate(result.outputs)
            if isinstance(output, FrameTable) and output.is_stream
        }
        self.observed = result.ended()
        for written in result.materialized:  # first, because the others may read them
            self._add_materialized(written)
        for number, output in enumerate(result.outputs):
            self._write(number, output)
        if self._script_assets:
            self._check(result)
        # After all others, the innermost first: what a value contains is part of its data version.
        for output in result.outputs:
            if isinstance(output, ValueOutput):
                self._write_value(output)
        shape = None if result.shape is None else self._small(self._filled(result.shape), str(self.call))
        code = code_of(self.keyed, keep_text=self.instance.config.keep_code)
        new, texts = [], {}
        for table in self._versions:
            if table.id is None:
                text = with_query(code.text, f"{self.stage}.{table.asset}", table.query or self._plans.get(table.asset))
                texts[text.key] = text
                new.append(replace(table, shape=shape, text=text.key, libraries=code.libraries))
        return [*(table for table in self._versions if table.id is not None), *self.held.add(new, texts.values())]

    @property
    def _reads(self) -> dict[str, TableVersion]:
        """The tables that the outputs may read: the inputs of the call, and what the task has written itself."""
        return {**self.keyed.inputs, **self._materialized}

    def _write(self, number: int, output: TaskOutput) -> None:
        match output:
            case QueryTable():
                table = write_physical(self.held, output, self.keyed.source)
                self._add_table(output, table, output.constraints, output.query)
            case CopiedTable():
                self._print(output.name, output.rows.query(None))
                table = self.held.copy_rows(output.name, output.rows, output.sample.constraints)
                parts = {"sample": output.sample.as_part()}
                self._add_table(output, table, output.sample.constraints, output.rows.query(None), parts)
            case FrameTable():
                self._plans[output.slot.asset] = polars_plans.text(output.frame)
                table = self._streams.get(number) or write_physical(self.held, output, self.keyed.source)
                self._add_table(output, table, output.constraints)
            case ViewOutput():
                view = write_physical(self.held, output, self.keyed.source)
                view = replace(view, content=self._content_of_view(output))
                self._add_table(output, view, Constraints(), output.query)
            case ScriptOutput():
                self._run_script(number, output)
            case BlobOutput():
                file = self.held.write_blob(output.pickle)
                holds = {"holds": list(output.classes)} if output.classes else {}
                self._add(output, OutputKind.blob, output.content, bytes=len(output.pickle), file=file, parts=holds)

    def _add_materialized(self, output: MaterializedTable) -> None:
        """Add a table that the task has written itself."""
        version, table, name = output.version, output.physical, f"{self.stage}.{output.slot.asset}"
        if table is None:  # it is in the catalog already
            self._versions.append(version)
            self._materialized[name] = version
            return
        if output.key is not None:
            table = replace(table, content=version.data_version, content_hash=version.content_hash)
        elif table.kind is OutputKind.view:
            table = replace(table, content=self._content_of_view(output))
        self._add_table(output, table, output.constraints, output.query, key=output.key)
        self._materialized[name] = self._versions[-1]

    def _content_of_view(self, output: ViewOutput | MaterializedTable) -> str:
        """What a view reads that is not an input may change without its query: cache function and version tell so."""
        identity = output.identity(labels(self._reads, versions=True))
        told = (self.keyed.key.parts.get("cache"), self.call.task.version)
        return identity if told == (None, None) else digest(identity, *map(str, told))

    def _run_script(self, number: int, script: ScriptOutput) -> None:
        """Run a script, and add the tables and views that it makes."""
        what = f"{self.call}: {script.name}"
        if self.keyed.source is not None and not self.store.database.same_as(self.keyed.source.database):
            raise UnstorableResult(f"{what}: a script cannot read from the other database. Return tables.")
        for text in script.texts:
            self._print(script.name, text)
        assets = self._script_assets[number] = {}
        for name, table in self.held.run_script(script.texts, what).items():
            slot = slot_of_script(self.call, script.slot.path, name)
            assets[name] = slot.asset
            if table.kind is OutputKind.view:
                identity = script.identity(labels(self._reads, versions=True))
                table = replace(table, content=digest(identity, name))
            output = replace(script, slot=slot, name=name)
            self._add_table(output, table, table.constraints or Constraints(), ";\n".join(script.texts))

    def _check(self, result: TaskOutputs) -> None:
        """Only now is it known which tables the scripts make."""
        values = [output for output in result.outputs if isinstance(output, ValueOutput)]
        declared = {slot.asset: slot for slot in self.call.slots}
        undeclared = self.call.slots[0]
        slots = [declared.get(table.asset) or replace(undeclared, asset=table.asset) for table in self._versions]
        names = [table.name for table in self._versions]
        check(self.call, [*(value.slot for value in values), *slots], [*(value.name for value in values), *names])

    def _write_value(self, output: ValueOutput) -> None:
        asset = output.slot.asset
        node = self._small(self._filled(output.node), f"{self.stage}.{asset}")
        text = json_values.text(node)
        parts = {table.asset: table.data_version for table in self._versions}
        content = digest(text, *(parts[asset] for asset in json_values.outputs(node)))
        self._add(output, OutputKind.value, content, bytes=len(text), value=node)

    def _filled(self, node: Any) -> Any:
        return fill_scripts(node, self._script_assets)

    def _small(self, node: object, what: str) -> object:
        size = len(json_values.text(node))
        if size > json_values.LARGEST:
            raise UnstorableResult(
                f"{what} is a value of {size:,} characters as JSON, and the catalog takes {json_values.LARGEST:,}. "
                "Return Blob(…) of it, or a table."
            )
        return node

    def _print(self, name: str, content: object) -> None:
        _print(self.held, name, content, is_sql=True)

    def _add_table(
        self,
        output: TaskOutput,
        table: PhysicalTable,
        constraints: Constraints,
        query: str | None = None,
        parts: Mapping[str, Any] | None = None,
        key: Key | None = None,
    ) -> None:
        reader = self.keyed.source or self.store
        unlogged = {"unlogged": True} if constraints.unlogged and table.kind is OutputKind.table else {}
        ordered = {"ordered": True} if table.ordered else {}
        identity = self.held.identify(output.slot.asset, table, compare=self.compare)
        self._add(
            output,
            table.kind,
            identity.data_version,
            content_hash=identity.content_hash,
            physical=table.physical,
            columns=table.columns if isinstance(output, ScriptOutput) else self._with_origins(table.columns, query),
            primary_key=constraints.primary_key,
            indexes=constraints.indexes,
            rows=table.rows,
            bytes=table.bytes,
            key=key,
            parts=dict(parts or {}) | unlogged | ordered,
            query=None if query is None else with_view_names(query, reader, self._reads.values()),
            notes=[]
            if isinstance(output, ScriptOutput)
            else query_notes(self.keyed, self.held, self.store, output.slot.asset, query, self._reads.values()),
        )

    def _add(self, output: TaskOutput, kind: OutputKind, data_version: str, **details: Any) -> None:
        nothing: Mapping[str, Any] = {
            "physical": physical_name(output.name),
            "columns": (),
            "primary_key": (),
            "indexes": (),
            "rows": 0,
            "query": None,
        }
        own_key = details.pop("key", None)
        key = own_key or self.keyed.key
        parts = {**key.parts, **self.observed.parts, **details.pop("parts", {})}
        notes = [*self.observed.notes, *details.pop("notes", [])]
        if notes:
            parts["notes"] = notes
        now = time.monotonic()
        self._versions.append(
            TableVersion(
                stage=self.stage,
                asset=output.slot.asset,
                name=output.name,
                flow=self.call.stage.flow.name,
                task=self.call.name,
                # It may stay when the other tables of the call are made again.
                execution=self.execution if own_key is None else secrets.token_hex(8),
                slot=".".join(map(str, output.slot.path)),
                task_key=key.task_key,
                cache_key=key.cache_key,
                parts=parts,
                code_version=cache_key.task_code_version(self.call),
                data_version=data_version,
                run_id=self.held.run_id,
                seconds=now - self.started,
                kind=kind,
                **(dict(nothing) | details),
            )
        )
        self.started = now

    def _with_origins(self, columns: tuple[Column, ...], query: str | None) -> tuple[Column, ...]:
        """The columns, with the columns of other tables that a query makes them from."""
        if query is None:
            return columns
        reader = self.keyed.source or self.store
        instance = reader.config.instance_id
        tables = [(instance, reader.schemas(table.stage).versions, table) for table in self._reads.values()]
        # Imported here: sqlglot takes half a second to import, and a run that uses the cache does not need it.
        from pipedag_dagster.execution.column_lineage import column_origins  # noqa: PLC0415

        origins = column_origins(query, tables)
        return tuple(replace(column, origins=origins.get(column.name, ())) for column in columns)


def write_physical(
    held: LockedStage, output: QueryTable | FrameTable | ViewOutput, source: TableStore | None
) -> PhysicalTable:
    """Write a table or a view, where nobody sees it yet.

    Args:
        source: the store of the instance that a query reads, if it is another one.

    Raises:
        UnstorableResult: it cannot be stored.
    """
    match output:
        case QueryTable():
            _print(held, output.name, output.query, is_sql=True)
            database = None if source is None else source.database
            return held.write_query(output.name, output.query, output.constraints, database)
        case FrameTable():
            _print(held, output.name, output.frame, is_sql=False)
            rows = output.frame if output.is_stream else output.content
            return held.write_frame(output.name, rows, output.constraints)
        case ViewOutput():
            _print(held, output.name, output.query, is_sql=True)
            return held.write_view(output.name, output.query)


def _print(held: LockedStage, name: str, content: object, *, is_sql: bool) -> None:
    if held.config.print_materialize or (held.config.print_sql and is_sql):
        log.info("%s.%s:\n%s", held.stage, name, content)
