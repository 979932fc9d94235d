"""Values of Python as SQL constants, with the type that psycopg gives them when it sends them as parameters."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap, Dumper, PyFormat, Transformer

from pipedag_dagster.errors import UnstorableResult

_NUMBER = re.compile(r"\d+(\.\d+)?")
_WITHOUT_QUOTES = {"smallint", "integer", "bigint", "numeric"}


def constant(value: Any, cast: str | None = None) -> str:
    """The SQL constant that is the same value as `value` sent as a parameter.

    The text depends on the value alone: not on a connection, its settings or the time zone.

    Args:
        cast: the SQL type that the parameter is cast to.

    Raises:
        UnstorableResult: psycopg cannot send such a value, or PostgreSQL cannot hold it.

    >>> import datetime
    >>> constant(datetime.date(2024, 1, 31))
    "'2024-01-31'::date"
    >>> constant(5, "INTEGER")
    '5::INTEGER'
    """
    if value is None:
        return "NULL" if cast is None else f"NULL::{cast}"
    text, kind = _dumped(value)
    written = text if kind in _WITHOUT_QUOTES and _NUMBER.fullmatch(text) else quoted(text)
    if kind is not None and kind != (cast or "").lower() and (cast is None or not _same_text(kind)):
        written += f"::{kind}"
    return written if cast is None else f"{written}::{cast}"


def quoted(text: str) -> str:
    """A text as an SQL constant, whatever `standard_conforming_strings` is."""
    if "\0" in text:
        raise UnstorableResult("A text with the character NUL (\\x00) cannot be stored in PostgreSQL. Remove it.")
    escaped = text.replace("'", "''")
    return "E'" + escaped.replace("\\", "\\\\") + "'" if "\\" in text else f"'{escaped}'"


def _same_text(kind: str) -> bool:
    """Whether a value of this type is cast to another type as its text is, so that one cast is enough."""
    return kind.removesuffix("[]") in _WITHOUT_QUOTES | {"boolean", "uuid", "inet", "cidr", "json", "jsonb"}


class _HexDumper(Dumper):
    """Bytes in the form that does not depend on the connection."""

    oid = psycopg.adapters.types["bytea"].oid

    def dump(self, obj: Any) -> bytes:
        return b"\\x" + bytes(obj).hex().encode()


class _Adapters:
    """psycopg's adapters with what users have added to them, but without a connection."""

    connection = None

    def __init__(self) -> None:
        self.adapters = AdaptersMap(psycopg.adapters)
        for kind in (bytes, bytearray, memoryview):
            self.adapters.register_dumper(kind, _HexDumper)


def _dumped(value: Any) -> tuple[str, str | None]:
    """The text of a value and the name of its type; None where PostgreSQL finds out the type by itself."""
    if getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0):
        raise UnstorableResult(
            f"PostgreSQL counts microseconds, and {value!r} has nanoseconds. Round it: value.round('us')."
        )
    try:
        dumper = Transformer(_Adapters()).get_dumper(value, PyFormat.TEXT)
        data = dumper.dump(value)
    except (psycopg.Error, UnicodeEncodeError, ValueError) as error:
        raise UnstorableResult(
            f"The value {value!r:.80} ({type(value).__module__}.{type(value).__qualname__}) cannot be written as SQL: "
            f"{error}. Convert it to a plain Python value first, as with value.item(), value.tolist() or None."
        ) from error
    return bytes(data or b"").decode(), _type_name(dumper.oid)


def _type_name(oid: int) -> str | None:
    info = psycopg.adapters.types.get(oid)
    if info is None or info.name == "text":
        return None
    return f"{info.regtype}[]" if oid == info.array_oid else info.regtype
