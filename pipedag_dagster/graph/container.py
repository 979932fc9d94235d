"""What a task wraps its results in."""

from __future__ import annotations

from typing import Any

from pipedag_dagster.errors import WrongCall


class Container:
    """An object that holds one result of a task, and says how it is stored."""

    @property
    def content(self) -> Any:
        """The result itself."""
        raise NotImplementedError


class NameOption:
    """The `name` of a table, blob, script or view: a text, or None.

    Raises:
        WrongCall: it is set to anything else.
    """

    def __get__(self, owner: Any, cls: type) -> str | None:
        return None if owner is None else owner.__dict__.get("name")

    def __set__(self, owner: Any, name: str | None) -> None:
        if name is not None and not isinstance(name, str):
            raise WrongCall(f'{type(owner).__name__}(…): name={name!r} is not a text. Write name="orders".')
        owner.__dict__["name"] = name
