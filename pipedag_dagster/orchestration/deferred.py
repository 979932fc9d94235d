"""Definitions that are made when somebody looks at them: most commands never do, and so need no Dagster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.graph.flow import Stage

if TYPE_CHECKING:
    import dagster as dg

_active: ContextVar[bool] = ContextVar("deferring", default=False)


@dataclass(frozen=True)
class Deferred:
    """What is known of definitions before they are made."""

    instance: ConfigContext
    stages: tuple[Stage, ...]
    make: Callable[[], dg.Definitions]

    @cached_property
    def definitions(self) -> dg.Definitions:
        return self.make()


class DeferredDefinitions:
    """Stands for a `dg.Definitions` in a user's module: it has its class and its attributes, which make it."""

    __slots__ = ("_deferred",)

    def __init__(self, deferred: Deferred) -> None:
        object.__setattr__(self, "_deferred", deferred)

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":  # isinstance() reads it, and must not make the definitions
            return getattr(sys.modules.get("dagster"), "Definitions", DeferredDefinitions)
        deferred: Deferred = object.__getattribute__(self, "_deferred")
        return getattr(deferred.definitions, name)


def deferred(value: object) -> Deferred | None:
    """What is known of deferred definitions; None for other values."""
    return object.__getattribute__(value, "_deferred") if type(value) is DeferredDefinitions else None


def is_deferring() -> bool:
    """Whether `build_definitions` shall return definitions that are made later."""
    return _active.get()


@contextmanager
def deferring(active: bool) -> Iterator[None]:
    """Within it, `build_definitions` returns definitions that are made later."""
    token = _active.set(active)
    try:
        yield
    finally:
        _active.reset(token)


def stages_of(definitions: Any) -> Sequence[Stage]:
    """The stages of definitions, made or not."""
    known = deferred(definitions)
    return (definitions.resources or {})["instance"].stages if known is None else known.stages
