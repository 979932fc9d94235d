"""The SQL text of a query that SQLAlchemy has built, with its parameters written as constants.

The text is what SQLAlchemy's psycopg dialect would send. Each constant has the value and the type that psycopg would
send for its parameter. SQLAlchemy's own `literal_binds` is not enough: it writes dates and UUIDs without their types,
NULL for a parameter that has no value, and knows no constants for NaN, bytes, JSON and arrays.
"""

# mypy: disable-error-code="no-untyped-call"
# SQLAlchemy's dialects have no type annotations.

from __future__ import annotations

import copy
import re
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import HSTORE, psycopg
from sqlalchemy.sql import operators

from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.postgres import literals, sql_lexer

_QUERY_WORDS = ("SELECT", "WITH", "VALUES", "TABLE")
_PARAMETER = re.compile(r"(?<![:\w$\\]):(\w+)(?![:\w$])")  # what SQLAlchemy takes for one in sa.text(…)

_UNTYPED = (sa.types.NullType, sa.types.String, sa.types.TupleType, sa.JSON.JSONElementType)


def render(query: Any, what: str = "The query") -> str:
    """The SQL text of a query, with its parameters written as constants: executed, it gives the rows and the types of
    columns that SQLAlchemy would get.

    Args:
        query: anything of SQLAlchemy's that selects rows, or `sa.text(…)`.
        what: the name of the result, for errors.

    Raises:
        UnstorableResult: a parameter has no value or no SQL form, or it is not one query.

    >>> import datetime
    >>> render(sa.select(sa.literal(datetime.date(2024, 1, 31)).label("as_of")))
    "SELECT '2024-01-31'::DATE AS as_of"
    """
    if isinstance(query, sa.FromClause) and not isinstance(query, sa.Select):
        query = sa.select(query)
    try:
        text = str(query.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))
        return _one_query(text)
    except UnstorableResult as error:
        raise UnstorableResult(f"{what}: {error}") from error
    except (sa.exc.SQLAlchemyError, NotImplementedError) as error:
        raise UnstorableResult(f"{what} cannot be written as SQL: {error}") from error


def is_ordered(query: str) -> bool:
    """Whether the outermost level of a query has an ORDER BY.

    >>> is_ordered("SELECT * FROM (SELECT 1 ORDER BY 1) AS q")
    False
    """
    words = [token for token in sql_lexer.tokens(query) if token.is_code]
    while words and words[0].text == "(" and words[-1].text == ")" and _closes(words):
        words = words[1:-1]
    level = words[0].depth if words else 0
    outer = [token for token in words if token.depth == level]
    return any(first.is_word("ORDER") and second.is_word("BY") for first, second in pairwise(outer))


def _closes(words: list[sql_lexer.Token]) -> bool:
    """Whether the first parenthesis is closed by the last one."""
    return all(token.depth > words[0].depth for token in words[1:-1])


_PLAIN_QUERY = re.compile(
    rf"[\s(]*(?:{'|'.join(_QUERY_WORDS)})(?![\w$]|[^\x00-\x7f])(?:(?!;|--|/\*).)*", re.DOTALL | re.I
)


def _one_query(text: str) -> str:
    if _PLAIN_QUERY.fullmatch(text):  # nothing in it could be another statement, or a comment
        return text.strip()
    text = sql_lexer.without_last_semicolon(text)
    code = [token for token in sql_lexer.tokens(text) if token.is_code]
    if any(token.text == ";" for token in code):
        raise UnstorableResult(
            f"a query must be one statement, and this is several statements. Return RawSql(…) for a script.\n{text}"
        )
    first = next((token for token in code if token.text != "("), None)
    if first is None or not any(first.is_word(word) for word in _QUERY_WORDS):
        begins = "is empty" if first is None else f"begins with {first.text}"
        raise UnstorableResult(
            f"it {begins}, and so is not a query. Return a SELECT (or WITH, VALUES, TABLE), or RawSql(…) for any other "
            f"statement.\n{text}"
        )
    return text


_READ = (sa.types.NullType, sa.types.String, sa.JSON)
"""Types that a text is compared with as a text. PostgreSQL reads it as any other type: a date, a number, a UUID."""


