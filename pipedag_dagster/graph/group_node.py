"""Groups of calls in a stage: `with GroupNode("cleaning"):`."""

from __future__ import annotations

from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Self

from pipedag_dagster.errors import WiringError
from pipedag_dagster.graph.calls import StageCalls, TaskCall
from pipedag_dagster.options import known_options

open_groups: ContextVar[tuple[GroupNode, ...]] = ContextVar("open_groups", default=())
open_stages: ContextVar[tuple[StageCalls, ...]] = ContextVar("open_stages", default=())


class GroupNode:
    """Calls that belong together.

    Args:
        label: its name, for people.
        ordering_barrier: the calls of the stage that are wired before the group run before it, and those wired after
            it run after it.
        style, style_tag: accepted for pydiverse.pipedag. They change how it draws a flow, and nothing here.

    Raises:
        WiringError: a group with `ordering_barrier` is opened outside of a stage.

    Example:
        with Stage("raw"):
            with GroupNode("load", ordering_barrier=True):
                orders = load()
            report()
    """

    @known_options()
    def __init__(
        self,
        label: str | None = None,
        style: Any = None,
        *,
        ordering_barrier: bool = False,
        style_tag: str | None = None,
    ) -> None:
        self.label = label
        self.style = style
        self.style_tag = style_tag
        self.ordering_barrier = ordering_barrier
        self.calls: list[TaskCall] = []
        self._tokens: list[Token[tuple[GroupNode, ...]]] = []

    def __enter__(self) -> Self:
        if self.ordering_barrier and not open_stages.get():
            raise WiringError(
                f"GroupNode({self.label!r}, ordering_barrier=True) is opened outside of a stage, where it orders "
                "nothing: stages run after the stages that they read. Open it inside of a stage."
            )
        self._tokens.append(open_groups.set((*open_groups.get(), self)))
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        open_groups.reset(self._tokens.pop())


@dataclass
class VisualizationStyle:
    """How pydiverse.pipedag draws a group. Accepted, and without an effect: Dagster draws the flow."""

    hide_box: bool | None = None
    hide_content: bool | None = None
    hide_label: bool | None = None
    box_color_always: str | None = None
    box_color_any_failure: str | None = None
    box_color_none_cache_valid: str | None = None
    box_color_any_cache_valid: str | None = None
    box_color_all_cache_valid: str | None = None
    box_color_all_skipped: str | None = None


def order_calls(calls: list[TaskCall]) -> None:
    """Fill in `after` of the calls of one stage: what barriers put before them. A task under `@input_stage_versions`
    that gets all tables of the stage waits for those that are wired before it."""
    barriers: list[TaskCall] = []  # few, mostly: all others are compared with these only
    for number, call in enumerate(calls):
        is_barrier = call.task.ordering_barrier or any(group.ordering_barrier for group in call.groups)
        takes_all = call.task.from_source and not call.compared
        for other in calls[:number] if is_barrier or takes_all else barriers:
            if takes_all or _is_barrier(call, other) or _is_barrier(other, call):
                call.after.append(other)
        if is_barrier:
            barriers.append(call)


def _is_barrier(call: TaskCall, other: TaskCall) -> bool:
    """Whether `call` is a barrier, or in one, that the other call is not in."""
    return call.task.ordering_barrier or any(
        group.ordering_barrier and group not in other.groups for group in call.groups
    )
