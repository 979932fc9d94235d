"""What `import` and `from … import …` bind, and the modules that they mean."""

from __future__ import annotations

import ast
import importlib
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipedag_dagster.fingerprint.module_origin import UserCode


@dataclass(frozen=True)
class Import:
    """`from module import name as …`, or `import module` (without a name). `level` counts leading dots.

    loads: the module that the statement loads: `import a.b` binds `a` and loads `a.b`.
    """

    module: str
    name: str | None
    level: int = 0
    loads: str = ""


def imports(statement: ast.Import | ast.ImportFrom) -> dict[str, Import]:
    """The names that a statement binds. `*` is not a name: see `stars`."""
    if isinstance(statement, ast.ImportFrom):
        origin, level = statement.module or "", statement.level
        return {one.asname or one.name: Import(origin, one.name, level) for one in statement.names if one.name != "*"}
    bound = {}
    for one in statement.names:
        top = one.name.partition(".")[0]
        bound[one.asname or top] = Import(one.name if one.asname else top, None, loads=one.name)
    return bound


def stars(statement: ast.Import | ast.ImportFrom) -> list[Import]:
    """The modules that a statement takes all names of."""
    if isinstance(statement, ast.Import):
        return []
    return [Import(statement.module or "", "*", statement.level) for one in statement.names if one.name == "*"]


def package_of(namespace: Mapping[str, Any]) -> str:
    """The package that relative imports in a module start from."""
    return namespace.get("__package__") or str(namespace.get("__name__", "")).rpartition(".")[0]


def imported(what: Import, namespace: Mapping[str, Any], user_code: UserCode) -> types.ModuleType | None:
    """The module that an import statement in `namespace` means. A module of the user is imported now, as the code would
    do anyway; a library only when it is loaded already. None when it cannot be imported."""
    if what.loads and what.loads != what.module:
        load(what.loads, "", user_code)
    return load(f"{'.' * what.level}{what.module}", package_of(namespace), user_code)


def load(name: str, package: str, user_code: UserCode) -> types.ModuleType | None:
    """A module by its name: the loaded one, or one of the user that is imported now."""
    loaded = sys.modules.get(name)
    if loaded is not None or (name[:1] != "." and user_code.is_library_module(name)):
        return loaded
    try:
        return importlib.import_module(name, package or None)
    except Exception:  # code of users may raise anything while it is imported
        return None


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """The full names of all modules that the import statements in a tree may load, wherever they are in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join(filter(None, [*base, node.module or ""]))
            yield origin
            yield from (f"{origin}.{one.name}" for one in node.names if one.name != "*")