def _parts(side: Any) -> list[Any]:
    """The operands on one side of a comparison. BETWEEN has two."""
    return [side, *(() if isinstance(side, sa.FunctionElement) else getattr(side, "clauses", ()))]


class _Compiler(psycopg.PGCompiler_psycopg):
    """SQLAlchemy's compiler for psycopg, with constants in the places of its parameters."""

    _casts = False
    _reads_text = False
    _untyped: frozenset[int] = frozenset()

    def visit_binary(self, binary: Any, *args: Any, **options: Any) -> str:
        if operators.is_comparison(binary.operator):
            sides = ((binary.left, binary.right.type), (binary.right, binary.left.type))
            read = [side for side, other in sides if not isinstance(other, _READ)]
            self._untyped |= {id(part) for side in read for part in _parts(side)}
        return str(super().visit_binary(binary, *args, **options))

    def visit_bindparam(self, bindparam: Any, *args: Any, **options: Any) -> str:
        # Functions like aggregate_strings() do not pass the option on to their arguments in SQLAlchemy 2.0.
        return str(super().visit_bindparam(bindparam, *args, **options | {"literal_binds": True}))

    def visit_textclause(self, textclause: Any, *args: Any, **options: Any) -> str:
        clause = _without_parameters_in_constants(textclause)
        return str(super().visit_textclause(clause, *args, **options))

    def render_literal_bindparam(self, bindparam: Any, *args: Any, **options: Any) -> str:
        unset = bindparam.value is None and bindparam.callable is None
        if unset and bindparam.required and not args and "render_literal_value" not in options:
            raise UnstorableResult(
                f"the parameter :{bindparam.key} has no value. Write .bindparams({bindparam.key}=…); or \\:"
                f"{bindparam.key}, if this is no parameter."
            )
        self._casts, self._reads_text = True, id(bindparam) in self._untyped
        try:
            if unset and not bindparam.expanding:
                return self.render_literal_value(None, bindparam.type)
            return str(super().render_literal_bindparam(bindparam, *args, **options))
        finally:
            self._casts = False

    def render_literal_value(self, value: Any, type_: Any) -> str:
        """A value of a parameter, cast as psycopg's dialect casts parameters; or a part of SQLAlchemy's own syntax."""
        if not self._casts:
            return literals.quoted(str(value))
        kind = type_.dialect_impl(self.dialect)
        process = kind.bind_processor(self.dialect)
        value = process(value) if process else value
        while isinstance(kind, sa.TypeDecorator):
            kind = kind.impl_instance
        if isinstance(kind, HSTORE) and isinstance(value, dict):
            value = HSTORE().bind_processor(self.dialect)(value)
        if self._reads_text and type(value) is str and isinstance(kind, sa.types.String):
            return literals.quoted(value)
        # Without a type, PostgreSQL would store a NULL or a text as text, whatever the type of the parameter is.
        typed = kind.render_bind_cast or ((value is None or type(value) is str) and not isinstance(kind, _UNTYPED))
        return literals.constant(value, self.render_bind_cast(type_, kind, "").removeprefix("::") if typed else None)


def _without_parameters_in_constants(clause: Any) -> Any:
    """The same text, in which a colon in a constant, a quoted name or a comment is a colon.

    Raises:
        UnstorableResult: a parameter has a value, but stands only where it is a text.
    """
    parts = list(sql_lexer.tokens(clause.text))
    quoted = [token for token in parts if token.kind in ("constant", "name", "comment")]
    named = {name for token in quoted for name in _PARAMETER.findall(token.text)}
    if not named:
        return clause
    code = "".join(" " if token in quoted else token.text for token in parts)
    for parameter in clause.get_children():
        key, given = getattr(parameter, "key", None), not getattr(parameter, "required", True)
        if given and key in named and key not in _PARAMETER.findall(code):
            raise UnstorableResult(
                f"the parameter :{key} has a value, but is written inside quotes or a comment, where it is not "
                f"replaced. Write :{key} without quotes."
            )
    changed = copy.copy(clause)
    changed.text = "".join(_PARAMETER.sub(r"\\:\1", token.text) if token in quoted else token.text for token in parts)
    return changed


# `named` leaves a % in a text alone, where the driver's own style would double it.
_DIALECT = psycopg.dialect(paramstyle="named")
_DIALECT.statement_compiler = _Compiler
