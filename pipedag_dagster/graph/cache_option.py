"""The option `cache=` of a task: one cache function, or a list of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class CacheFunctions:
    """Several cache functions as one: its value is the list of their values. Its parameters are all of theirs."""

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        self.functions = tuple(functions)
        self.__name__ = ", ".join(getattr(function, "__name__", type(function).__name__) for function in functions)
        parameters = [inspect.signature(function).parameters for function in functions]
        named = {name: parameter for group in parameters for name, parameter in group.items()}
        self.__signature__ = inspect.Signature(
            [
                parameter.replace(kind=max(parameter.kind, inspect.Parameter.KEYWORD_ONLY))
                for parameter in sorted(named.values(), key=lambda parameter: parameter.kind)
            ]
        )

    def __call__(self, **arguments: Any) -> list[Any]:
        return [function(**_for(function, arguments)) for function in self.functions]


def _for(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that a function takes."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def each(cache: Callable[..., Any] | None) -> Iterator[Callable[..., Any]]:
    """The cache functions that the option consists of."""
    if isinstance(cache, CacheFunctions):
        for function in cache.functions:
            yield from each(function)
    elif cache is not None:
        yield cache


def combined(cache: Any) -> Any:
    """One function for what `cache=` was given; anything that is not a list of functions is left as it is."""
    if isinstance(cache, list | tuple) and cache and all(map(callable, cache)):
        return CacheFunctions(cache)
    return cache
