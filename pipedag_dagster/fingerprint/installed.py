"""Which installed distributions a module may belong to, and which of them are the user's."""

from __future__ import annotations

import functools
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from importlib import metadata

OURS = "pipedag_dagster"


@functools.cache
def owners(top: str) -> tuple[str, ...]:
    """The names of the installed distributions that have modules in a package, or as a module, of this name.

    Example:
        >>> owners("yaml")
        ('PyYAML',)
    """
    return tuple(dict.fromkeys(distribution.metadata["Name"] for distribution in _owners().get(top, ())))


@functools.cache
def _owners() -> Mapping[str, list[metadata.Distribution]]:
    """What `metadata.packages_distributions()` finds, in a fifth of the time: each process waits for it. That one makes
    a path of each installed file, and reads the description of each distribution."""
    found: dict[str, list[metadata.Distribution]] = defaultdict(list)
    for distribution in metadata.distributions():
        files = distribution.read_text("RECORD")
        if files is None:  # not installed by pip
            files = "\n".join(map(str, distribution.files or ()))
        tops = {line.partition("/")[0] for line in files.splitlines()}
        for name in {top.partition(".")[0] for top in tops}:  # of a single module, without ".py,sha256=…"
            found[name].append(distribution)
    return found


@functools.cache
def is_users_distribution(top: str, name: str) -> bool:
    """Whether the distribution of an installed module is the user's.

    Args:
        top: the first part of the name.
        name: of the module.
    """
    distributions = list(owners(top))
    if len(distributions) > 1:  # several distributions share a namespace
        path = name.replace(".", "/")
        distributions = [one for one in distributions if _has_file(one, path)] or distributions
    return any(_is_from_a_folder(one) or _needs_us(one) for one in distributions)


@functools.cache
def _has_file(distribution: str, path: str) -> bool:
    files = {str(file) for file in metadata.distribution(distribution).files or ()}
    return f"{path}.py" in files or f"{path}/__init__.py" in files


@functools.cache
def _is_from_a_folder(distribution: str) -> bool:
    """Whether a distribution was installed with `pip install ./folder`."""
    text = metadata.distribution(distribution).read_text("direct_url.json")
    return text is not None and "dir_info" in json.loads(text)


@functools.cache
def _needs_us(distribution: str) -> bool:
    names = (re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in metadata.distribution(distribution).requires or ())
    return any(re.sub(r"[-_.]+", "_", name).lower() == OURS for name in names)


def forget() -> None:
    """Look again at what is installed, when somebody asks. For tests."""
    for function in (owners, _owners, is_users_distribution, _has_file, _is_from_a_folder, _needs_us):
        function.cache_clear()
