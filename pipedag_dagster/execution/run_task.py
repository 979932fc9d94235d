"""Calling the user's functions. A call of a task goes through three files:

1. `TaskRunner.key` (here) finds what the result depends on. The cache function is called for it, and so is a lazy task:
   the query that it returns is its key.
2. `Decider.decide` compares the key with the catalog.
3. If the call must run, `TaskRunner.run` (here) calls the task, or copies the tables of the source instead, and
   `OutputWriter.write` stores what it returned.

`TaskRunner._called` is the only place where the function under `@materialize` is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from pipedag_dagster.catalog.catalog import OutputKind, TableVersion
from pipedag_dagster.config.instances import CacheValidation
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.data import json_values, polars_plans
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import WiringError
from pipedag_dagster.execution import cache_key, observed
from pipedag_dagster.execution.cache_key import Key
from pipedag_dagster.execution.decide import Decider
from pipedag_dagster.execution.inputs import Arguments, Inputs
from pipedag_dagster.execution.keyed_call import KeyedCall, labels
from pipedag_dagster.execution.materialized import Materializer, NotWritten, by_name
from pipedag_dagster.execution.notes import external_notes, order_notes
from pipedag_dagster.execution.observed import Observed
from pipedag_dagster.execution.samples import Samples
from pipedag_dagster.execution.task_outputs import (
    BlobOutput,
    CopiedTable,
    FrameTable,
    ScriptOutput,
    TaskOutput,
    TaskOutputs,
    ValueOutput,
)
from pipedag_dagster.execution.unpack import Unpacking
from pipedag_dagster.fingerprint.observation import observe
from pipedag_dagster.graph.flow import Slot, TaskCall
from pipedag_dagster.graph.tables import Table
from pipedag_dagster.graph.task_context import TaskContext
from pipedag_dagster.sampling.copies import copied_from, source_of
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.table_store import TableStore


class TaskRunner:
    """Runs the calls of one stage.

    Args:
        inputs: the table versions that the calls read.
        validation: cache functions are not called with `disable_cache_function`.
        held: the stage, for tables that tasks write themselves. None if nothing may be written.
    """

    def __init__(self, inputs: Inputs, validation: CacheValidation, held: LockedStage | None = None) -> None:
        self.inputs = inputs
        self.held = held
        self.instance = inputs.instance
        self.validation = validation
        self.samples = Samples(inputs)

    def key(self, call: TaskCall) -> KeyedCall:
        """What the result of a call depends on. Calls its cache function, and the task itself if it is lazy.

        Raises:
            TaskFailed: one of these failed.
            NotMaterialized: an input was never committed.
        """
        source = copied_from(self.instance, call)
        if source is not None:
            return self._key_of_copy(call, source)
        keyed = self._key_of_task(call)
        return self._called_for_its_key(keyed) if call.task.lazy else keyed

    def must_choose(self, call: TaskCall) -> bool:
        """Whether the rows that a call copies were not chosen yet: the source or the rules have changed.

        Raises:
            NotMaterialized: the source has not made a table that is copied.
        """
        source = copied_from(self.instance, call)
        tables = () if source is None else self.inputs.of_source(source, call).values()
        return any(self.samples.known(table) is None for table in tables if table.in_database)

    @contextmanager
    def run(self, keyed: KeyedCall) -> Iterator[TaskOutputs]:
        """What the task returned; or, for a call that is copied, what stands for it. Streams among the outputs can be
        read until the context ends.

        Raises:
            UnstorableResult: it returned something that cannot be stored.
        """
        if keyed.is_copied:
            yield self._copy(keyed)
            return
        if keyed.outputs is not None:
            yield keyed.outputs
            return
        arguments = Arguments(self.inputs, keyed.call)
        tables = Materializer(keyed, arguments, self.held, self._unpacking(keyed.call))
        with self._called(arguments, tables, is_observed=True) as result:

            def ended() -> Observed:
                seen = result.ended()
                return replace(
                    seen,
                    notes=(*seen.notes, *external_notes(keyed.call), *order_notes(keyed.call, keyed.inputs.values())),
                )

            yield replace(result, ended=ended)

    @contextmanager
    def _called(
        self, arguments: Arguments, tables: Materializer, *, is_observed: bool = False
    ) -> Iterator[TaskOutputs]:
        """Call a task. It has ended when its streams are read: in the context of the task, and observed like it.

        Args:
            is_observed: False for a lazy task. It is called in every run, so it does not matter what it has read.
        """
        call, (args, kwargs) = arguments.call, arguments.of_task()
        around = call.task.call_context or nullcontext
        with closing(arguments), tables, ExitStack() as running:
            observation = running.enter_context(observe()) if is_observed else None
            running.enter_context(around())
            returned = call.task.fn(*args, **kwargs)  # the user's function
            tables.refuse_tainted()
            result = tables.unpacking.unpack(returned, tables)
            if not any(isinstance(output, FrameTable) and output.is_stream for output in result.outputs):
                running.close()

            def ended() -> Observed:
                running.close()
                return Observed() if observation is None else observed.of_call(call, observation, tables.keyed.covered)

            scripts = any(isinstance(output, ScriptOutput) for output in result.outputs)
            names = arguments.physical_names() if scripts else {}
            yield replace(result, outputs=[_filled(output, names) for output in result.outputs], ended=ended)

    def _unpacking(self, call: TaskCall) -> Unpacking:
        config = self.instance.config
        return Unpacking(call, config.auto_table, config.auto_blob, config.unlogged, partial(self._token, call))

    def _token(self, call: TaskCall) -> str:
        """A hash of what a call takes: its arguments and the tables that it reads."""
        inputs = {name: table.data_version for name, table in self.inputs.of(call).items()}
        return digest(repr(sorted((self._arguments(call) | inputs | self.inputs.around(call)).items())))[:8]

    def _arguments(self, call: TaskCall) -> dict[str, str]:
        return cache_key.argument_hashes(call) | self.inputs.replaced(call)

    def _key_of_task(self, call: TaskCall) -> KeyedCall:
        inputs = self.inputs.of(call)
        source = source_of(self.instance, call)
        parts: dict[str, Any] = {
            "task": call.name,
            "code": None if call.task.lazy and call.task.version is None else cache_key.task_code_version(call),
            "arguments": self._arguments(call) | cache_key.dtypes(call, self.instance.config),
            "inputs" if source is None else "source": {name: table.data_version for name, table in inputs.items()}
            | self.inputs.around(call),
        }
        staged = {} if source is None else self.inputs.staged(call)
        if staged:  # they are not of the source, whose changes may be ignored
            parts["inputs"] = {name: parts["source"].pop(name) for name in staged}
        classes = observed.class_versions(inputs.values(), self.inputs.nodes_around(call).values())
        if classes:
            parts["classes"] = classes
        observation = None
        if call.task.cache is not None and not self.validation.disable_cache_function:
            with TaskContext(call, self.instance, _refuse_to_write), observe() as observation:
                parts["cache"] = cache_key.cache_value(call, Arguments(self.inputs, call))  # calls the cache function
        covered = observed.reads_of_cache_function(call, observation)
        store = None if source is None else source.store.table_store
        return KeyedCall(call, Key(parts), inputs, store, covered=covered)

    def _called_for_its_key(self, keyed: KeyedCall) -> KeyedCall:
        """A lazy task is compared by the queries that it returns; a task of polars by its plans, which it builds from
        frames without rows, so its result is not kept. Where these do not tell all, its code is compared."""
        call = keyed.call
        plans = polars_plans.is_lazy(call.task.input_type)
        try:
            return self._drafted(keyed, plans=plans) or self._drafted(keyed, plans=plans, reuse=False) or keyed
        except NotWritten as error:
            return replace(keyed, outputs=TaskOutputs([error.table]))

    def _drafted(self, keyed: KeyedCall, *, plans: bool, reuse: bool = True) -> KeyedCall | None:
        """Call a lazy task for its key. None if it has used tables of the catalog that it does not return as before.

        Args:
            plans: it gets frames without rows, and builds plans of polars.
            reuse: whether it may use tables that it has written itself before.
        """
        arguments = Arguments(self.inputs, keyed.call, shapes=plans)
        decider = Decider(self.inputs.store, self.inputs.base, self.validation)
        unpacking = self._unpacking(keyed.call)
        tables = Materializer(keyed, arguments, self.held, unpacking, decider, reuse=reuse, is_draft=plans)
        with self._called(arguments, tables) as outputs:
            if reuse and not _fit(outputs):
                tables.drop()
                return None
            return self._compared_by(keyed, outputs, materializes=tables.was_called)

    def _compared_by(self, keyed: KeyedCall, outputs: TaskOutputs, *, materializes: bool) -> KeyedCall:
        call, plans = keyed.call, polars_plans.is_lazy(keyed.call.task.input_type)
        opaque = any(isinstance(output, FrameTable) and output.is_opaque for output in outputs.outputs)
        if opaque or (plans and (materializes or not _only_plans(call, outputs))):
            return replace(keyed, key=Key({**keyed.key.parts, "code": cache_key.task_code_version(call)}))
        reads = {**keyed.inputs, **by_name(outputs.materialized)}
        parts = {
            "text": outputs.identities(labels(reads, versions=False)),
            "query": outputs.identities(labels(reads, versions=True)),
        }
        return replace(keyed, key=Key({**keyed.key.parts, **parts}), outputs=None if plans else outputs)

    def _key_of_copy(self, call: TaskCall, source: ConfigContext) -> KeyedCall:
        """What a copy holds, not what it was chosen from: the source may change and the sample may not."""
        originals = self.inputs.of_source(source, call)
        inputs = {f"{source.config.name}: {table.stage}.{table.asset}": table for table in originals.values()}
        samples = {asset: self.samples.of(table) for asset, table in originals.items() if table.in_database}
        rules = {f"sample of {asset}": sample.rules for asset, sample in samples.items()}
        shapes = {  # they may change while the content does not
            f"name and constraints of {asset}": digest(sample.table.name, repr(sample.constraints))
            for asset, sample in samples.items()
        }
        content = {
            name: samples[table.asset].rows.content if table.in_database else table.data_version
            for name, table in inputs.items()
        }
        parts = {"task": call.name, "code": "copy", "arguments": rules | shapes, "source": content}
        return KeyedCall(call, Key(parts), inputs, source.store.table_store, is_copied=True)

    def _copy(self, keyed: KeyedCall) -> TaskOutputs:
        assert keyed.source is not None
        outputs = [self._copied(keyed.call, table, keyed.source) for table in keyed.inputs.values()]
        return TaskOutputs(outputs, next((table.shape for table in keyed.inputs.values()), None))

    def _copied(self, call: TaskCall, table: TableVersion, source: TableStore) -> TaskOutput:
        """The copy of one output of an input task: a sample of a table; a value or a blob unchanged."""
        slot = next((slot for slot in call.slots if slot.asset == table.asset), Slot(table.asset, ()))
        if table.kind is OutputKind.value:
            return ValueOutput(slot, table.name, table.value)
        if table.file is not None:
            data = source.blobs.read(table.stage, table.file, f"{table.stage}.{table.name}")
            return BlobOutput(slot, table.name, data, table.data_version, tuple(table.parts.get("holds") or ()))
        sample = self.samples.of(table)
        return CopiedTable(slot, table.name, sample, self.samples.origin(sample))


def _refuse_to_write(table: Table, *, is_debug: bool = False) -> NoReturn:
    raise WiringError("A cache function says whether its task must run. Call Table(…).materialize() in the task.")


_LOOKS_AT_DATA = re.compile(
    r"\b(collect|collect_all|collect_async|collect_batches|fetch|describe|profile|sink_\w+)\s*\("
)


def _only_plans(call: TaskCall, outputs: TaskOutputs) -> bool:
    """Whether a task of polars has built plans and nothing else. It may have looked at data: there was none."""
    looked = _LOOKS_AT_DATA.search(str(cache_key.task_code(call).text))
    return not looked and all(isinstance(output, FrameTable) and output.is_plan for output in outputs.outputs)


_PLACEHOLDER = re.compile(r"\{\{ *([\w.]+) *\}\}|\{([\w.]+)\}")


def _fit(result: TaskOutputs) -> bool:
    """Whether the tables of the catalog that a task has used are where it returns them now."""
    tables = [table for table in result.materialized if not table.is_new]
    same = all((table.slot.asset, table.name) == (table.version.asset, table.version.name) for table in tables)
    if len(tables) < len(result.outputs):
        return same
    shape = json_values.text(result.shape)  # no other table of the call holds it
    return same and all(json_values.text(table.version.shape) == shape for table in tables)


def _filled(output: TaskOutput, names: Mapping[str, str]) -> TaskOutput:
    """Scripts with the physical tables in place of the names of arguments. Other braces are left as they are."""
    if not isinstance(output, ScriptOutput):
        return output

    def physical(match: re.Match[str]) -> str:
        return names.get(match[1] or match[2], match[0])

    return replace(output, texts=tuple(_PLACEHOLDER.sub(physical, text) for text in output.texts))
