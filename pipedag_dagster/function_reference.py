"""Functions that are named in a file: `module:function`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipedag_dagster.errors import did_you_mean


def function_at(reference: str, example: str) -> Callable[..., Any]:
    """The function that `module:function` names. Its module is imported.

    Raises:
        ValueError: there is no such function. The text of the error is a sentence for people.
    """
    module_name, colon, name = reference.partition(":")
    if not colon or not name:
        raise ValueError(f"{reference!r} is not a function. Write module:function, like {example}.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists; a module that it imports does not
        raise ValueError(f"{reference!r}: there is no module {error.name!r}.") from None
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(
            f"{Path(module.__file__ or module_name)} has no function {name!r}.{did_you_mean(name, functions)}"
        )
    return function  # type: ignore[no-any-return]
