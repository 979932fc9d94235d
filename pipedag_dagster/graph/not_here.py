"""Attributes of pydiverse.pipedag that objects do not have here."""

from __future__ import annotations

from typing import NoReturn

from pipedag_dagster.errors import NotHere


class Instead:
    """An attribute that says what to write instead of it.

    Example:
        class Result:
            underlying = Instead("Write result.run_id for the run of Dagster.")
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: object, cls: type) -> NoReturn:
        raise NotHere(f"{cls.__name__} has no attribute {self.name!r} here. {self.advice}")
