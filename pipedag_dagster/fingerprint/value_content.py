"""What the objects of Python and its libraries hold: the texts and values that stand for them in a hash."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import datetime
import decimal
import enum
import functools
import inspect
import logging
import os
import pathlib
import re
import threading
import types
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from pipedag_dagster.fingerprint.module_origin import public_name
from pipedag_dagster.frame_types import FrameType, data_type

ATOMS = (bool, int, float, complex, str, bytes, range, type(None), type(...), type(NotImplemented))
_PLAIN = (
    *(bool, int, float, complex, bytes, bytearray, range, type(...), type(NotImplemented)),
    *(datetime.date, datetime.timedelta, decimal.Decimal, uuid.UUID),
)  # values whose repr is their content
_SILENT = (logging.Logger, logging.LoggerAdapter, type(os.environ))
_SYNCHRONIZING = {"_thread", "threading", "asyncio.locks"}
_TYPING = ("typing", "typing_extensions")
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+")
# What `functools.wraps` writes into the attributes of an object, and what else is not state.
_NOT_STATE = {*functools.WRAPPER_ASSIGNMENTS, "__type_params__", "__annotate__", "__annotations__", "__signature__"}


class Unstable(Exception):
    """A value has no content that is the same in every process. The message says what it is: "a Lock …"."""


@dataclass(frozen=True)
class ValueContent:
    """What stands for a value: the name of its class, texts, and values in it that are looked at in turn.

    is_set: the order of the values does not count.
    """

    kind: str
    texts: tuple[str, ...] = ()
    values: Sequence[Any] = ()
    is_set: bool = False


def content(value: Any, *, silent: bool) -> ValueContent:
    """What stands for `value`, which is not code and not an instance of a user's class.

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
        return ValueContent("numpy", (str(value.dtype.descr), repr(value.item()), str(value)))
    if isinstance(value, datetime.datetime | datetime.time):
        naive = value.replace(tzinfo=None)
        return ValueContent(kind, (repr(naive), str(getattr(value, "unit", ""))), [value.tzinfo])
    if isinstance(value, _PLAIN):
        return ValueContent(kind, (repr(value),))
    if isinstance(value, memoryview):
        return ValueContent(kind, (value.format, str(value.shape), value.tobytes().hex()))
    if isinstance(value, pathlib.PurePath):
        return path_content(value)
    if isinstance(value, re.Pattern):
        return ValueContent("pattern", (repr(value.pattern), str(value.flags)))
    if isinstance(value, slice):
        return ValueContent("slice", (), [value.start, value.stop, value.step])
    if isinstance(value, contextvars.ContextVar):
        return ValueContent(kind, (value.name,), [_default_of(value)])
    if isinstance(value, threading.local):
        return ValueContent(kind, (), [vars(value)])
    return _container(value) or _annotation(value) or _of_library(value) or _by_protocol(value, silent)


def _default_of(variable: contextvars.ContextVar[Any]) -> tuple[Any, ...]:
    """The default of a context variable, when it has one."""
    try:
        return (contextvars.Context().run(variable.get),)
    except LookupError:
        return ()


def path_content(value: pathlib.PurePath) -> ValueContent:
    """A path by its text. Path is PosixPath on one system and WindowsPath on another."""
    kind = "Path" if isinstance(value, pathlib.Path) else type(value).__name__
    return ValueContent(kind, (value.as_posix(),))


def _container(value: Any) -> ValueContent | None:
    """The containers of Python, with what sets them apart from others of the same elements."""
    kind = type(value).__name__
    if isinstance(value, collections.defaultdict):
        return ValueContent(kind, (), [value.default_factory, dict(value)])
    if isinstance(value, dict | types.MappingProxyType):
        return ValueContent(kind, (), [dict(value)])
    if isinstance(value, collections.deque):
        return ValueContent(kind, (str(value.maxlen),), list(value))
    if isinstance(value, collections.ChainMap):
        return ValueContent(kind, (), value.maps)
    if isinstance(value, list | tuple):
        return ValueContent(kind, (), list(value))
    if isinstance(value, set | frozenset):
        return ValueContent(kind, (), list(value), is_set=True)
    return None


# The builtin and library classes that a user's class may extend, and how to get what their part of an object holds.
# Always by the base's own methods: the user's class may have others.
_BASES: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (str, lambda value: str.__getnewargs__(value)[0]),
    (bytes, lambda value: bytes.__getnewargs__(value)[0]),
    (bytearray, lambda value: bytes(memoryview(value))),
    (int, lambda value: int.__getnewargs__(value)[0]),
    (float, lambda value: float.__getnewargs__(value)[0]),
    (complex, lambda value: (value.real, value.imag)),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (list, lambda value: list(list.__iter__(value))),
    (collections.defaultdict, lambda value: (value.default_factory, dict(dict.items(value)))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
    (collections.deque, lambda value: (value.maxlen, list(collections.deque.__iter__(value)))),
    (datetime.datetime, lambda value: _fields(value, "year month day hour minute second microsecond fold tzinfo")),
    (datetime.date, lambda value: _fields(value, "year month day")),
    (datetime.time, lambda value: _fields(value, "hour minute second microsecond fold tzinfo")),
    (datetime.timedelta, lambda value: _fields(value, "days seconds microseconds")),
    (decimal.Decimal, lambda value: tuple(decimal.Decimal.as_tuple(value))),
    (pathlib.PurePath, pathlib.PurePath.__str__),
    (BaseException, lambda value: value.args),
)


