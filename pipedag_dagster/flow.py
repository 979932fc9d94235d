"""The graph: a flow has stages, a stage has task calls, a call has outputs.

`with Flow(...)` and `with Stage(...)` record the calls. When the flow closes, every output gets the name of
its asset and the graph is checked; afterwards it does not change.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Iterator
from contextvars import Token
from dataclasses import dataclass, field
from typing import Any, Self

from pipedag_dagster.errors import WiringError, did_you_mean
from pipedag_dagster.names import asset_name, stage_name
from pipedag_dagster.task import Task, Wire, wiring


@dataclass(frozen=True)
class Slot:
    """One table that a call is known to return before it runs. `key` is how the returned value holds it:
    a position, a dictionary key, or None for the value itself."""

    asset: str
    key: int | str | None


@dataclass(eq=False, repr=False)
class TaskCall:
    """One call of a task in a stage. `name` tells calls of the same task apart: `clean`, `clean_2`."""

    task: Task
    stage: Stage
    name: str
    arguments: dict[str, Any]
    source: Any = None
    source_stage: Stage | None = None
    slots: tuple[Slot, ...] = ()
    _keys: dict[str, None] = field(default_factory=dict)

    @property
    def inputs(self) -> list[Output]:
        """The outputs of other calls that this one takes, in the order of its arguments."""
        return list(outputs_in(self.arguments))

    @property
    def assets(self) -> list[str]:
        return [slot.asset for slot in self.slots]

    @property
    def count(self) -> int | None:
        """How many tables the call returns as a tuple or list; None when it returns one, or a dict."""
        outputs = self.task.outputs
        count = len(outputs) if outputs is not None else self.task.nout or 1
        return count if count > 1 else None

    def explicit_names(self) -> tuple[str, ...] | None:
        """Names of the outputs that are known without numbering: declared, or asked for by key."""
        if self.task.outputs is not None:
            return self.task.outputs
        return tuple(self._keys) or None

    def __str__(self) -> str:
        return f"{self.stage.name}.{self.name}"


class Output:
    """What a task call will return. Pass it to other tasks; take parts of it by `[…]` or by unpacking."""

    def __init__(self, call: TaskCall, key: int | str | None = None) -> None:
        self.call = call
        self.key = key

    def __getitem__(self, key: int | str) -> Output:
        call = self.call
        if self.key is not None:
            raise WiringError(f"{self} is one table; it has no part {key!r}.")
        if isinstance(key, str):
            key = asset_name(key)
            outputs = call.task.outputs
            if outputs is not None:
                if key not in outputs:
                    raise WiringError(f"{call} has no output {key!r}.{did_you_mean(key, outputs)}")
                return Output(call, outputs.index(key) if len(outputs) > 1 else None)
            if call.task.nout is not None:
                raise WiringError(f"{call} has nout={call.task.nout}: take its outputs by number, not by name.")
            call._keys[key] = None
            return Output(call, key)
        if call.count is None:
            raise WiringError(
                f"{call} is not known to return several tables: write @materialize(outputs=[…]) or nout=…"
            )
        if not -call.count <= key < call.count:
            raise WiringError(f"{call} has no output {key}: it has {call.count}, from 0 on.")
        return Output(call, key % call.count)

    def __iter__(self) -> Iterator[Output]:
        if self.key is not None or self.call.count is None:
            raise WiringError(
                f"{self} cannot be unpacked: it is not known to return several tables. "
                "Write @materialize(outputs=[…]) or nout=…"
            )
        return (Output(self.call, position) for position in range(self.call.count))

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The tables behind this output: one, or all of the call."""
        if self.key is None:
            return self.call.slots
        return tuple(slot for slot in self.call.slots if slot.key == self.key)

    def __repr__(self) -> str:
        return f"{self.call}" + ("" if self.key is None else f"[{self.key!r}]")


def outputs_in(value: Any) -> Iterator[Output]:
    """All outputs in nested lists, tuples and dicts."""
    if isinstance(value, Output):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from outputs_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from outputs_in(part)


