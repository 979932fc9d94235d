"""Placeholders in texts of the configuration: `{$NAME}` is an environment variable, `{name}` a value known here.

Messages never contain values: most placeholders are there to keep a password out of the file.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipedag_dagster.config.keys import ARGS, URL, Key
from pipedag_dagster.config.yaml_file import load
from pipedag_dagster.errors import ConfigError, MissingVariable, Problem, did_you_mean

PLACEHOLDER = re.compile(r"\{(\$?)(\w+)\}")
_LOGIN = re.compile(r"[^:/]*://([^/?#]*)@")


class Filler:
    """Fills in the placeholders of one instance, and collects those that have no value."""

    def __init__(self, instance: str, problem: Callable[[Key, str], Problem]) -> None:
        self.problems: list[Problem] = []
        self._instance = instance
        self._problem = problem

    def __call__(self, path: Key, template: str, known: Mapping[str, str] | None = None) -> str:
        """Fill in `{$NAME}` from the environment, and `{name}` from `known`. Without `known`, `{name}` is ordinary
        text."""
        login = _LOGIN.match(template) if path == URL else None

        def value(match: re.Match[str]) -> str:
            dollar, name = match.groups()
            if not dollar and known is None:
                return match[0]
            text = os.environ.get(name) if dollar else (known or {}).get(name)
            if text is None:
                hint = "" if dollar else did_you_mean(name, known or ())
                needed = f"the environment variable {name}: export {name}=…" if dollar else f"a value for {match[0]}."
                self._missing(path, f"needs {needed}{hint}")
            # A password may have any character. In a url, some of them would end the password.
            inside = login is not None and login.start(1) <= match.start() < login.end(1)
            return quote(text or "", safe="") if inside else text or ""

        return PLACEHOLDER.sub(value, template)

    def deep(self, path: Key, value: Any) -> Any:
        """Fill in environment variables in all texts of a nested value."""
        if isinstance(value, dict):
            return {key: self.deep((*path, key), inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.deep((*path, number), inner) for number, inner in enumerate(value)]
        return self(path, value) if isinstance(value, str) else value

    def attributes(self, folder: Path, template: str, known: Mapping[str, str]) -> Mapping[str, str] | None:
        """`known` and the values of the url_attrs_file; None when it cannot be read. Values are never shown."""
        path, before = (*ARGS, "url_attrs_file"), len(self.problems)
        file = folder / Path(self(path, template, known)).expanduser()
        if len(self.problems) > before:
            return None
        try:
            source = load(file, scalars_as_text=True)
        except ConfigError as error:
            mistakes = [problem.line or problem.message for problem in error.problems]
        else:
            mistakes = [problem.line or "" for problem in source.problems]
            mistakes += [source.line((k,)) or "" for k, value in source.data.items() if not isinstance(value, str)]
            if not mistakes:
                return {**source.data, **known}
        for mistake in mistakes:
            text = mistake if isinstance(mistake, str) else f"line {mistake} is not a name and a value in quotes."
            self._missing(path, f"needs {file}, a mapping of names to values: {text}")
        return None

    def _missing(self, path: Key, message: str) -> None:
        self.problems.append(self._problem(path, f"the instance {self._instance!r} {message}"))


def user_name() -> str:
    """The name of the current user, for `{username}` in per_user_template.

    Raises:
        MissingVariable: the user has no name.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        raise MissingVariable("per_user needs the name of the current user: export USER=…") from None
