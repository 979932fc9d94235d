"""The coarse rule: all that a module can reach counts, where the walk from name to name does not know the way.

That is the text of the module, of the other modules of its package, and of all modules of the user that these import,
wherever in them the import stands. The walk adds the values of the constants of the modules that are loaded.
"""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pipedag_dagster.digest import digest
from pipedag_dagster.fingerprint.import_statement import imported_names
from pipedag_dagster.fingerprint.module_origin import UserCode

_INIT = "__init__.py"


@dataclass(frozen=True)
class ModuleFile:
    """A file of the user's code. `name` is that of the module, `imports` names all that it may import."""

    name: str
    text: str
    imports: frozenset[str]


_files: dict[tuple[str, str], tuple[tuple[int, int], ModuleFile]] = {}


def whole_module(name: str, user_code: UserCode) -> str:
    """A digest of the text of everything that a module of the user can reach."""
    files = reachable_files(name, user_code)
    return digest("whole module", *(digest(_without_main(one.name, name), one.text) for one in files))


def reachable_files(name: str, user_code: UserCode) -> list[ModuleFile]:
    """The files of everything that a module can reach, in the order of their names."""
    found: dict[str, ModuleFile] = {}
    units: set[str] = set()
    todo = [name]
    while todo:
        unit = _unit(todo.pop())
        if unit in units:
            continue
        units.add(unit)
        for file in _unit_files(unit, beside=unit == _unit(name)):
            if file.name not in found:
                found[file.name] = file
                todo += [one for one in sorted(file.imports) if one and not user_code.is_library_module(one)]
    return [found[key] for key in sorted(found)]


def _unit(name: str) -> str:
    """What counts together: a package with everything in it, or one module."""
    return name.partition(".")[0]


def _unit_files(unit: str, *, beside: bool) -> Iterator[ModuleFile]:
    """The files of a package, or of a single module. `beside`: also the modules in the same folder as a single module,
    which may be loaded by their names."""
    for location in _locations(unit):
        if location.is_dir():
            for path in sorted(location.rglob("*.py")):
                words = [unit, *path.relative_to(location).with_suffix("").parts]
                yield from _read(path, ".".join(words).removesuffix(".__init__"))
        else:
            yield from _read(location, unit)
            for path in sorted(location.parent.glob("*.py")) if beside else ():
                if path != location:
                    yield from _read(path, path.stem)


def _locations(unit: str) -> list[pathlib.Path]:
    module = sys.modules.get(unit)
    names = {} if module is None else vars(module)
    folders, file = list(names.get("__path__") or []), names.get("__file__")
    if module is None:
        try:
            spec = importlib.util.find_spec(unit)
        except (ImportError, ValueError):
            return []
        folders = list(spec.submodule_search_locations or []) if spec else []
        file = spec.origin if spec and spec.has_location else None
    return [pathlib.Path(one) for one in folders or [file] if one]


def _read(path: pathlib.Path, name: str) -> Iterator[ModuleFile]:
    """The file, when it can be read. It is read again only when it has changed."""
    try:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        known = _files.get((str(path), name))
        if known is None or known[0] != stamp:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            package = name if path.name == _INIT else name.rpartition(".")[0]
            known = _files[(str(path), name)] = (stamp, ModuleFile(name, text, _imports(text, package)))
    except OSError:
        return
    yield known[1]


def _imports(text: str, package: str) -> frozenset[str]:
    try:
        return frozenset(imported_names(ast.parse(text), package))
    except (SyntaxError, ValueError):
        return frozenset()


def _without_main(name: str, main: str) -> str:
    """The module that was asked for may be `__main__` in one process and have a name in another."""
    return "" if name == main else name
