"""What the objects of Python and its libraries hold: the texts and values that stand for them in a hash."""

from __future__ import annotations

import collections
import contextvars
import datetime
import decimal
import enum
import functools
import hashlib
import logging
import os
import pathlib
import re
import threading
import types
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from pipedag_dagster.frame_types import FrameType, class_names, data_type

ATOMS = (bool, int, float, complex, str, bytes, range, type(None), type(...), type(NotImplemented))
_PLAIN = (
    *(bool, int, float, complex, bytes, range, type(...), type(NotImplemented)),
    *(datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal, uuid.UUID),
)  # values whose repr is their content
_SILENT = (logging.Logger, logging.LoggerAdapter, contextvars.ContextVar, type(os.environ), threading.local)
_SYNCHRONIZING = {"_thread", "threading", "asyncio.locks"}
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+")


class Unstable(Exception):
    """A value has no content that is the same in every process. The message says what it is: "a Lock …"."""


@dataclass(frozen=True)
class ValueContent:
    """What stands for a value: its kind, texts, and values in it that are looked at in turn."""

    kind: str
    texts: tuple[str, ...] = ()
    values: Sequence[Any] = ()


def content(value: Any, *, silent: bool) -> ValueContent:
    """What stands for `value`, which is no code and no instance of a user's class.

    Args:
        silent: whether things that never make a difference to a result, like loggers and locks, may stand for nothing.

    Raises:
        Unstable
    """
    kind = type(value).__name__
    if value is None or isinstance(value, str):
        if isinstance(value, str) and ADDRESS.search(value):
            raise Unstable(f"a text with the address of an object in memory ({ADDRESS.search(value)[0]}>)")  # type: ignore[index]
        return ValueContent(kind, (repr(value),))
    if isinstance(value, np.generic):
        return ValueContent("numpy", (str(value.dtype), str(value))) if value.dtype.kind in "mMV" else content_of(value)
    if isinstance(value, _PLAIN):
        return ValueContent(kind, (repr(value),))
    if isinstance(value, pathlib.PurePath):
        return ValueContent("path", (value.as_posix(),))
    if isinstance(value, re.Pattern):
        return ValueContent("pattern", (repr(value.pattern), str(value.flags)))
    if isinstance(value, collections.deque):
        return ValueContent("deque", (), list(value))
    if isinstance(value, slice):
        return ValueContent("slice", (), [value.start, value.stop, value.step])
    return _of_library(value) or _by_protocol(value, silent)


def content_of(value: np.generic) -> ValueContent:
    """A NumPy scalar is the number that it is."""
    return content(value.item(), silent=False)


def _of_library(value: Any) -> ValueContent | None:
    kind = type(value).__name__
    if isinstance(value, pd.DataFrame):
        return _frame(kind, value)
    if isinstance(value, pd.Series):
        return _frame(kind, value.to_frame())
    if isinstance(value, pd.Index):
        return _frame(kind, value.to_frame(index=False))
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return ValueContent("array", (str(value.shape),), value.ravel().tolist())
        data = np.ascontiguousarray(value).tobytes()
        return ValueContent("array", (value.dtype.str, str(value.shape), hashlib.sha256(data).hexdigest()))
    if isinstance(value, pa.Table | pa.RecordBatch):
        return ValueContent("arrow", (str(value.schema.remove_metadata()),), [value.to_pandas()])
    frame_type = data_type(type(value))
    if frame_type is FrameType.POLARS or "polars.Series" in class_names(type(value)):
        frame = value if frame_type is FrameType.POLARS else value.to_frame()
        return ValueContent(kind, (str(frame.schema),), [frame.to_arrow().to_pandas()])
    if frame_type is FrameType.POLARS_LAZY:
        raise Unstable("a LazyFrame, which has no content before it is collected: .collect() it")
    if isinstance(value, sa.Table):
        return ValueContent("table", (str(sa.schema.CreateTable(value).compile(dialect=_DIALECT)),))
    if isinstance(value, sa.MetaData):
        return ValueContent("metadata", (), list(value.sorted_tables))
    if isinstance(value, sa.Column):
        return ValueContent("column", (str(value.name), str(value.type), str(value.nullable)))
    if isinstance(value, sa.ClauseElement):
        return _clause(value)
    if isinstance(value, sa.Engine | sa.Connection):
        raise Unstable(f"an open connection (sqlalchemy.{kind})")
    return None


def _clause(value: sa.ClauseElement) -> ValueContent:
    try:
        return ValueContent("query", (str(value.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True})),))
    except (sa.exc.CompileError, NotImplementedError):
        compiled = value.compile(dialect=_DIALECT)
        return ValueContent("query", (str(compiled),), [dict(compiled.params)])


def _frame(kind: str, frame: pd.DataFrame) -> ValueContent:
    columns = f"{list(frame.columns)!r}{list(frame.columns.names)!r}{list(frame.index.names)!r}"
    texts = (columns, ",".join(map(str, frame.dtypes)))
    try:
        hashes = pd.util.hash_pandas_object(frame, index=True).to_numpy()
    except TypeError:  # lists and dicts in it
        values = [frame.index.tolist(), *(frame.iloc[:, number].tolist() for number in range(frame.shape[1]))]
        return ValueContent(kind, texts, values)
    return ValueContent(kind, (*texts, str(frame.shape), hashlib.sha256(hashes.tobytes()).hexdigest()))


def _by_protocol(value: Any, silent: bool) -> ValueContent:
    """By what `copy` and `pickle` ask an object for: how to make it anew."""
    kind = type(value)
    if isinstance(value, _SILENT) or kind.__module__ in _SYNCHRONIZING:
        if silent:
            return ValueContent(kind.__name__)
        raise Unstable(named(value))
    if kind.__module__ == "typing" or isinstance(value, types.GenericAlias | types.UnionType):
        return ValueContent("type", (repr(value),))
    if kind is object and silent:
        return ValueContent("object")  # a marker: `MISSING = object()`
    # Objects of our own package know of databases and files.
    if kind is object or kind.__module__.partition(".")[0] == "pipedag_dagster":
        raise Unstable(named(value))
    try:
        reduced = value.__reduce_ex__(2)
    except Exception:
        raise Unstable(named(value)) from None
    if isinstance(reduced, str):
        return ValueContent(kind.__name__, (reduced,))
    function, arguments, *rest = tuple(reduced)
    state, items, pairs, *_ = [*rest, None, None, None]
    name = getattr(function, "__qualname__", type(function).__name__)
    return ValueContent(
        f"{kind.__module__}.{kind.__qualname__}", (name,), [arguments, state, list(items or ()), dict(pairs or ())]
    )


def state(value: Any, slots: Sequence[str]) -> dict[str, Any]:
    """The attributes of an instance of a user's class, without what it has cached of itself."""
    kind = type(value)
    custom = getattr(kind, "__getstate__", None)
    if custom is not None and custom is not getattr(object, "__getstate__", None) and not hasattr(kind, "model_fields"):
        return {"state": custom(value)}
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    found |= getattr(value, "__dict__", {})
    return {
        name: part
        for name, part in found.items()
        if not isinstance(getattr(kind, name, None), functools.cached_property)
    }


def named(value: Any) -> str:
    """`a Lock`, with its module where that helps.

    >>> named(object())
    'a object'
    """
    kind = type(value)
    origin = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"a {origin}{kind.__qualname__}"


def enum_value(value: enum.Enum) -> ValueContent:
    """A member of an enum: its name, and its value."""
    return ValueContent("enum", (type(value).__name__, str(value.name)), [value.value])