class _Wired:
    """Shared by Flow and Stage: while it is open, calls of tasks go to `_wire`."""

    _token: Token[Wire | None] | None = None

    def _wire(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._token = wiring.set(self._wire)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        assert self._token is not None
        wiring.reset(self._token)


class Stage(_Wired):
    """The tables that become visible together: one asset group, one schema, one transaction.

    Args:
        name: letters, digits and `_`, case-insensitive.

    Raises:
        WiringError: it is opened outside of a flow, or the flow has a stage of this name.
    """

    flow: FlowGraph

    def __init__(self, name: str) -> None:
        self.name = stage_name(name)
        self.calls: list[TaskCall] = []

    def __enter__(self) -> Self:
        flow = getattr(wiring.get(), "__self__", None)
        flow = flow.flow if isinstance(flow, Stage) else flow
        if not isinstance(flow, FlowGraph):
            raise WiringError(f"Stage {self.name!r} is opened outside of a flow: write `with Flow(…):` around it.")
        if any(other.name == self.name for other in flow.stages):
            raise WiringError(f"Flow {flow.name!r} has two stages {self.name!r}. Give one of them another name.")
        self.flow = flow
        flow.stages.append(self)
        return super().__enter__()

    def _wire(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Output:
        number = sum(call.task.name == task.name for call in self.calls) + 1
        call = TaskCall(task, self, task.name if number == 1 else f"{task.name}_{number}", {})
        if task.from_source:
            if len(args) != 1 or not hasattr(type(args[0]), "store"):
                raise WiringError(
                    f"{call}: call it as {task.name}(source_cfg, stage=stage, …), with the configuration of the "
                    "instance to copy from as its only positional argument."
                )
            call.source = args[0]
            call.source_stage = kwargs.get("stage", self)
            unknown = set(kwargs) - {"stage", *task.pass_args}
            missing = set(task.pass_args) - set(kwargs) - {"stage"}
            if unknown or missing:
                raise WiringError(f"{call}: pass_args is {list(task.pass_args)}, but was called with {sorted(kwargs)}.")
            call.arguments = {"stage": self} | kwargs
            call.arguments = {name: call.arguments[name] for name in task.pass_args}
        else:
            try:
                bound = task.signature.bind(*args, **kwargs)
            except TypeError as error:
                raise WiringError(f"{call}: {error}. It is {task.name}{task.signature}.") from error
            bound.apply_defaults()
            call.arguments = dict(bound.arguments)
        for needed in call.inputs:
            if needed.call.stage.flow is not self.flow:
                raise WiringError(f"{call} takes {needed}, which belongs to another flow.")
        self.calls.append(call)
        return Output(call)

    def __repr__(self) -> str:
        return f"<stage {self.name}>"


class FlowGraph(_Wired):
    """A flow without the means to run it (see `pipedag_dagster.Flow`)."""

    def __init__(self, name: str = "flow") -> None:
        self.name = name
        self.stages: list[Stage] = []
        self._others: dict[str, Stage] = {}

    @property
    def stage_names(self) -> list[str]:
        """The stages that a run of the flow reads or writes."""
        return list(dict.fromkeys([*(stage.name for stage in self.stages), *self._others]))

    def external(self, table: str) -> Output:
        """A table that no task of the flow makes: that of a plain Dagster asset, or of another flow of the instance.

        Args:
            table: `"stage.table"`.

        Raises:
            WiringError: it is not written like that.

        Example:
            with Flow("report") as flow, Stage("report"):
                ranking(flow.external("raw.orders"))
        """
        stage_part, dot, name = table.partition(".")
        if not dot:
            raise WiringError(f'Flow {self.name!r}: external({table!r}) names no table. Write external("stage.table").')
        stage = self._others.setdefault(stage_name(stage_part), Stage(stage_part))
        stage.flow = self
        for call in stage.calls:
            if call.assets == [asset_name(name)]:
                return Output(call)
        call = TaskCall(Task(_made_elsewhere, outputs=[name]), stage, asset_name(name), {})
        call.slots = (Slot(call.name, None),)
        stage.calls.append(call)
        return Output(call)

    def _wire(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise WiringError(f"Task {task.name!r} is called outside of a stage: write `with Stage(…):` around it.")

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        super().__exit__(kind, error, traceback)
        if error is None:
            for stage in self.stages:
                _name_outputs(stage)
            self.stages = [stage for stage in _in_order(self.stages) if stage not in self._others.values()]

    def __getitem__(self, name: str) -> Output:
        """The output `"stage.table"`.

        Raises:
            WiringError: the flow has no such output; close ones are named.
        """
        known = {
            f"{stage.name}.{slot.asset}": Output(call, slot.key)
            for stage in self.stages
            for call in stage.calls
            for slot in call.slots
        }
        if name.lower() not in known:
            raise WiringError(f"Flow {self.name!r} has no output {name!r}.{did_you_mean(name.lower(), known)}")
        return known[name.lower()]


def _made_elsewhere() -> None:
    """Stands for what makes the tables of `FlowGraph.external`."""


def _name_outputs(stage: Stage) -> None:
    """Give every output of the stage its asset name: the explicit ones first, the rest numbered around them."""
    owner: dict[str, TaskCall] = {}
    for call in stage.calls:
        for name in call.explicit_names() or ():
            if name in owner:
                raise WiringError(
                    f"Stage {stage.name!r} has two tables {name!r}: by {owner[name].name!r} and by {call.name!r}. "
                    "Give one of them another name in outputs=[…]."
                )
            owner[name] = call
    for call in stage.calls:
        names = call.explicit_names()
        if names is not None:
            by_key = call.task.outputs is None
            single = len(names) == 1 and not by_key
            call.slots = tuple(
                Slot(name, name if by_key else None if single else position) for position, name in enumerate(names)
            )
        elif call.task.from_source:
            raise WiringError(
                f"{call}: which tables it copies is not known before it runs. "
                'Ask for them (tbls["orders"]) or declare them: outputs=[…].'
            )
        else:
            keys = [None] if call.count is None else range(call.count)
            call.slots = tuple(Slot(_free_name(call, owner), key) for key in keys)


def _free_name(call: TaskCall, owner: dict[str, TaskCall]) -> str:
    name, number = call.task.name, 1
    while name in owner:
        number += 1
        name = f"{call.task.name}_{number}"
    owner[asset_name(name)] = call
    return name


def _in_order(stages: Iterable[Stage]) -> Iterable[Stage]:
    """The stages, each after those that it reads. A cycle is refused: Dagster would split one of its stages
    into two steps, and so into two transactions."""
    graph = {
        stage: [needed.call.stage for call in stage.calls for needed in call.inputs if needed.call.stage is not stage]
        for stage in stages
    }
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        first, *others = reversed(error.args[1])
        cycle = f"{first.name} needs {', which needs '.join(stage.name for stage in others)}"
        raise WiringError(
            f"The stages need each other in a circle: {cycle}. A stage is committed as one, so it cannot come "
            "both before and after another one. Move one of the tasks into a stage of its own."
        ) from None
