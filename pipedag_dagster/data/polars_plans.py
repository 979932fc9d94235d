"""The plans of polars LazyFrames, which lazy tasks build. They are compared without being collected.

A plan is compared in the form in which polars serializes it. That form is the same in every process, but not in every
version of polars: after an upgrade, such tasks run once more.
"""

from __future__ import annotations

import sys
from typing import Any

from pipedag_dagster.data import frames
from pipedag_dagster.frame_types import FrameType, data_type

# What pickled Python looks like in it, as bytes and as MessagePack's numbers, for the protocols 4 and 5.
_PICKLED = (b"\x80\x04\x95", b"\x80\x05\x95", b"\xcc\x80\x04\xcc\x95", b"\xcc\x80\x05\xcc\x95", b"cloudpickle")


def is_lazy(value: Any) -> bool:
    """Whether a value is a LazyFrame, or the class of them."""
    return data_type(value if isinstance(value, type) else type(value)) is FrameType.POLARS_LAZY


def shape(uri: str, source: str, mark: str) -> Any:
    """A LazyFrame with the columns of a table and without its rows. In a plan, `mark` tells it from others.

    Args:
        source: the quoted name of the table.
    """
    polars = sys.modules["polars"]
    empty = frames.read_table(uri, source, polars.LazyFrame, source, limit=0)
    return empty.filter(polars.lit(mark).is_not_null())


def serialized(frame: Any) -> bytes | None:
    """The plan of a LazyFrame, with all literals and data frames in it. None when it calls Python functions, whose code
    is not in the plan."""
    polars = sys.modules["polars"]
    try:
        if "python" in frame.explain(optimized=False).lower():
            return None
        plan: bytes = frame.serialize()
    except polars.exceptions.PolarsError:  # without cloudpickle; or the plan is wrong, which collecting it will tell
        return None
    return None if any(mark in plan for mark in _PICKLED) else plan


def text(frame: Any) -> str | None:
    """The plan for people. None when the value is not a LazyFrame, or the plan is wrong."""
    if not is_lazy(frame):
        return None
    try:
        return str(frame.explain(optimized=False))
    except sys.modules["polars"].exceptions.PolarsError:
        return None
