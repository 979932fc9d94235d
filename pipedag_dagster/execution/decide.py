"""What there is to do for a call of a task, and whether it must be done.

Nothing is changed here: `stage_run` does the work, and what only wants to know what a run would do need not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipedag_dagster.catalog.catalog import StageVersion, TableVersion
from pipedag_dagster.config.instances import CacheValidation
from pipedag_dagster.data import json_values, polars_plans
from pipedag_dagster.data.frames import content_version, to_arrow
from pipedag_dagster.digest import digest
from pipedag_dagster.execution import cache_key
from pipedag_dagster.execution.cache_key import CACHED, Key
from pipedag_dagster.execution.inputs import Arguments, Inputs
from pipedag_dagster.execution.returned import Returned, Unpacked, unpack
from pipedag_dagster.fingerprint.code_text import changed
from pipedag_dagster.graph.flow import Slot, TaskCall
from pipedag_dagster.names import quote
from pipedag_dagster.sampling import first_rows
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.write_table import Constraints


@dataclass(frozen=True)
class Work:
    """What there is to do for a call. `make` does it; `source` is the store of another instance, where it reads one."""

    key: Key
    inputs: Mapping[str, TableVersion]
    make: Callable[[], Unpacked]
    source: TableStore | None


@dataclass(frozen=True)
class Decision:
    """Whether a call must run. `found` is what the catalog has already; empty when the work must be done, and `reason`
    says why."""

    work: Work
    found: list[TableVersion]
    reason: str


class Decider:
    """Decides for the calls of one stage.

    Args:
        inputs: what they read.
        base: the committed version of the stage.
        validation: how much of the cache is believed.
    """

    def __init__(self, inputs: Inputs, base: StageVersion, validation: CacheValidation) -> None:
        self.inputs = inputs
        self.base = base
        self.validation = validation
        self.instance, self.stage = inputs.instance, inputs.stage

    def decide(self, call: TaskCall) -> Decision:
        """Whether the call must run, and why. Calls its cache function, and a lazy task itself.

        Raises:
            TaskFailed: one of these failed.
            NotMaterialized: something that it reads was never committed.
            FreshInput: it would have to run, while the mode asserts that its input did not change.
        """
        work = self.work(call)
        found = self._find(call, work)
        if found:
            return Decision(work, found, CACHED)
        before = self.base.tables.get(call.assets[0])
        reason = cache_key.why(work.key, before, lambda: self._changed_code(call, before))
        cache_key.assert_not_fresh(call, self.validation, reads_source=work.source is not None, reason=reason)
        return Decision(work, [], reason)

    def _changed_code(self, call: TaskCall, before: TableVersion | None) -> list[str]:
        old = self.inputs.store.text(None if before is None else before.text)
        return changed(old, cache_key.task_code(call).text) if old.parts else []

    def work(self, call: TaskCall) -> Work:
        """What there is to do for the call, whether it must be done or not. Nothing is looked up in the catalog.

        Raises:
            TaskFailed, NotMaterialized: as for `decide`.
        """
        copies = call.task.input and self.instance.source is not None
        return self._copy(call) if copies else self._run(call)

    def _run(self, call: TaskCall) -> Work:
        """Running the task."""
        inputs = self.inputs.of(call)
        arguments = Arguments(self.inputs, call)
        parts: dict[str, Any] = {
            "task": call.name,
            "code": None if call.task.lazy else cache_key.task_code_version(call),
            "arguments": cache_key.argument_hashes(call),
            "inputs" if call.source is None else "source": {name: table.data_version for name, table in inputs.items()}
            | self.inputs.around(call),
        }
        if call.task.cache is not None and not self.validation.disable_cache_function:
            parts["cache"] = cache_key.cache_value(call, arguments)

        def make(arguments: Arguments = arguments) -> Unpacked:
            args, kwargs = arguments.of_task()
            unpacked = unpack(call, call.task.fn(*args, **kwargs), self.instance.config.auto_table)
            names = arguments.physical_names() if any(item.scripts for item in unpacked.items) else {}
            return replace(unpacked, items=[replace(item, scripts=_bound(item, names)) for item in unpacked.items])

        source = None if call.source is None else call.source.store.table_store
        if not call.task.lazy:
            return Work(Key(parts), inputs, make, source)
        planned = polars_plans.is_lazy(call.task.input_type)
        returned = make(Arguments(self.inputs, call, shapes=True)) if planned else make()
        items = returned.items
        if (planned and not self._only_plans(call, items)) or not all(map(_comparable, items)):
            parts["code"] = cache_key.task_code_version(call)  # its code is compared, as that of any other task
            return Work(Key(parts), inputs, make, source)
        shape = [] if returned.shape is None else [json_values.text(returned.shape)]
        parts["text"] = shape + [canonical(item, inputs, versions=False) for item in items]
        parts["query"] = shape + [canonical(item, inputs, versions=True) for item in items]
        return Work(Key(parts), inputs, make if planned else lambda: returned, source)

    def _only_plans(self, call: TaskCall, returned: list[Returned]) -> bool:
        """Whether a task of polars has built plans only: it may have looked at data, of which there was none yet."""
        looked = _LOOKS_AT_DATA.search(str(cache_key.task_code(call).text))
        return not looked and all(polars_plans.is_lazy(item.frame) for item in returned)

    def _copy(self, call: TaskCall) -> Work:
        """Instead of running an input task: copying a sample of what the source has committed for it."""
        source = self.instance.source
        assert source is not None
        store, stage = source.store.table_store, self.stage.name
        originals = self.inputs.of_source(source, call)
        rows = {asset: self.instance.config.sample_rows(asset, table.name) for asset, table in originals.items()}
        inputs = {f"{source.config.name}: {stage}.{table.asset}": table for table in originals.values()}
        shapes = {  # they may change while the content does not
            f"name and constraints of {asset}": digest(table.name, repr(first_rows.constraints(table)))
            for asset, table in originals.items()
        }
        parts = {
            "task": call.name,
            "code": "copy",
            "arguments": {f"rows of {asset}": str(count) for asset, count in rows.items()} | shapes,
            "source": {name: table.data_version for name, table in inputs.items()},
        }

        def make() -> Unpacked:
            copies = [self._copied(call, table, store, rows[asset]) for asset, table in originals.items()]
            return Unpacked(copies, next((table.shape for table in originals.values()), None))

        return Work(Key(parts), inputs, make, store)

    def _copied(self, call: TaskCall, table: TableVersion, store: TableStore, rows: int | None) -> Returned:
        """What there is in place of one output of an input task: a sample of a table, and anything else as it is."""
        slot = next((slot for slot in call.slots if slot.asset == table.asset), Slot(table.asset, ()))
        if table.kind == "json":
            return Returned(slot, table.name, Constraints(), None, table.value, "json")
        if table.file is not None:
            data = store.blobs.read(table.stage, table.file, f"{table.stage}.{table.name}")
            return Returned(slot, table.name, Constraints(), None, data, "blob", table.data_version)
        query = first_rows.sample_query(store.schemas(table.stage).versions, table, rows)
        return Returned(slot, table.name, first_rows.constraints(table), query, None)

    def _find(self, call: TaskCall, work: Work) -> list[TableVersion]:
        """What the catalog has for this key; nothing when the mode forces the task to run."""
        if cache_key.must_run(call, self.validation, reads_source=work.source is not None):
            return []
        # What is committed goes before what a later run has staged for the same key.
        committed = [table for table in self.base.tables.values() if table.task == call.name]
        found = cache_key.usable(committed, work.key, self.validation)
        if not set(call.assets) <= {table.asset for table in found}:
            ignore, _ = cache_key.ignores(self.validation)
            wanted = work.key.task_key if ignore else work.key.cache_key
            staged = self.inputs.store.find(self.stage.name, wanted, with_cache_value=not ignore)
            found = cache_key.usable(staged, work.key, self.validation)
        # An entry of another wiring may lack an output.
        return found if set(call.assets) <= {table.asset for table in found} else []


_LOOKS_AT_DATA = re.compile(
    r"\b(collect|collect_all|collect_async|collect_batches|fetch|describe|profile|sink_\w+)\s*\("
)


def _comparable(item: Returned) -> bool:
    """Whether what a lazy task returned tells all that its result depends on: a plan of polars with Python code in it
    does not."""
    return not polars_plans.is_lazy(item.frame) or polars_plans.serialized(item.frame) is not None


def _bound(item: Returned, names: Mapping[str, str]) -> tuple[str, ...]:
    """The scripts with physical tables in the place of the names of arguments; other braces stay as they are."""
    return tuple(_PLACEHOLDER.sub(lambda match: names.get(match[1] or match[2], match[0]), s) for s in item.scripts)


_PLACEHOLDER = re.compile(r"\{\{ *([\w.]+) *\}\}|\{([\w.]+)\}")


def canonical(item: Returned, inputs: Mapping[str, TableVersion], *, versions: bool) -> str:
    """A hash of what a lazy task returned: names, with or without data versions, stand for the physical tables, so that
    equal means equal."""
    if item.kind in ("blob", "json"):
        return digest(item.kind, item.name, item.content or json_values.text(item.frame))
    if polars_plans.is_lazy(item.frame):
        plan = polars_plans.serialized(item.frame) or b""
        for name, table in inputs.items():
            shown = f"{name}@{table.data_version}" if versions else name
            plan = plan.replace(table.physical.encode(), shown.encode())
        return digest(item.name, hashlib.sha256(plan).hexdigest(), repr(item.constraints))
    text = ";".join(item.scripts) if item.query is None else item.query
    if item.query is None and not item.scripts:
        return digest(item.name, content_version(to_arrow(item.frame, item.name)), repr(item.constraints))
    for name, table in inputs.items():
        text = text.replace(table.physical, f"{name}@{table.data_version}" if versions else name)
    kind = () if item.kind == "table" else (item.kind,)
    return digest(item.name, text, repr(item.constraints), *kind)


def for_people(query: str, store: TableStore, tables: Iterable[TableVersion]) -> str:
    """The query with the names of views for those of physical tables: what a person can run."""
    for table in tables:
        schemas = store.schemas(table.stage)
        pattern = rf'"?{re.escape(schemas.versions)}"?\."?{re.escape(table.physical)}"?'
        query = re.sub(pattern, quote(schemas.current, table.name).replace("\\", "\\\\"), query)
    return query
