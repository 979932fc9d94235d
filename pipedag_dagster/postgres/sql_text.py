"""The SQL text of a query that SQLAlchemy has built, with its parameters written as constants.

The text is what SQLAlchemy's psycopg dialect would send, and each constant has the value and the type that psycopg
would send for its parameter. `literal_binds` of SQLAlchemy is not enough: it writes dates and UUIDs without their
types, NULL for a parameter that has no value, and knows no constants for NaN, bytes, JSON and arrays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects.postgresql import psycopg as psycopg_dialect

from pipedag_dagster.errors import UnstorableResult

_DIALECT = psycopg_dialect.dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]

_PARAMETER = re.compile(r"%\((?P<name>[^)]*)\)s")
_QUOTED = re.compile(
    r"""
    \b[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"     # texts and names
    | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$                                # dollar-quoted texts
    | --[^\n]* | /\*.*?\*/                                           # comments
    """,
    re.VERBOSE | re.DOTALL,
)
_UNTYPED = (sa.types.NullType, sa.types.String, sa.types.Numeric, sa.types.TupleType, sa.JSON.JSONElementType)
"""Types for which a text is written as it is: SQLAlchemy has written the cast already, or there is none."""


def render(query: Any) -> str:
    """The SQL text of a query, without a semicolon at its end.

    Args:
        query: a SELECT, a table, `sa.text(…)`, or anything else of SQLAlchemy that compiles to a query.

    Raises:
        UnstorableResult: a parameter has no value, is inside of a quoted text, or has a value that SQL has no constant
            for.

    >>> import datetime
    >>> render(sa.select(sa.literal(datetime.date(2024, 1, 31)).label("day")))
    "SELECT '2024-01-31'::date::DATE AS day"
    >>> render(sa.text("SELECT * FROM orders WHERE amount > :limit").bindparams(limit=5))
    'SELECT * FROM orders WHERE amount > 5'
    """
    if isinstance(query, sa.FromClause) and not isinstance(query, sa.SelectBase):
        query = sa.select(query)
    try:
        compiled = query.compile(dialect=_DIALECT)
        expanded = compiled.construct_expanded_state()
    except (sa.exc.CompileError, NotImplementedError) as error:
        raise UnstorableResult(f"The query cannot be written as SQL: {error}") from error
    except sa.exc.InvalidRequestError:
        raise UnstorableResult(_unset(query, compiled)) from None
    text = str(expanded.statement)
    for quoted in _QUOTED.finditer(text):
        if inside := _PARAMETER.search(quoted[0]):
            raise UnstorableResult(_in_quotes(inside["name"], quoted[0]))
    types = _types(compiled, expanded.parameter_expansion)
    parameters = expanded.parameters
    assert isinstance(parameters, Mapping)
    literals = {
        name: _literal(name, value, types.get(name, sa.types.NULLTYPE), expanded.processors.get(name))
        for name, value in parameters.items()
    }
    return str(text % literals).strip().rstrip(";").rstrip()


def _types(compiled: Any, expansion: Mapping[str, list[str]]) -> dict[str, Any]:
    """The type of each parameter by the name that it has in the text; for `IN (…)`, of each of its values."""
    found = {}
    for bind, name in compiled.bind_names.items():
        for part in expansion.get(name, [name]):
            found[part] = bind.type
    return found


def _literal(name: str, value: Any, kind: Any, processor: Any) -> str:
    processor = processor or kind.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    try:
        value = processor(value) if processor is not None else value
        text = _number(value) if isinstance(value, float | Decimal) else sql.Literal(value).as_string().strip()
    except (psycopg.Error, TypeError, ValueError, sa.exc.SQLAlchemyError) as error:
        raise UnstorableResult(
            f"The query has the parameter {name!r} with a {type(value).__name__}, which SQL has no constant for: "
            f"{error}. Give it a type, as in sa.literal(value, JSONB), or write it as text and cast it."
        ) from error
    if isinstance(value, str) and not isinstance(kind, _UNTYPED):
        return f"{text}::{kind.compile(dialect=_DIALECT)}"
    return f"({text})" if text.startswith("-") else text


def _number(value: float | Decimal) -> str:
    """With its type. Without it, the float 0.1 would be a NUMERIC, which has no infinity and no negative zero, and the
    decimal 5 would be an INTEGER."""
    if isinstance(value, Decimal):
        return f"'{value}'::numeric"
    return f"'{float(value)!r}'::float8"


def _unset(query: Any, compiled: Any) -> str:
    names = [bind.key for bind in compiled.bind_names if bind.required and bind.value is None and bind.callable is None]
    name = names[0] if names else "?"
    return (
        f"The query has the parameter {name!r}, which has no value. Give it one, as in "
        f"sa.text(…).bindparams({name}=…). If :{name} is meant as text, write \\:{name}."
    )


def _in_quotes(name: str, quoted: str) -> str:
    shown = quoted.replace("%%", "%")
    return (
        f"The query has the parameter {name!r} inside of a quoted text or a comment, where it cannot stand: {shown}. "
        f"If :{name} is meant as text, write \\:{name}. If not, take it out of the quotes and join the parts with ||."
    )
