"""The text of code and queries, for people: kept to show later what has changed.

Who may read the catalog can read it. So what looks like a secret is masked, and no value is shown that is not written
in the code itself.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipedag_dagster.digest import digest

_SHOWN = 3  # names of what has changed
_CONSTANTS = "constants"
_MASK = "'***'"
_SECRETS = re.compile(
    r"""(?P<before>\b\w*(?:passw|pwd|secret|token|api_?key|credential)\w*["']?\s*(?::[^=\n'"]*)?[=:,]\s*)[rbfRBF]*"""
    r"""(?P<quoted>"{3}[\s\S]*?"{3}|'{3}[\s\S]*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""",
    re.IGNORECASE,
)
_IN_URL = re.compile(r"(://[^\s:/@'\"{}]*:)[^\s/@'\"{}]+@")


@dataclass(frozen=True)
class CodePart:
    """One function, class, constant, or the query. `version` is a hash of what counts of it.

    kind: "function", "class", "constant", "query"; "module" for one that counts as a whole.
    """

    kind: str
    module: str
    name: str
    text: str
    version: str

    @property
    def short(self) -> str:
        """How a sentence names it: `helper()`, `LIMIT`."""
        name = self.name.rpartition("<locals>.")[2]
        if self.kind == "module":
            return f"module {self.module or self.name}"
        return f"{name}()" if self.kind == "function" else name


@dataclass(frozen=True)
class CodeText:
    """What is kept of the code of a task, and of the queries that it built: its own function first."""

    parts: tuple[CodePart, ...] = ()

    @property
    def key(self) -> str:
        return digest(*(field for part in self.parts for field in vars(part).values()))

    def __str__(self) -> str:
        first, *others = _blocks(self.parts)
        blocks = [first[1], *(f"# {name}\n{text}" if name != _CONSTANTS else text for name, text in others if text)]
        return "\n\n".join(filter(None, blocks)) + "\n"

    def without_text(self) -> CodeText:
        """The names alone: enough to say what has changed."""
        return CodeText(tuple(replace(part, text="") for part in self.parts))


def code_part(kind: str, label: str, text: str, version: str) -> CodePart:
    """A part of the module that its label begins with. What looks like a secret in its text is masked."""
    words = label.split(".")
    modules = (".".join(words[:count]) for count in range(len(words) - 1, 0, -1))
    module = next((name for name in modules if name in sys.modules), "")
    return CodePart(kind, module, label.removeprefix(f"{module}."), masked(text), version)


def masked(text: str) -> str:
    """`text` without what is written beside a name like password, token or secret, and without passwords in urls.

    >>> masked("login(password='hush', user='me')")
    "login(password='***', user='me')"
    >>> masked("postgresql://me:hush@host/db")
    'postgresql://me:***@host/db'
    """
    return _IN_URL.sub(r"\1***@", _SECRETS.sub(lambda found: found["before"] + _MASK, text))


def changed(
    old: CodeText, new: CodeText, kinds: Iterable[str] = ("function", "class", "constant", "module")
) -> list[str]:
    """The names of the parts that count as another version, for a sentence; at most a few."""
    before, after = ({(one.module, one.name): one for one in text.parts if one.kind in kinds} for text in (old, new))
    versions = {key: (before.get(key), after.get(key)) for key in {**after, **before}}
    different = [(two or one) for one, two in versions.values() if (one and one.version) != (two and two.version)]
    names = list(dict.fromkeys(one.short for one in different if one is not None))
    return names if len(names) <= _SHOWN else [*names[:_SHOWN], f"{len(names) - _SHOWN} more"]


def difference(old: CodeText, new: CodeText) -> str:
    """A unified diff of what differs in the texts, part by part; empty when nothing that was kept differs."""
    before, after = dict(_blocks(old.parts)), dict(_blocks(new.parts))
    lines: list[str] = []
    for name in {**before, **after}:
        one, two = before.get(name, "").splitlines(), after.get(name, "").splitlines()
        lines += difflib.unified_diff(one, two, name, name, lineterm="")
    return "\n".join(lines)


def _blocks(parts: tuple[CodePart, ...]) -> Iterator[tuple[str, str]]:
    """The parts as they are shown, by name: constants together, at the end."""
    constants = []
    for one in parts:
        label = f"{one.module}.{one.name}" if one.module else one.name
        if one.kind == "constant":
            constants += [f"{label} = {one.text}"] if one.text else []
        else:
            yield label, one.text
    yield _CONSTANTS, "\n".join(constants)