def base_content(value: Any, frame_content: Callable[[Any], ValueContent | None]) -> ValueContent | None:
    """What an instance of a user's class holds as an instance of a builtin or library class: the elements of a list,
    the text of a str, the rows of a frame. None for plain objects."""
    for base, part in _BASES:
        if isinstance(value, base):
            return ValueContent(base.__name__, (), [part(value)])
    return frame_content(value)


def _fields(value: Any, names: str) -> tuple[Any, ...]:
    return tuple(getattr(value, name) for name in names.split())


def _annotation(value: Any) -> ValueContent | None:
    """`list[Rule]`, `Rule | None`, type variables, new types: by what they are made of."""
    kind = type(value)
    if kind.__module__ not in _TYPING and not isinstance(value, types.GenericAlias | types.UnionType):
        return None
    names = ("__origin__", "__args__", "__metadata__", "__bound__", "__constraints__", "__supertype__", "__value__")
    parts = [getattr(value, name, None) for name in names]
    name = getattr(value, "__forward_arg__", None) or getattr(value, "__name__", None) or repr(value)
    return ValueContent("type", (str(name),), parts)


def _of_library(value: Any) -> ValueContent | None:
    kind = type(value).__name__
    if data_type(type(value)) is FrameType.POLARS_LAZY:
        raise Unstable("a LazyFrame, which has no content before it is collected: .collect() it")
    if isinstance(value, sa.Table):
        text = str(sa.schema.CreateTable(value).compile(dialect=_DIALECT))
        return ValueContent("table", (text,), [value.comment, dict(value.info), *value.columns])
    if isinstance(value, sa.MetaData):
        return ValueContent("metadata", (), list(value.sorted_tables))
    if isinstance(value, sa.Column):
        made = [getattr(one, "arg", None) for one in (value.default, value.server_default, value.onupdate)]
        flags = [value.nullable, value.primary_key, value.unique, value.index, value.comment]
        return ValueContent("column", (str(value.name), repr(value.type)), [*flags, dict(value.info), *made])
    if isinstance(value, sa.ClauseElement):
        return _clause(value)
    if isinstance(value, sa.Engine | sa.Connection):
        raise Unstable(f"an open connection (sqlalchemy.{kind})")
    return None


def _clause(value: sa.ClauseElement) -> ValueContent:
    """A query by its text and its parameters, whose types count: 1 and "1" are written alike in some queries."""
    compiled = value.compile(dialect=_DIALECT)
    parameters = getattr(compiled, "params", None) or {}
    return ValueContent("query", (str(compiled),), [dict(parameters)])


def _by_protocol(value: Any, silent: bool) -> ValueContent:
    """By what `copy` and `pickle` ask an object for: how to make it anew."""
    kind = type(value)
    if isinstance(value, _SILENT) or kind.__module__ in _SYNCHRONIZING:
        if silent:
            return ValueContent(kind.__name__)
        raise Unstable(named(value))
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
        return ValueContent(public_name(kind), (reduced,))
    function, arguments, *rest = tuple(reduced)
    state, items, pairs, *_ = [*rest, None, None, None]
    name = getattr(function, "__qualname__", type(function).__name__)
    return ValueContent(public_name(kind), (name,), [arguments, state, list(items or ()), dict(pairs or ())])


def state(value: Any, is_library: Callable[[type], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes of an instance of a user's class, without what it has cached of itself. And those of them that its
    own `__getstate__` leaves out: they count only when they are stable."""
    kind = type(value)
    found: dict[str, Any] = {}
    for name in _slots(kind):
        with contextlib.suppress(AttributeError):  # a slot that nothing was put into
            found[name] = object.__getattribute__(value, name)
    with contextlib.suppress(AttributeError):
        found |= object.__getattribute__(value, "__dict__")  # not by the user's own __getattribute__
    found = {
        name: part
        for name, part in found.items()
        if name not in _NOT_STATE
        and not isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)
    }
    custom = next((one for one in kind.__mro__ if "__getstate__" in vars(one)), object)
    if custom is object or is_library(custom):
        return found, {}
    kept = value.__getstate__()
    if not isinstance(kept, dict):
        return {"state": kept}, found
    left_out = {name: part for name, part in found.items() if name not in kept}
    return {**{name: part for name, part in found.items() if name in kept}, "state": kept}, left_out


def _slots(kind: type) -> list[str]:
    names = []
    for owner in kind.__mro__:
        slots = vars(owner).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else list(slots):
            hidden = name[:2] == "__" and name[-2:] != "__"
            names += [f"_{owner.__name__.lstrip('_')}{name}" if hidden else name]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def named(value: Any) -> str:
    """`a Lock`, with its module where that helps.

    >>> named(object())
    'a object'
    """
    kind = type(value)
    origin = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"a {origin}{kind.__qualname__}"


def enum_content(value: enum.Enum, more: Iterable[tuple[str, Any]]) -> ValueContent:
    """A member of an enum: its name, its value, and what else it was given."""
    return ValueContent("enum", (type(value).__name__, str(value.name)), [value.value, dict(more)])
