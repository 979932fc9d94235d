"""The parts of an SQL condition (see `sql_condition`), found with sqlglot."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of what it does not fully understand

_KEYWORDS = re.compile(
    "current_(date|time|timestamp|user|role|catalog|schema)|localtime|localtimestamp|session_user|system_user|user"
)
"""Reserved words that are functions without parentheses: a column of this name would be in quotes."""
_FUNCTIONS = re.compile(
    "now|random|random_normal|(clock|statement|transaction)_timestamp|timeofday|age|gen_random_uuid|gen_random_bytes|"
    "gen_salt|uuidv4|uuidv7|uuid_generate_.*|nextval|currval|lastval|setval|setseed|current_.*|set_config|version|"
    "(icu_)?unicode_version|getdatabaseencoding|inet_(client|server)_.*|txid_.*|pg_.*|lo_.*|dblink.*|to_reg.*|"
    "(col|obj|shobj)_description|has_.*_privilege|row_security_active|(query|table|cursor)_to_xml.*"
)
"""Functions whose results depend on the time, the session, the database or chance."""
_MOMENTS = frozenset({"now", "today", "tomorrow", "yesterday"})
"""Texts that PostgreSQL reads as a date or a time that changes."""
_ONE_ROW = "whether a row is meant depends on this row alone."
_REFUSED: tuple[tuple[type, str], ...] = (
    (exp.Query, f"a condition has no subquery: {_ONE_ROW}"),
    (exp.Exists, f"a condition has no subquery: {_ONE_ROW}"),
    (exp.AggFunc, f"a condition has no aggregate: {_ONE_ROW}"),
    (exp.Window, f"a condition has no window function: {_ONE_ROW}"),
    (exp.Placeholder, "a condition has no parameters. Write the value."),
    (exp.Parameter, "a condition has no parameters. Write the value."),
    (exp.Star, "a condition has no *. Name the columns."),
)


def parse(text: str) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
    """Columns, functions and conjuncts of a condition.

    Raises:
        ValueError: it is not a condition on the columns of one row, or its answer is not always the same.
    """
    try:
        tokens = list(sqlglot.tokenize(text, dialect="postgres"))
        tree = sqlglot.condition(text, dialect="postgres")
    except SqlglotError:
        raise ValueError(f"{text!r} is not a condition in SQL. Write one like \"kind = 'post'\".") from None
    if any(token.comments for token in tokens):
        raise ValueError("a condition has no comments. Write them above it, after #.")
    for word in _changing(tokens):
        raise ValueError(
            f"{word} has another result every time, so the chosen rows would change by themselves. Write a constant."
        )
    for node in tree.walk():
        for refused, sentence in _REFUSED:
            if isinstance(node, refused):
                raise ValueError(sentence)
        if isinstance(node, exp.Column) and node.table:
            raise ValueError(f"write {node.name} without its table: a condition is about the rows of one table.")
    columns = dict.fromkeys(_folded(column) for column in tree.find_all(exp.Column))
    functions = dict.fromkeys(call.name.lower() for call in tree.find_all(exp.Anonymous))
    for identifier in tree.find_all(exp.Identifier):  # names that PostgreSQL reads alike are written alike
        identifier.set("this", identifier.name if identifier.args.get("quoted") else identifier.name.lower())
        identifier.set("quoted", True)
    whole = tree.unnest()
    parts = whole.flatten() if isinstance(whole, exp.And) else (whole,)
    return tuple(columns), tuple(functions), frozenset(part.unnest().sql("postgres") for part in parts)


def _changing(tokens: list[Token]) -> Iterator[str]:
    """The words whose value is not always the same."""
    for number, token in enumerate(tokens):
        word = token.text.lower()
        called = number + 1 < len(tokens) and tokens[number + 1].token_type is TokenType.L_PAREN
        if token.token_type is TokenType.STRING:
            around = tokens[max(number - 1, 0) : number] + tokens[number + 1 : number + 3]
            cast = any(other.text.lower().startswith(("date", "time")) for other in around)
            if word.strip() in _MOMENTS and cast:
                yield repr(token.text)
        elif token.token_type is not TokenType.IDENTIFIER:  # that is a name in quotes
            if called and _FUNCTIONS.fullmatch(word):
                yield f"{word}()"
            elif _KEYWORDS.fullmatch(word):
                yield word


def _folded(column: exp.Column) -> str:
    """The name of a column as PostgreSQL reads it."""
    return column.name if column.this.args.get("quoted") else column.name.lower()
