"""The tokens of an SQL text: enough to tell code from constants and comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]*)
    | (?P<constant> [eE]'(?:[^'\\]|\\.|'')*' | (?:[uU]&|[bBxXnN])?'(?:[^']|'')*'
        | \$(?P<tag>[^\W\d]\w*|)\$.*?\$(?P=tag)\$)
    | (?P<name> (?:[uU]&)?"(?:[^"]|"")*")
    | (?P<word> [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
    | (?P<number> \d[\w.]*)
    | (?P<space> \s+)
    | (?P<symbol> .)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


@dataclass(frozen=True)
class Token:
    """A piece of an SQL text.

    Attributes:
        kind: comment, constant (quoted by ' or $), name (quoted by "), word, number, space, or symbol.
        depth: how many parentheses are open around it.
    """

    kind: str
    text: str
    start: int
    depth: int

    @property
    def is_code(self) -> bool:
        return self.kind not in ("comment", "space")

    def is_word(self, word: str) -> bool:
        return self.kind == "word" and self.text.upper() == word


def tokens(sql: str) -> Iterator[Token]:
    """All tokens of a text, in order: joined, they are the text again.

    >>> [token.text for token in tokens("SELECT ':a'")]
    ['SELECT', ' ', "':a'"]
    """
    position = depth = 0
    while position < len(sql):
        if sql.startswith("/*", position):
            end, kind = _end_of_comment(sql, position), "comment"
        else:
            match = _TOKEN.match(sql, position)
            assert match is not None  # a symbol is any character
            end, kind = match.end(), next(name for name in _KINDS if match[name] is not None)
        text = sql[position:end]
        depth -= text == ")"
        yield Token(kind, text, position, depth)
        depth += text == "("
        position = end


_KINDS = ("comment", "constant", "name", "word", "number", "space", "symbol")


def _end_of_comment(sql: str, start: int) -> int:
    """Where a comment ends: PostgreSQL's comments can be nested."""
    open_comments, position = 1, start + 2
    while open_comments:
        edge = _COMMENT_EDGE.search(sql, position)
        if edge is None:
            return len(sql)
        open_comments += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return position


def without_last_semicolon(sql: str) -> str:
    """A statement without the semicolon at its end, and without the comments after that."""
    code = [token for token in tokens(sql) if token.is_code]
    while code and code[-1].text == ";":
        code.pop()
    return sql[: code[-1].start + len(code[-1].text)].strip() if code else ""
