"""What code and arguments *are*, as short texts that are equal in every process.

`code_version` fingerprints a function and what it reaches in the user's own modules; `content_hash` hashes
values. Neither uses `hash()`, which Python salts per process, nor pickles, which differ between versions.
"""

from __future__ import annotations

import ast
import dataclasses
import datetime
import decimal
import enum
import functools
import hashlib
import inspect
import pathlib
import sys
import sysconfig
import textwrap
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from pipedag_dagster.errors import WiringError

_PLAIN = (
    *(bool, int, float, complex, str, bytes, range),
    *(datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, pathlib.PurePath, uuid.UUID),
)  # values whose repr is their content
_LENGTH = 16  # hex digits: 64 bits are plenty to tell the versions of one task apart
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_PACKAGE = f"{pathlib.Path(__file__).parent}/"
_EXAMPLES = f"{_PACKAGE}examples/"


def digest(*parts: str) -> str:
    """SHA-256 of texts, cut to 16 hex digits. No two different lists of parts are joined to the same text.

    >>> digest("a", "bc") == digest("ab", "c")
    False
    """
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode()
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()[:_LENGTH]


def content_hash(value: Any, what: str = "value") -> str:
    """A hash of what `value` holds: the same in every process.

    Args:
        value: None, texts, bytes, numbers, dates, enums, paths, UUIDs, dataclasses, DataFrames, functions, and
            lists, tuples, sets and dicts of them.
        what: names the value in the error.

    Raises:
        WiringError: the value has no content that is known to be stable.
    """
    return digest(*_parts(value, what))


def _parts(value: Any, what: str) -> Iterator[str]:
    kind = type(value).__name__
    if isinstance(value, enum.Enum):
        yield from ("enum", kind, value.name)
    elif value is None or isinstance(value, _PLAIN):
        yield from (kind, repr(value))
    elif isinstance(value, list | tuple):
        yield from ("list", *(digest(*_parts(part, what)) for part in value))
    elif isinstance(value, set | frozenset):
        yield from ("set", *sorted(digest(*_parts(part, what)) for part in value))
    elif isinstance(value, dict):
        pairs = (digest(*_parts(key, what), *_parts(part, f"{what}[{key!r}]")) for key, part in value.items())
        yield from ("dict", *sorted(pairs))
    elif isinstance(value, pd.DataFrame | pd.Series):
        frame = value.to_frame() if isinstance(value, pd.Series) else value
        hashes = pd.util.hash_pandas_object(frame, index=True).to_numpy()
        columns = ",".join(f"{name}:{dtype}" for name, dtype in frame.dtypes.items())
        yield from (kind, columns, hashlib.sha256(hashes.tobytes()).hexdigest())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        yield from ("dataclass", kind, *_parts(fields, what))
    elif isinstance(value, type) or callable(value):
        yield from ("code", code_version(value))
    elif callable(getattr(value, "item", None)) and getattr(value, "shape", None) == ():
        yield from _parts(value.item(), what)  # a NumPy scalar
    else:
        raise WiringError(
            f"{what}: a {kind} has no content that is the same in every process, so it cannot tell whether a task "
            "must run again. Pass plain values (texts, numbers, lists, dicts, dataclasses, DataFrames) instead."
        )


def code_version(code: Callable[..., Any] | type) -> str:
    """A fingerprint of a function or class, and of the functions, classes and constants that it reaches in
    modules that are not libraries. Formatting, comments, docstrings and annotations do not count.

    Code without source (typed into a console, C extensions) counts by its bytecode or its name.
    """
    found: dict[int, str] = {}
    _collect(code, found)
    return digest(*sorted(found.values()))


def _collect(value: Any, found: dict[int, str]) -> None:
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            _collect(part, found)
        return
    if isinstance(value, types.MethodType):
        value = value.__func__
    if id(value) in found:
        return
    name = getattr(value, "__qualname__", type(value).__name__)
    if not isinstance(value, types.FunctionType | type):
        try:
            found[id(value)] = digest("constant", content_hash(value) if not callable(value) else name)
        except WiringError:
            found[id(value)] = digest("object", type(value).__qualname__)
        return
    if _is_library(value):
        found[id(value)] = digest("library", value.__module__ or "", name)
        return
    found[id(value)] = digest("code", name, _source(value))
    functions = (
        [part for part in vars(value).values() if isinstance(part, types.FunctionType)]
        if isinstance(value, type)
        else [value]
    )
    for function in functions:
        for reached in _reached(function):
            _collect(reached, found)


def _reached(function: types.FunctionType) -> Iterator[Any]:
    """The globals, closure values and defaults that a function uses."""
    names: set[str] = set()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes.extend(part for part in code.co_consts if isinstance(part, types.CodeType))
    for name in sorted(names):
        value = function.__globals__.get(name)
        if isinstance(value, types.ModuleType):
            # `helpers.clean(...)`: of a user's module, what is named in the function counts.
            if not _in_library(getattr(value, "__file__", None)):
                yield from (getattr(value, part) for part in sorted(names) if part in vars(value))
        elif value is not None:
            yield value
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _is_library(value: types.FunctionType | type) -> bool:
    module = sys.modules.get(value.__module__ or "")
    return value.__module__ == "builtins" or _in_library(getattr(module, "__file__", None))


def _in_library(file: str | None) -> bool:
    if file is None:
        return False
    ours = file.startswith(_PACKAGE) and not file.startswith(_EXAMPLES)
    return ours or file.startswith(_LIBRARIES)


@functools.cache
def _source(value: types.FunctionType | type) -> str:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    except (OSError, TypeError, SyntaxError):
        # A lambda in the middle of an expression, or code without a file.
        code = getattr(value, "__code__", None)
        return f"{code.co_code.hex()}{code.co_names}" if code else value.__qualname__
    return ast.dump(_Plain().visit(tree))


class _Plain(ast.NodeTransformer):
    """Drops what does nothing: docstrings and annotations."""

    def visit(self, node: ast.AST) -> Any:
        self.generic_visit(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            if not isinstance(node, ast.ClassDef):
                node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        return node
