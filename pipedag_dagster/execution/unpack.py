"""From the object that a task returned to its outputs: tables, views, blobs, scripts, and values."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import sqlalchemy as sa

from pipedag_dagster.data import blobs, json_values
from pipedag_dagster.errors import InvalidName, UnstorableResult, WiringError, did_you_mean
from pipedag_dagster.execution import observed
from pipedag_dagster.execution.task_outputs import (
    BlobOutput,
    FrameTable,
    MaterializedTable,
    QueryTable,
    ScriptOutput,
    TaskOutput,
    TaskOutputs,
    ValueOutput,
    ViewOutput,
)
from pipedag_dagster.fingerprint.fingerprint import content_hash
from pipedag_dagster.frame_types import is_named, types_of
from pipedag_dagster.graph.external_table import ExternalTableReference
from pipedag_dagster.graph.flow import Path, Slot, TaskCall
from pipedag_dagster.graph.raw_sql import RawSql
from pipedag_dagster.graph.tables import Blob, Table
from pipedag_dagster.graph.view import View
from pipedag_dagster.names import table_name
from pipedag_dagster.postgres import sql_text
from pipedag_dagster.versions.write_table import Constraints

_SCRIPT = "script:"  # in a shape, until it is known which tables the script makes

_HASHED = 4_000_000
"""Bytes. Blobs up to this size are compared by their content, larger ones by their bytes."""


class Materialized(Protocol):
    """The tables that the task has written itself, by `Table(…).materialize()`."""

    def take(self, value: Any) -> MaterializedTable | None:
        """The table that an object in the result stands for. Each table is taken once."""

    def rest(self) -> Sequence[MaterializedTable]:
        """The tables that are not in the result."""


def check(call: TaskCall, slots: Iterable[Slot], names: Iterable[str]) -> None:
    """Refuse two outputs with one name, and missing outputs.

    Raises:
        UnstorableResult
    """
    assets = [slot.asset for slot in slots]
    for listed in (list(names), assets):
        twice = [name for name, count in Counter(listed).items() if count > 1]
        if twice:
            raise UnstorableResult(f"{call} returned two tables {twice[0]!r}. Give one of them another name.")
    missing = [asset for asset in call.assets if asset not in assets]
    if missing:
        raise UnstorableResult(
            f"{call} did not return {', '.join(map(repr, missing))}.{did_you_mean(missing[0], assets)}"
        )


def asset_of(call: TaskCall, path: Path, name: str | None = None) -> Slot:
    """The output at `path` in the object that a call returned. One that was not declared is named by its own `name`,
    or by its path: `task_key_0`."""
    known = {slot.path: slot for slot in call.slots}
    if path in known:
        return known[path]
    above = max((one for one in known if one == path[: len(one)]), key=len, default=None)
    if above is not None and name is not None:
        return Slot(table_name(name), path)
    parts = path if above is None else (known[above].asset, *path[len(above) :])
    return Slot(table_name("_".join(map(str, parts))), path)


def slot_of_script(call: TaskCall, path: Path, table: str) -> Slot:
    """The output for a table that the script at `path` made."""
    declared = {slot.asset: slot for slot in call.slots if call.task.outputs is not None and not path}
    if declared:
        return declared.get(table, Slot(table, (table,)))
    return asset_of(call, (*path, table), table)


def _declared(call: TaskCall, value: Any) -> tuple[Any, Mapping[int | str, int]]:
    """The returned object, and which of its keys stands for which of the declared outputs."""
    outputs, count = call.task.outputs, call.count
    if count is None:
        if outputs is None:
            return value, {}
        if value is None:
            raise UnstorableResult(f"{call} returned None, but declares the output {outputs[0]!r}.")
        if isinstance(value, list | tuple) and len(value) == 1:
            return value[0], {}
        if isinstance(value, dict) and value:
            keys = [table_name(key) for key in value if isinstance(key, str)]
            if keys.count(outputs[0]) > 1:
                raise UnstorableResult(f"{call} returned two tables {outputs[0]!r}. Give one of them another name.")
            if keys == [outputs[0]] and len(value) == 1:
                return next(iter(value.values())), {}
            if any(_is_output(part) for part in value.values()):
                other = next(key for key in value if key != outputs[0])
                raise UnstorableResult(
                    f"{call} returned {other!r}, which is not in its outputs=[…].{did_you_mean(str(other), outputs)}"
                )
        return value, {}
    fields = _fields(value)
    if fields is not None:
        known = {slot.asset: number for number, slot in enumerate(call.slots)}
        positions: dict[int | str, int] = {}
        for key in fields:
            asset = table_name(key)
            if asset not in known:
                raise UnstorableResult(
                    f"{call} returned {key!r}, which is not in its outputs=[…].{did_you_mean(asset, known)}"
                )
            positions[key] = known[asset]
        return value, positions
    if isinstance(value, list | tuple):
        if len(value) != count:
            advice = f"Write @materialize(nout={len(value)}), or better outputs=[…] with their names."
            if outputs is not None or not value:
                advice = "Return each of them, without rows if there are none."
            raise UnstorableResult(
                f"{call} returned a {type(value).__name__} of {len(value)}, but its tables are: "
                f"{', '.join(call.assets)}. {advice}"
            )
        return value, {}
    if not isinstance(value, RawSql):
        raise UnstorableResult(
            f"{call} returned one {type(value).__name__}, but several tables are declared: {', '.join(call.assets)}."
        )
    return value, {}


def _fields(value: Any) -> Iterable[Any] | None:
    if isinstance(value, dict):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [one.name for one in dataclasses.fields(value)]
    return None


@dataclass
class Unpacking:
    """Unpacks what one call returns.

    Args:
        auto_table, auto_blob: the classes whose objects become tables and blobs without `Table(…)` and `Blob(…)`.
        unlogged: whether tables are unlogged, by their label of materialization details.
        token: a hash of the inputs of the call, which stands for `%%` in the names of tables.
    """

    call: TaskCall
    auto_table: tuple[str, ...]
    auto_blob: tuple[str, ...]
    unlogged: Mapping[str, bool]
    token: Callable[[], str]
    _materialized: Materialized = field(init=False)
    _slots: Mapping[Path, Slot] = field(init=False)
    _positions: Mapping[int | str, int] = field(default_factory=dict)
    _outputs: list[TaskOutput] = field(default_factory=list)

    def unpack(self, value: Any, materialized: Materialized) -> TaskOutputs:
        """The outputs in what the call returned, and those that the task has written itself.

        Raises:
            UnstorableResult: they are not as many as declared, not named as declared, or not storable; or two of them
                have the same name.
        """
        call, outputs = self.call, self._outputs
        self._materialized = materialized
        self._slots = {slot.path: slot for slot in call.slots}
        try:
            value, self._positions = _declared(call, value)
            shape = self.node(value, ())
        except InvalidName as error:
            raise UnstorableResult(f"{call} returned something that cannot be stored. {error}") from None
        except RecursionError:
            raise UnstorableResult(
                f"{call} returned something that contains itself, or is nested too deeply."
            ) from None
        outputs += materialized.rest()
        if not any(isinstance(output, ScriptOutput) for output in outputs):
            check(call, [output.slot for output in outputs], [output.name for output in outputs])
        return TaskOutputs(outputs, None if json_values.output(call.slots[0].asset) == shape else shape)

    def node(self, value: Any, path: Path) -> Any:
        """The JSON that stands for `value`, which is at `path`. The outputs in it are added to `outputs`."""
        if isinstance(value, RawSql) and value.has_run:
            value = value.content
        place = (self._positions.get(path[0], path[0]), *path[1:]) if path else path
        place = tuple(key.lower() if isinstance(key, str) else key for key in place)
        leaf = self._leaf(value, place)
        if leaf is not None and not isinstance(leaf, ScriptOutput):
            self._outputs.append(leaf)
            return json_values.output(leaf.slot.asset)
        if leaf is not None:
            inner: Any = json_values.script(leaf.name, json_values.output(f"{_SCRIPT}{len(self._outputs)}"))
            self._outputs.append(leaf)
        else:
            try:
                inner = json_values.encode(value, path, self.node)
            except json_values.NotJson as error:
                raise UnstorableResult(
                    f"{self._what(path)} {error}, which neither a table nor JSON can hold. Return a DataFrame or a "
                    "query, or Blob(…) of it."
                ) from None
        if place not in self._slots or (leaf is not None and self.call.task.outputs is not None and not path):
            return inner
        slot = self._slots[place]
        self._outputs.append(ValueOutput(slot, slot.asset, inner))
        return json_values.output(slot.asset)

    def _what(self, path: Path) -> str:
        where = "".join(f"[{key!r}]" for key in path)
        return f"{self.call} returned" + (f", at {where}," if where else "")

    def _leaf(self, value: Any, path: Path) -> TaskOutput | None:
        """The output for `value`; None when `value` is part of a larger value."""
        written = self._materialized.take(value)
        if written is not None:
            slot = asset_of(self.call, path, own_name(written.table))
            return replace(written, slot=slot, name=self._name(written.table, slot))
        if self.auto_blob and is_named(type(value), self.auto_blob):
            value = Blob(value)
        view = value.obj if isinstance(value, Table) else value
        if not _is_output(value):
            return None
        if isinstance(view, ExternalTableReference):
            view = View(view)
        if isinstance(view, RawSql):
            return ScriptOutput(Slot("", path), view.name or self.call.name, view.scripts)
        slot = asset_of(self.call, path, own_name(value))
        if isinstance(value, Blob):
            data, content, classes = _pickled(value, f"{self.call.stage.name}.{slot.asset}")
            return BlobOutput(slot, self._name(value, slot), data, content, classes)
        return self.table(value, slot)

    def table(self, value: Any, slot: Slot) -> QueryTable | FrameTable | ViewOutput:
        """The table or view that `value` becomes.

        Raises:
            UnstorableResult: it cannot be stored.
        """
        view = value.obj if isinstance(value, Table) else value
        if isinstance(view, ExternalTableReference):
            view = View(view)
        if isinstance(view, View):
            return self._view(value, view, slot)
        table = storable(self._allowed(value, slot), f"{self.call.stage.name}.{slot.asset}", f"{self.call} returned")
        constraints = self._constraints(table)
        if isinstance(table.obj, sa.ClauseElement):
            return QueryTable(
                slot,
                self._name(table, slot),
                constraints,
                sql_text.render(table.obj, f"{self.call.stage.name}.{slot.asset}"),
            )
        return FrameTable(slot, self._name(table, slot), constraints, table.obj, self.call.stage.name)

    def _constraints(self, table: Table) -> Constraints:
        label = table.materialization_details or self.call.stage.materialization_details or ""
        if label and label not in self.unlogged:
            known = [name for name in self.unlogged if name]
            raise UnstorableResult(
                f"{self.call}: the configuration has no materialization_details {label!r}.{did_you_mean(label, known)}"
            )
        unlogged = self.unlogged.get(label, False)
        return Constraints(
            table.primary_key, table.indexes, table.non_nullable, unlogged, table.nullable, table.column_types
        )

    def _view(self, value: Any, view: View, slot: Slot) -> ViewOutput:
        what = f"{self.call} returned View(…) for {self.call.stage.name}.{slot.asset}"
        if isinstance(value, Table) and value.has_constraints:
            raise UnstorableResult(
                f"{what} with a primary_key, indexes, types or columns that may not be NULL, which a view cannot have. "
                "Return a Table(…)."
            )
        try:
            query = view.query
        except (TypeError, KeyError) as error:
            raise UnstorableResult(f"{what}, but: {error}") from error
        if not isinstance(query, sa.ClauseElement):
            raise UnstorableResult(f"{what} of {type(query).__name__}. Give it a query, or tables (sa.Table).")
        named = view if view.name is not None or isinstance(value, ExternalTableReference) else value
        return ViewOutput(slot, self._name(named, slot), sql_text.render(query, f"{self.call.stage.name}.{slot.asset}"))

    def _allowed(self, value: Any, slot: Slot) -> Any:
        if not isinstance(value, Table) and types_of(value).isdisjoint(self.auto_table):
            raise UnstorableResult(
                f"{self.call} returned a {type(value).__name__} for {self.call.stage.name}.{slot.asset}, which "
                f"auto_table in the configuration leaves out ({', '.join(self.auto_table)}). Return Table(…) of it."
            )
        return value

    def _token(self, name: str) -> str:
        return self.token() if "%%" in name else ""

    def _name(self, value: Any, slot: Slot) -> str:
        name = slot.asset if value.name is None else table_name(value.name.replace("%%", self._token(value.name)))
        if self.call.task.outputs is not None and slot in self.call.slots and name != slot.asset:
            kind = type(value).__name__
            raise UnstorableResult(
                f"{self.call} declares the output {slot.asset!r}, but returned a {kind} named {value.name!r} for it. "
                f"Leave the name out of {kind}(…), or fix outputs=[…]."
            )
        return name


def fill_scripts(node: Any, made: Mapping[int, Mapping[str, str]]) -> Any:
    """A shape with the tables of each script in the place of the script. `made` has their assets by name."""
    if isinstance(node, list):
        return [fill_scripts(part, made) for part in node]
    if not isinstance(node, dict):
        return node
    name = node.get("$output")
    if isinstance(name, str) and name.startswith(_SCRIPT):
        return {table: json_values.output(asset) for table, asset in made[int(name.removeprefix(_SCRIPT))].items()}
    return {key: fill_scripts(part, made) for key, part in node.items()}


def _pickled(blob: Blob, what: str) -> tuple[bytes, str, tuple[str, ...]]:
    """The bytes of a blob, a hash of what it holds, and the user's classes that have objects in it."""
    try:
        data, classes = observed.pickled(blob.obj)
    except Exception as error:
        raise UnstorableResult(
            f"{what}: {type(blob.obj).__name__} cannot be pickled, so it cannot be a Blob: {error}"
        ) from error
    if len(data) <= _HASHED:
        try:  # pickles of equal sets differ from process to process
            return data, content_hash(blob.obj, code=False), classes
        except (WiringError, RecursionError):
            pass
    return data, blobs.content_of(data)[:16], classes


def storable(value: Any, what: str, origin: str = "got") -> Table:
    """`value` as a Table of data or of a query.

    Raises:
        UnstorableResult: it is something else.
    """
    table = value if isinstance(value, Table) else Table(value)
    if not types_of(table.obj):
        kind = "None" if table.obj is None else type(table.obj).__name__
        given = f"Table({kind})" if isinstance(value, Table) else kind
        raise UnstorableResult(
            f"{origin} {given} for {what}, which a table cannot hold. "
            "Return a DataFrame or a query, or a Table(…) of one."
        )
    return table


def own_name(value: Any) -> str | None:
    """The name that an object of the user gives its output. With `%%` in a table's name, Dagster's asset is the same
    for all inputs."""
    name = value.name if isinstance(value, Table | Blob | View) else None
    return name if name is None or "%%" not in name else name.replace("%%", "").strip("_") or None


def _is_output(value: Any) -> bool:
    return isinstance(value, Table | Blob | RawSql | View | ExternalTableReference) or bool(types_of(value))
