"""Annotations of tasks that other frameworks evaluate, and this one does not."""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from pipedag_dagster.frame_types import class_names

_SCHEMAS = {"dataframely.Schema", "pydiverse.ColSpec"}


class IgnoredAnnotation(UserWarning):
    """Write checks, or validate in the task."""


def warn_of_schemas(task: str, fn: Callable[..., Any]) -> None:
    """Warn of annotations by which pydiverse.pipedag casts and validates tables: schemas of dataframely and colspec."""
    try:
        annotations = typing.get_type_hints(fn)
    except Exception:  # names that are imported for type checkers only
        annotations = getattr(fn, "__annotations__", {})
    for name, annotation in annotations.items():
        for schema in _schemas(annotation):
            what = "its result" if name == "return" else f"the argument {name!r}"
            code = inspect.unwrap(fn).__code__
            warnings.warn_explicit(
                f"Task {task!r}: {what} is annotated with {schema.__name__}, which has no effect: nothing is cast or "
                f"validated. Write @materialize(checks=[…]), or call {schema.__name__} in the task.",
                IgnoredAnnotation,
                code.co_filename,
                code.co_firstlineno,
            )


def _schemas(annotation: Any) -> Iterator[type]:
    """The schemas in an annotation like `Orders`, `LazyFrame[Orders]` or `tuple[Orders, Customers]`."""
    parts = typing.get_args(annotation)
    if not parts and isinstance(annotation, type) and not _SCHEMAS.isdisjoint(class_names(annotation)):
        yield annotation
    for part in parts:
        yield from _schemas(part)
