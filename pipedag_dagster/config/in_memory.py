"""Configurations that a program gives as a dict, and not as a file. They are known in this process only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipedag_dagster.digest import digest

_given: dict[Path, Mapping[str, Any]] = {}


def add(data: Mapping[str, Any]) -> Path:
    """Remember a configuration. Returns the path that stands for it: equal ones have the same."""
    path = Path.cwd() / f"<configuration {digest(json.dumps(data, sort_keys=True, default=repr))[:8]}>"
    _given[path] = data
    return path


def get(path: Path) -> Mapping[str, Any] | None:
    """The configuration that a path stands for; None if it is a real path."""
    return _given.get(path)
