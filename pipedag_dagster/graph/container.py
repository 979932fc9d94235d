"""What a task wraps its results in."""

from __future__ import annotations

from typing import Any


class Container:
    """An object that holds one result of a task, and says how it is stored."""

    @property
    def content(self) -> Any:
        """The result itself."""
        raise NotImplementedError
