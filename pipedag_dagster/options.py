"""Options that nobody reads: a misspelt option is an error that says what was meant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

from pipedag_dagster.errors import UnknownOption, did_you_mean

_PACKAGE = Path(__file__).parent
_P = ParamSpec("_P")
_R = TypeVar("_R")


def refuse_unknown(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """
    Args:
        what: who was given the options, for the message: "Task 'load' (shop/flow.py:12)".

    Raises:
        UnknownOption: one of `given` is not in `known`; a close one is named.
    """
    known = set(known)
    for option in given:
        if option not in known:
            raise UnknownOption(f"{what}: there is no option {option!r}.{did_you_mean(option, known)}")


def known_options(*more: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A decorator for functions of the public API: unknown keyword arguments are an `UnknownOption`, which names the
    line of the call.

    Args:
        more: the options that the function takes as `**options`.

    Example:
        >>> @known_options()
        ... def read(table, *, limit=None):
        ...     return table
        >>> read("orders", limt=5)
        Traceback (most recent call last):
        pipedag_dagster.errors.UnknownOption: read(…) (...): there is no option 'limt'. Did you mean 'limit'?
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        parameters = inspect.signature(function).parameters.values()
        named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        name = getattr(function, "__qualname__", "").removesuffix(".__init__")

        @functools.wraps(function)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if not kwargs.keys() <= named.union(more):
                refuse_unknown(f"{name}(…) ({caller()})", kwargs, named.union(more))
            return function(*args, **kwargs)

        return checked

    return decorate


def caller() -> str:
    """`file:line` of the user's code that is being run: the innermost frame that is not in this package."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"


def _is_ours(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(_PACKAGE) and not path.is_relative_to(_PACKAGE / "examples")


def defined_at(function: Callable[..., object]) -> str:
    """`file:line` of a function; of an object without code, the line that is being run."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return caller() if code is None else f"{code.co_filename}:{code.co_firstlineno}"
