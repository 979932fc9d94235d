"""Where code comes from: from Python, from a library or from the user."""

from __future__ import annotations

import importlib.util
import linecache
import os
import pathlib
import sys
import sysconfig
import types
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pipedag_dagster.fingerprint.installed import OURS, is_users_distribution

_STANDARD = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
_PYTHON = tuple({f"{folder}{os.sep}" for path in _STANDARD for folder in (path, os.path.realpath(path))})
_INSTALLED = {"site-packages", "dist-packages"}
_HEAP = 1 << 9  # in the flags of a class: it was made by Python code
_PACKAGE = f"{pathlib.Path(__file__).parent.parent}{os.sep}"
_EXAMPLES = f"{_PACKAGE}examples{os.sep}"


class UserCode:
    """Tells the user's modules from libraries.

    Code outside of `site-packages` is the user's, but for Python itself. An installed package is the user's when

    - its distribution says that it needs pipedag-dagster, or one of its loaded modules uses it,
    - or it was installed from a folder on this machine, as the packages of a workspace are,
    - or its name is given.

    Args:
        modules: names of further packages or modules, as in `user_modules:` in the YAML: "acme", "acme.rules".
    """

    def __init__(self, modules: Iterable[str] = ()) -> None:
        self.modules = frozenset(modules)
        self._files: dict[str, bool] = {}

    def in_library(self, file: str | None) -> bool:
        """Whether a file belongs to Python or to a library."""
        if file is None:
            return False
        if file not in self._files:
            is_library = self._in_library(file)
            if not is_library or not _is_installed(file):
                self._files[file] = is_library
            return is_library  # that an installed module uses us may be known only when more of it is loaded
        return self._files[file]

    def _in_library(self, file: str) -> bool:
        if file.startswith("<frozen"):
            return True
        if file.startswith(_PACKAGE):
            return not file.startswith(_EXAMPLES)
        if _is_installed(file):
            parts = pathlib.PurePath(file).parts
            last = max(number for number, part in enumerate(parts) if part in _INSTALLED)
            name = ".".join(parts[last + 1 :]).removesuffix(".py").removesuffix(".__init__")
            return not self._is_users_package(name)
        return file.startswith(_PYTHON)

    def _is_users_package(self, name: str) -> bool:
        if any(name == one or name.startswith(f"{one}.") for one in self.modules):
            return True
        top = name.partition(".")[0]
        return top != OURS and (is_users_distribution(top, name) or _uses_us(top))

    def is_library_module(self, name: str | None) -> bool:
        """Whether a module belongs to Python or to a library."""
        if not name or name == "__main__":
            return False
        top = name.partition(".")[0]
        module = sys.modules.get(name)
        file = getattr(module, "__dict__", {}).get("__file__")
        if module is None:
            try:
                spec = importlib.util.find_spec(top)
            except (ImportError, ValueError):
                spec = None
            file = spec.origin if spec and spec.has_location else None
        # By file first: the user may have a module that is named like one of Python.
        return self.in_library(file) if file else top in sys.stdlib_module_names or top == "builtins"

    def is_library(self, kind: type) -> bool:
        """Whether a class belongs to Python or to a library."""
        name = kind.__module__
        if name == "types" and kind.__flags__ & _HEAP and kind not in vars(types).values():
            return False  # of make_dataclass()
        return not isinstance(name, str) or name.startswith("_cython") or self.is_library_module(name)


_default = UserCode()


def default_user_code() -> UserCode:
    """What counts as the user's code in this process."""
    return _default


def add_user_modules(names: Iterable[str]) -> None:
    """Modules that count as the user's code in this process, although they are installed: `user_modules:` in the
    YAML of an instance."""
    global _default
    if not _default.modules.issuperset(names):
        _default = UserCode(_default.modules.union(names))


def in_library(file: str | None) -> bool:
    """Whether a file belongs to Python or to a library."""
    return _default.in_library(file)


def forget_user_modules() -> None:
    """Let the modules of the user be imported again, from their files as they are now."""
    for name, module in sys.modules.copy().items():
        file = getattr(module, "__file__", None)
        if file is not None and name != "__main__" and not in_library(file):
            del sys.modules[name]
    importlib.invalidate_caches()
    linecache.checkcache()


def _is_installed(file: str) -> bool:
    return not _INSTALLED.isdisjoint(pathlib.PurePath(file).parts)


_known_use: dict[str, tuple[int, int, bool]] = {}  # of a package: how many modules were loaded, of it, and the answer


def _uses_us(top: str) -> bool:
    """Whether a loaded module of a package has imported something of pipedag_dagster."""
    all_loaded, loaded, uses = _known_use.get(top, (0, 0, False))
    if not uses and all_loaded != len(sys.modules):
        modules = [module for name, module in sys.modules.copy().items() if name == top or name.startswith(f"{top}.")]
        if len(modules) != loaded:
            uses = _holds_ours(value for module in modules for value in list(getattr(module, "__dict__", {}).values()))
        _known_use[top] = (len(sys.modules), len(modules), uses)
    return uses


def _holds_ours(values: Iterable[Any]) -> bool:
    """Whether one of these values, which may be very many, is ours: a module, a class, a function or another object."""
    by_kind: dict[type, list[Any]] = defaultdict(list)
    for value in values:
        by_kind[type(value)].append(value)
    names: set[Any] = {kind.__module__ for kind in by_kind}
    for kind, same in by_kind.items():
        if issubclass(kind, types.ModuleType):
            names.update(module.__name__ for module in same)
        elif issubclass(kind, type | types.FunctionType):
            names.update(value.__module__ for value in same)
    return any(isinstance(name, str) and (name == OURS or name.startswith(f"{OURS}.")) for name in names)


def public_name(kind: type) -> str:
    """The name that a class has in the shortest module that offers it: `pandas.DataFrame`, whatever module of pandas it
    lies in."""
    words = (kind.__module__ or "").split(".")
    for count in range(1, len(words) + 1):
        module = sys.modules.get(".".join(words[:count]))
        if getattr(module, kind.__name__, None) is kind:
            return f"{'.'.join(words[:count])}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def origins(names: tuple[str, ...], namespace: Mapping[str, Any], user_code: UserCode) -> set[str]:
    """The libraries behind names in annotations."""
    found = set()
    for name in names:
        value = namespace.get(name)
        origin = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        if origin and user_code.is_library_module(origin):
            found.add(origin.partition(".")[0])
    return found


def folder(file: str | None) -> str | None:
    return os.path.dirname(os.path.abspath(file)) if file and file[0] != "<" else None  # noqa: PTH100, PTH120
