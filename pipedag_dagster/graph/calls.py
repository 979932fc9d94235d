"""Calls of tasks while a flow is open, and the handles of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipedag_dagster.errors import WiringError, did_you_mean
from pipedag_dagster.graph import nested
from pipedag_dagster.graph.nested import Path
from pipedag_dagster.graph.task import Handle, Task
from pipedag_dagster.names import asset_name

committed_reader: list[Callable[[Output, type | None], Any]] = []
"""Reads the committed value of an output. `orchestration` sets it, which knows instances and their stores."""


class Named(Protocol):
    """A flow as its calls see it."""

    name: str


class StageCalls:
    """A stage as its calls see it (see `pipedag_dagster.Stage`)."""

    name: str
    calls: list[TaskCall]
    materialization_details: str | None
    flow: Named
    """The flow that the stage belongs to."""


@dataclass(frozen=True)
class Slot:
    """One output that is known before the call runs, and its path in the returned value."""

    asset: str
    path: Path


@dataclass(eq=False, repr=False)
class TaskCall:
    """One call of a task in a stage. `name` tells calls of the same task apart: `clean`, `clean_2`."""

    task: Task
    stage: StageCalls
    name: str
    arguments: dict[str, Any]
    source: Any = None
    source_stage: StageCalls | None = None
    compares_versions: bool = False
    """Whether it takes the tables that the run has made before it, beside those that are committed."""
    compared: Any = None
    """The outputs of which a task under `@input_stage_versions` gets two versions; without any, all of the stage."""
    slots: tuple[Slot, ...] = ()
    after: list[TaskCall] = field(default_factory=list)
    """Calls of the stage that come first, although nothing of them is read (`ordering_barrier`)."""
    groups: tuple[Any, ...] = ()
    """The groups (`GroupNode`) that it is in."""
    _asked: dict[Path, None] = field(default_factory=dict)

    @property
    def inputs(self) -> list[Output]:
        """The outputs of other calls that this one takes, in the order of its arguments."""
        return list(outputs_in([self.arguments, self.compared]))

    @property
    def source_stage_name(self) -> str:
        """The stage of which a task under `@input_stage_versions` gets two versions."""
        return str(getattr(self.source_stage, "name", self.source_stage))

    @property
    def assets(self) -> list[str]:
        return [slot.asset for slot in self.slots]

    @property
    def count(self) -> int | None:
        """The number of declared outputs; None if there is one, or if nobody knows before the call runs."""
        outputs = self.task.outputs
        count = len(outputs) if outputs is not None else self.task.nout or 1
        return count if count > 1 else None

    def explicit_slots(self) -> tuple[Slot, ...]:
        """The outputs with names that need no number: they are declared, or later tasks ask for them by key."""
        outputs = self.task.outputs
        if outputs is not None:
            return tuple(Slot(name, () if len(outputs) == 1 else (number,)) for number, name in enumerate(outputs))
        inner = [path for path in self._asked if not any(path == other[: len(path)] != other for other in self._asked)]
        return tuple(Slot(self._name_of(path), path) for path in inner)

    def _name_of(self, path: Path) -> str:
        own = (self.name, *path) if isinstance(path[0], int) else path
        return asset_name("_".join(map(str, own)))

    def __str__(self) -> str:
        return f"{self.stage.name}.{self.name}"


class Output(Handle):
    """The result of a task call, which does not exist yet.

    Pass it to other tasks. Take parts of it by `[…]` or by unpacking, and fields of a dataclass also by `.name`.
    """

    def __init__(self, call: TaskCall, path: Path = ()) -> None:
        self.call = call
        self.path = path

    def __getitem__(self, key: int | str) -> Output:
        call = self.call
        declared = call.task.outputs is not None or call.task.nout is not None
        if declared and not self.path:
            return self._declared(key)
        if not declared:
            key = asset_name(key) if isinstance(key, str) else key
            call._asked[(*self.path, key)] = None
        return Output(call, (*self.path, key))

    def _declared(self, key: int | str) -> Output:
        call, outputs = self.call, self.call.task.outputs
        if isinstance(key, str):
            if outputs is None:
                raise WiringError(f"{call} has nout={call.task.nout}. Take its outputs by number, not by name.")
            key = asset_name(key)
            if key not in outputs:
                raise WiringError(f"{call} has no output {key!r}.{did_you_mean(key, outputs)}")
            return Output(call, (outputs.index(key),) if len(outputs) > 1 else ())
        if call.count is None:
            raise self._not_several()
        if not -call.count <= key < call.count:
            raise WiringError(f"{call} has no output {key}. It has {call.count}: 0 to {call.count - 1}.")
        return Output(call, (key % call.count,))

    def get_output_from_store(
        self, as_type: type | None = None, ignore_position_hashes: bool = False, write_local_table_cache: bool = False
    ) -> Any:
        """What the current instance has committed for this output. Nothing runs.

        Args:
            as_type: as for `Result.get`.
            ignore_position_hashes, write_local_table_cache: accepted for pydiverse.pipedag, without an effect.

        Raises:
            NotMaterialized: it was never committed.
            ConfigError: there is no current instance.
        """
        return committed_reader[0](self, as_type)

    def __getattr__(self, name: str) -> Output:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[Output]:
        if self.path or self.call.count is None:
            raise WiringError(f"{self} cannot be unpacked. {self._not_several()}")
        return (Output(self.call, (position,)) for position in range(self.call.count))

    def _not_several(self) -> WiringError:
        advice = "Write @materialize(outputs=[…]), or nout=…"
        return WiringError(f"{self.call} has not declared that it returns several tables. {advice}")

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The known outputs that overlap with this one: itself, its parts, or the output that it is a part of."""
        path = self.path
        return tuple(slot for slot in self.call.slots if all(a == b for a, b in zip(slot.path, path, strict=False)))

    def content_for_hash(self) -> tuple[Any, ...]:
        return (str(self),)

    def __repr__(self) -> str:
        return str(self.call) + "".join(f"[{key!r}]" for key in self.path)


def outputs_in(value: Any) -> Iterator[Output]:
    """All outputs in nested lists, tuples, dicts and dataclasses."""
    return nested.find(value, Output)


def map_outputs(value: Any, read: Callable[[Output], Any]) -> Any:
    """`value` with `read` called on the outputs in it. What has no outputs is the same object."""
    return nested.replace(value, Output, read)
