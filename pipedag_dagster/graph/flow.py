"""The graph: a flow has stages, a stage has task calls, a call has outputs.

`with Flow(...)` and `with Stage(...)` record the calls. When the flow closes, every output gets the name of
its asset and the graph is checked; afterwards it does not change.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextvars import ContextVar, Token
from typing import Any, Self

from pipedag_dagster.errors import UnknownName, WiringError, WrongCall, did_you_mean
from pipedag_dagster.graph.calls import Output, Slot, StageCalls, TaskCall, map_outputs, outputs_in
from pipedag_dagster.graph.group_node import GroupNode, open_groups, open_stages, order_calls
from pipedag_dagster.graph.instance import Instance
from pipedag_dagster.graph.nested import Path
from pipedag_dagster.graph.not_here import Instead
from pipedag_dagster.graph.schema import SCRIPT_SCHEMA
from pipedag_dagster.graph.task import Task, Wire, wiring
from pipedag_dagster.names import asset_name, stage_name
from pipedag_dagster.options import caller, known_options

__all__ = ["FlowGraph", "Output", "Path", "Slot", "Stage", "TaskCall", "map_outputs", "outputs_in"]

_open_flow: ContextVar[FlowGraph | None] = ContextVar("open_flow", default=None)


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


class Stage(StageCalls, _Wired):
    """The tables that become visible together: one asset group, one schema, one transaction.

    Args:
        name: letters, digits and `_`, case-insensitive.
        materialization_details: as for `Table`, for all tables of the stage that have none of their own.
        group_node_tag, force_committed: accepted for pydiverse.pipedag, without an effect.

    Raises:
        WiringError: it is opened outside of a flow, or a second time, or the flow has another stage of this name.
    """

    did_commit = Instead("Look at result.successful: a run that succeeds has committed its stages.")
    set_transaction_name = Instead("Leave it out: a run chooses the schemas that it writes to.")

    flow: FlowGraph
    outer: StageCalls | None = None
    """The stage that it is nested in. Each of them is committed on its own."""

    @known_options()
    def __init__(
        self,
        name: str,
        materialization_details: str | None = None,
        group_node_tag: str | None = None,
        force_committed: bool = False,
    ) -> None:
        self.name = stage_name(name)
        self.materialization_details = materialization_details
        self.calls: list[TaskCall] = []
        self._counts: Counter[str] = Counter()  # calls of each task
        self._opened_at: str | None = None

    @property
    def current_name(self) -> str:
        """The placeholder for the script's own schema in a `RawSql` (a name from pydiverse.pipedag)."""
        return SCRIPT_SCHEMA

    transaction_name = current_name

    @property
    def stages_before(self) -> set[str]:
        """The names of the stages that it reads, directly or not."""
        names = {self.name}
        waiting = list(self.calls)
        while waiting:
            for needed in waiting.pop().inputs:
                if needed.call.stage.name not in names:
                    names.add(needed.call.stage.name)
                    waiting += needed.call.stage.calls
        return names - {self.name}

    def __enter__(self) -> Self:
        flow = _open_flow.get()
        if flow is None:
            raise WiringError(f"Stage {self.name!r} is opened outside of a flow: write `with Flow(…):` around it.")
        if self._opened_at is not None:
            raise WiringError(
                f"Stage {self.name!r} is opened a second time, in flow {flow.name!r}. It belongs to flow "
                f"{self.flow.name!r} ({self._opened_at}). Make a new one: `with Stage({self.name!r}):`."
            )
        if any(other.name == self.name for other in flow.stages):
            raise WiringError(f"Flow {flow.name!r} has two stages {self.name!r}. Give one of them another name.")
        self.flow = flow
        self._opened_at = caller()
        self.outer = next(reversed(open_stages.get()), None)
        self._nesting = open_stages.set((*open_stages.get(), self))
        flow.stages.append(self)
        return super().__enter__()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        super().__exit__(kind, error, traceback)
        open_stages.reset(self._nesting)

    def __getitem__(self, task: str | tuple[str, int]) -> Output:
        """The output of a call of a task: `stage["clean"]`, or the second call as `stage["clean", 1]`.

        Raises:
            WiringError: the stage has no such call.
        """
        name, number = task if isinstance(task, tuple) else (task, 0)
        named = [call for call in self.calls if call.task.name == name]
        named = named or [call for call in self.calls if call.name == name]
        if not -len(named) <= number < len(named):
            hint = did_you_mean(name, {call.name for call in self.calls})
            raise UnknownName(f"Stage {self.name!r} has no call {number} of a task {name!r}.{hint}")
        return Output(named[number])

    def get_task(self, name: str, index: int | None = None) -> Output:
        """The same as `stage[name]`, or `stage[name, index]`."""
        return self[name, index or 0]

    def all_tasks(self) -> list[Output]:
        """The outputs of all calls."""
        return [Output(call) for call in self.calls]

    def is_inner(self, other: Stage) -> bool:
        """Whether it is nested in the other stage, directly or further inside."""
        return self is not other and any(stage is other for stage in _with_outer(self))

    def _wire(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Output:
        number = self._counts[task.name] + 1
        call = TaskCall(task, self, task.name if number == 1 else f"{task.name}_{number}", {})
        if task.from_source:
            self._bind_source(call, args, kwargs)
        else:
            try:
                bound = task.signature.bind(*args, **kwargs)
            except TypeError as error:
                hint = _misspelt(kwargs, task)
                raise WrongCall(f"{call}: {error}.{hint} It is {task.name}{task.signature}.") from error
            bound.apply_defaults()
            call.arguments = dict(bound.arguments)
        for needed in call.inputs:
            if needed.call.stage.flow is not self.flow:
                raise WiringError(f"{call} takes {needed}, which belongs to another flow.")
        call.groups = open_groups.get()
        for group in call.groups:
            group.calls.append(call)
        self.calls.append(call)
        self._counts[task.name] = number
        return Output(call)

    def _bind_source(self, call: TaskCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The arguments of a task under `@input_stage_versions`."""
        task = call.task
        missing = set(task.pass_args) - set(kwargs) - {"stage"}
        if missing:
            raise WiringError(f"{call}: pass_args is {list(task.pass_args)}, but it is called with {sorted(kwargs)}.")
        others = {name: value for name, value in kwargs.items() if name not in ("stage", *task.pass_args)}
        instances = [value for value in (*args, *others.values()) if isinstance(value, Instance)]
        if len(instances) > 1:
            raise WiringError(f"{call} is called with {len(instances)} instances. Give it the one to copy from.")
        for name, value in [*enumerate(args, 1), *others.items()]:
            if not isinstance(value, Instance) and not any(True for _ in outputs_in(value)):
                raise WiringError(
                    f"{call}: its argument {name!r} is not an instance, and there are no outputs of tasks in it. Pass "
                    f"values with pass_args=[…]. To copy, call it as {task.name}(source_cfg, stage=stage, …). To "
                    f"compare this run with the committed version, call it as {task.name}(), or with some outputs."
                )
        call.compared = [value for value in (*args, *others.values()) if not isinstance(value, Instance)]
        call.source = instances[0] if instances else None
        call.compares_versions = call.source is None
        call.source_stage = kwargs.get("stage", self)
        arguments = {"stage": self} | kwargs
        call.arguments = {name: arguments[name] for name in task.pass_args}

    def content_for_hash(self) -> tuple[Any, ...]:
        return (self.name,)

    def __repr__(self) -> str:
        return f"<stage {self.name}>"


def _misspelt(kwargs: dict[str, Any], task: Task) -> str:
    known = task.signature.parameters
    return next((did_you_mean(name, known, otherwise="") for name in kwargs if name not in known), "")


class FlowGraph(_Wired):
    """A flow without the means to run it (see `pipedag_dagster.Flow`)."""

    @known_options()
    def __init__(self, name: str = "flow") -> None:
        self.name = name
        self.stages: list[Stage] = []
        self._others: dict[str, Stage] = {}
        self._opened_at: str | None = None
        self._outer: Token[FlowGraph | None] | None = None

    def __enter__(self) -> Self:
        if self._opened_at is not None:
            raise WiringError(
                f"Flow {self.name!r} is opened a second time. It was wired in {self._opened_at} and does not change "
                f"any more. Make a new one: `with Flow({self.name!r}) as flow:`."
            )
        self._opened_at = caller()
        self._outer = _open_flow.set(self)
        return super().__enter__()

    @property
    def stage_names(self) -> list[str]:
        """The stages that a run of the flow reads or writes."""
        return list(dict.fromkeys([*(stage.name for stage in self.stages), *self._others]))

    def external(self, table: str) -> Output:
        """A table that no task of the flow makes: a plain Dagster asset, or a table of another flow of the instance.

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
        call = TaskCall(Task(_made_elsewhere, {"outputs": [name]}), stage, asset_name(name), {})
        call.slots = (Slot(call.name, ()),)
        stage.calls.append(call)
        return Output(call)

    def _wire(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise WiringError(f"Task {task.name!r} is called outside of a stage: write `with Stage(…):` around it.")

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        super().__exit__(kind, error, traceback)
        assert self._outer is not None
        _open_flow.reset(self._outer)
        if error is None:
            for stage in self.stages:
                _name_outputs(stage)
                order_calls(stage.calls)
            self.stages = [stage for stage in _in_order(self.stages) if stage not in self._others.values()]

    def __getitem__(self, name: str | Stage) -> Any:
        """The output `"stage.table"`, or the stage `"stage"`: `flow["raw.orders"]`, `flow["raw"]["load"]`.

        Raises:
            WiringError: the flow has no such output or stage; close ones are named.
        """
        if isinstance(name, Stage):
            return self.get_stage(name.name)
        known: dict[str, Any] = {stage.name: stage for stage in self.stages}
        known |= {
            f"{stage.name}.{slot.asset}": Output(call, slot.path)
            for stage in self.stages
            for call in stage.calls
            for slot in call.slots
        }
        if name.lower() not in known:
            raise UnknownName(f"Flow {self.name!r} has no output {name!r}.{did_you_mean(name.lower(), known)}")
        return known[name.lower()]

    def get_stage(self, name: str) -> Stage:
        """The stage of this name.

        Raises:
            WiringError: the flow has no such stage; a close one is named.
        """
        known = {stage.name: stage for stage in self.stages}
        if name.lower() not in known:
            raise UnknownName(f"Flow {self.name!r} has no stage {name!r}.{did_you_mean(name.lower(), known)}")
        return known[name.lower()]

    def chosen_calls(self, components: Iterable[Any]) -> list[TaskCall]:
        """The calls that stages, groups, outputs and names stand for, in the order of the flow. A stage stands for the
        stages in it, too.

        Raises:
            WiringError: one of them is not part of the flow.
        """
        everything = [call for stage in self.stages for call in stage.calls]
        chosen: set[TaskCall] = set()
        for each in components:
            part = self[each] if isinstance(each, str) else each
            calls = [part.call] if isinstance(part, Output) else [part] if isinstance(part, TaskCall) else []
            if isinstance(part, GroupNode):
                calls = part.calls
            elif isinstance(part, Stage):
                calls = [call for call in everything if part in _with_outer(call.stage)]
            if not calls or not set(calls) <= set(everything):
                raise WiringError(
                    f"Flow {self.name!r} cannot run {each!r} alone: it is not one of its stages, tasks or outputs."
                )
            chosen.update(calls)
        return [call for call in everything if call in chosen]


def _with_outer(stage: Any) -> Iterator[Any]:
    while stage is not None:
        yield stage
        stage = stage.outer


def _made_elsewhere() -> None:
    """Stands for the code that makes the tables of `FlowGraph.external`."""


def _name_outputs(stage: Stage) -> None:
    """Give every output of the stage its asset name: the explicit ones first, the rest numbered around them."""
    owner: dict[str, TaskCall] = {}
    for call in stage.calls:
        call.slots = call.explicit_slots()
        for name in call.assets:
            if name in owner:
                raise WiringError(
                    f"Stage {stage.name!r} has two tables {name!r}: by {owner[name].name!r} and by {call.name!r}. "
                    "Give one of them another name in outputs=[…]."
                )
            owner[name] = call
    numbers: Counter[str] = Counter()
    for call in stage.calls:
        if call.slots:
            continue
        paths: list[Path] = [()] if call.count is None else [(number,) for number in range(call.count)]
        call.slots = tuple(Slot(_free_name(call, owner, numbers), path) for path in paths)


def _free_name(call: TaskCall, owner: dict[str, TaskCall], numbers: Counter[str]) -> str:
    """The name of the task, with the next number that is free. `numbers` has the last one of each task."""
    task = call.task.name
    while True:
        numbers[task] += 1
        name = task if numbers[task] == 1 else f"{task}_{numbers[task]}"
        if name not in owner:
            owner[asset_name(name)] = call
            return name


def _in_order(stages: Iterable[Stage]) -> Iterable[Stage]:
    """The stages, each after the stages that it reads.

    Raises:
        WiringError: the stages need each other in a circle. Dagster would split one of them into two steps, and so
            into two transactions.
    """
    graph: dict[StageCalls, list[StageCalls]] = {
        stage: [needed.call.stage for call in stage.calls for needed in call.inputs if needed.call.stage is not stage]
        for stage in stages
    }
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        first, *others = reversed(error.args[1])
        cycle = f"{first.name} needs {', which needs '.join(stage.name for stage in others)}"
        raise WiringError(
            f"The stages need each other in a circle: {cycle}. A stage is committed as one, so it cannot come "
            "both before and after another one. Move one of the tasks into a stage of its own."
        ) from None
    return [stage for stage in order if isinstance(stage, Stage)]
