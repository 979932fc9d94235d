"""What code and arguments *are*, as short texts that are equal in every process.

`fingerprint` covers a function and what it reaches in the user's own modules; `content_hash` hashes values. Neither
uses `hash()`, which Python salts per process, nor pickles or bytecode, which differ between versions, nor paths.
"""

from __future__ import annotations

import ast
import enum
import functools
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from pipedag_dagster.digest import digest
from pipedag_dagster.fingerprint.code_source import CodeSource
from pipedag_dagster.fingerprint.code_text import CodeText, code_part
from pipedag_dagster.fingerprint.installed import owners
from pipedag_dagster.fingerprint.module_origin import UserCode
from pipedag_dagster.fingerprint.value_content import named
from pipedag_dagster.fingerprint.walk import Walk
from pipedag_dagster.frame_types import batch_class
from pipedag_dagster.graph.task import Task

__all__ = [
    "Fingerprint",
    "UserCode",
    "class_code",
    "code_text",
    "code_version",
    "content_hash",
    "digest",
    "fingerprint",
    "libraries",
]

_DEPTH = 20_000  # of the stack: a function that calls a function that calls … takes some frames for each


def content_hash(value: Any, what: str = "value", *, code: bool = True, user_code: UserCode | None = None) -> str:
    """A hash of what `value` holds: the same in every process. The class of a value counts, and the order of its parts.

    Args:
        value: None, texts, bytes, numbers, dates, enums, paths, UUIDs, dataclasses, DataFrames, arrays, queries,
            functions, objects of your own classes and of libraries that can be pickled, and lists, tuples, sets and
            dicts of them.
        what: names the value in the error.
        code: whether the code of your own classes counts, where the value has an object of one.
        user_code: tells your modules from libraries.

    Raises:
        WiringError: the value has no content that is known to be stable.

    Example:
        >>> content_hash({"a": 1}) == content_hash({"a": 1.0})
        False
    """
    walk = Walk(user_code, strict=True, code=False)
    content = walk.value(value, what)
    return digest(content, _classes(walk)) if code and walk.classes else content


def class_code(value: Any, *, user_code: UserCode | None = None) -> str:
    """A hash of the code of all classes of the user that `value` has objects of; "" when it has none.

    What is in large frames is looked at only where it may hold such objects.
    """
    walk = Walk(user_code, code=False, data=False)
    walk.value(value, "value")
    return _classes(walk) if walk.classes else ""


def _classes(walk: Walk) -> str:
    classes = [kind for _, kind in sorted(walk.classes.items())]
    return digest(*(Walk(walk.user_code).code_digest(kind, kind.__qualname__) for kind in classes))


@dataclass(frozen=True)
class Fingerprint:
    """What was found out about the code of a function or class.

    version: the fingerprint.
    libraries: the first names of the modules that it reaches and that do not belong to the user.
    code: for people: its source, and that of what it reaches.
    unstable: what could not be fingerprinted, by name, and why.
    salted: where `hash` or `id` are called, or their values used, which are others in every process.
    coarse: the modules that count as a whole, by name, and why: "eval() in line 12".
    """

    version: str
    libraries: frozenset[str]
    code: CodeText
    unstable: Mapping[str, str]
    salted: tuple[str, ...]
    coarse: Mapping[str, str]


def fingerprint(
    code: Callable[..., Any] | type, *, data: bool = True, user_code: UserCode | None = None
) -> Fingerprint:
    """A fingerprint of a function or class, and of the functions, classes and constants that it reaches in modules that
    are not libraries. Formatting, comments, docstrings and annotations that nobody reads do not count.

    Where the code finds other code in a way that cannot be followed (`eval`, `importlib`, a query in a text that is put
    together), all that its module can reach counts.

    Args:
        data: whether the content of objects of libraries (DataFrames, arrays) counts, which can take long.
        user_code: tells the user's modules from libraries.

    Example:
        >>> len(fingerprint(lambda: 1).version)
        16
    """
    walk, limit = Walk(user_code, data=data), sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEPTH))
    try:
        version = walk.code_digest(code, getattr(code, "__name__", "code"))
    finally:
        sys.setrecursionlimit(limit)
    text = _text(walk, code)
    return Fingerprint(
        version, frozenset(walk.libraries), text, walk.unstable, tuple(walk.salted), dict(sorted(walk.opaque.items()))
    )


def code_version(code: Callable[..., Any] | type) -> str:
    """The fingerprint alone: 16 hex digits."""
    return fingerprint(code).version


def code_text(code: Callable[..., Any] | type) -> str:
    """For people, to compare: the source of a function, then that of the user's functions and classes that it reaches,
    in the order of their names, then the constants. A value that is not written in the code is not shown: it might be
    a secret. The first digits of its hash tell that it has changed."""
    return str(fingerprint(code).code)


def libraries(task: Task, found: Fingerprint) -> dict[str, str]:
    """The installed distributions whose modules the code of a task reaches, and that of its `input_type`, with their
    versions."""
    kind = batch_class(task.input_type) or task.input_type
    names = {*found.libraries, "pandas" if kind is None else kind.__module__.partition(".")[0]}
    installed = {one for name in names for one in owners(name)}
    return {name: metadata.version(name) for name in sorted(installed, key=str.lower) if name != "pipedag_dagster"}


def _text(walk: Walk, code: Any) -> CodeText:
    """The source of what was met: of `code` itself first."""
    first = _label(code)
    classes = tuple(f"{name}." for name, source in walk.sources.items() if source.is_class)
    names = sorted(walk.sources, key=lambda name: (name != first, name))
    sources = {name: walk.sources[name] for name in names if name == first or not name.startswith(classes)}
    parts = [
        code_part("class" if one.is_class else "function", name, one.text, digest(one.plain))
        for name, one in sources.items()
    ]
    constants = sorted(walk.constants.items())
    parts += [code_part("constant", name, _shown(*one), one[2]) for name, one in constants]
    whole = sorted(walk.whole.items())
    parts += [
        code_part("module", name, f"# and all of module {name}, because of {walk.opaque[name]}", version)
        for name, version in whole
    ]
    return CodeText(tuple(parts))


def _label(code: Any) -> str:
    """What the walk calls the function that a task is about, without what is around it."""
    while isinstance(code, Task | functools.partial | types.MethodType) or hasattr(code, "__wrapped__"):
        if isinstance(code, Task):
            code = code.fn
        elif isinstance(code, functools.partial):
            code = code.func
        else:
            code = code.__func__ if isinstance(code, types.MethodType) else code.__wrapped__
    if isinstance(code, types.FunctionType):
        return f"{code.__globals__.get('__name__')}.{code.__code__.co_qualname}"
    kind = code if isinstance(code, type) else type(code)
    return f"{kind.__module__}.{kind.__qualname__}"


def _shown(value: Any, source: CodeSource | None, found: str) -> str:
    """A constant for people. What is not written in the code is known by the first digits of its hash only."""
    if source is not None:
        try:
            ast.literal_eval(source.text)
        except (ValueError, SyntaxError):
            return f"{_short(' '.join(source.text.split()))}  # {found[:6]}"
        return _short(repr(value))
    plain = value is None or isinstance(value, bool | int | float | enum.Enum)
    return _short(repr(value)) if plain else f"{named(value)}  # {found[:6]}"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}…"
