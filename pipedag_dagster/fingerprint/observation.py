"""What a task does while it runs that its code alone does not tell: code that ran, files and variables that it read.

Everything here is a net under the static walk. It sees Python code of the user (from Python 3.12 on, where watching
costs next to nothing), modules that are imported meanwhile, files that are opened by Python, and environment variables
that code of the user reads. It does not see the network, other databases, or files that a library reads in C.
"""

from __future__ import annotations

import linecache
import os
import pathlib
import sys
import sysconfig
import tempfile
import threading
import tokenize
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from pipedag_dagster.fingerprint.module_origin import in_library


@dataclass(eq=False)
class Observation:
    """What was seen of one task.

    code: the code objects of the user that ran, each with the name of its module; empty before Python 3.12.
    modules: modules of the user that were imported.
    files: the paths that were opened for reading.
    variables: the names of the environment variables that code of the user read.
    """

    code: dict[types.CodeType, str] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)


_current: ContextVar[Observation | None] = ContextVar("observation", default=None)
_active: list[Observation] = []
_lock = threading.RLock()


@contextmanager
def observe() -> Iterator[Observation]:
    """Observe what this thread, and each thread that it starts, does. Several threads may do so at the same time."""
    observation, before = Observation(), set(sys.modules.copy())
    with _lock:
        _active.append(observation)
        _watch_files_and_variables()
        _code_watch.start()
    token = _current.set(observation)
    try:
        yield observation
    finally:
        _current.reset(token)
        with _lock:
            _active.remove(observation)
            _code_watch.stop()
            if not _active:
                os.environ.__class__ = _Environment
        files = {name: getattr(module, "__file__", None) for name, module in sys.modules.copy().items()}
        observation.modules |= {name for name in set(files) - before if _is_users(files[name])}
        observation.files -= observation.written
        if observation.files:  # to resolve the paths of all modules takes 15 ms
            observation.files -= {os.path.realpath(file) for file in files.values() if file}


def _observations() -> list[Observation]:
    """To whom something belongs. A thread that a task has started does not know its task: then to all that run."""
    current = _current.get()
    return list(_active) if current is None else [current]


def _is_users(file: str | None) -> bool:
    return file is not None and not file.startswith("<") and not _in_library(file)


_asking = threading.local()


def _in_library(file: str) -> bool:
    """Whether a file belongs to a library. To know that, files may be opened: these are not the task's."""
    _asking.now = True
    try:
        return in_library(file)
    finally:
        _asking.now = False


# Code


class _CodeWatch:
    """Notes the code of the user that runs, by `sys.monitoring`. Code of libraries is switched off at first sight."""

    def __init__(self) -> None:
        self._tool: int | None = None

    def start(self) -> None:
        if sys.version_info < (3, 12):
            return
        monitoring = sys.monitoring
        if self._tool is None:
            free = (number for number in (4, 3) if monitoring.get_tool(number) is None)
            self._tool = next(free, None)
            if self._tool is None:  # a debugger and a profiler have taken all
                return
            monitoring.use_tool_id(self._tool, "pipedag_dagster")
            monitoring.register_callback(self._tool, monitoring.events.PY_START, self._started)
            monitoring.set_events(self._tool, monitoring.events.PY_START)
        monitoring.restart_events()  # what an earlier task has seen, this one has not

    def stop(self) -> None:
        if sys.version_info < (3, 12) or self._tool is None or _active:
            return
        sys.monitoring.set_events(self._tool, 0)
        sys.monitoring.free_tool_id(self._tool)
        self._tool = None

    def _started(self, code: types.CodeType, offset: int) -> Any:
        if sys.version_info < (3, 12):
            return None
        if not _is_users(code.co_filename):
            return sys.monitoring.DISABLE
        _note(code, sys._getframe(1))
        # Once is enough, unless another task may run the same code.
        return sys.monitoring.DISABLE if len(_active) == 1 else None


def _note(code: types.CodeType, frame: types.FrameType) -> None:
    for observation in _observations():
        observation.code.setdefault(code, str(frame.f_globals.get("__name__")))


_code_watch = _CodeWatch()

# Files and variables

_Environment = type(os.environ)
_audited = False
_IGNORED = tuple(
    os.path.realpath(folder) + os.sep
    for folder in ("/proc", "/sys", "/dev", "/etc", "/usr/share", "/usr/lib", tempfile.gettempdir() + "/pymp-")
)
_COMPILED = (".pyc", ".so", ".pyd", ".pth")


def _watch_files_and_variables() -> None:
    global _audited
    if not _audited:  # an audit hook cannot be taken away: without an observation it does nothing
        _audited = True
        sys.addaudithook(_audit)
    os.environ.__class__ = _WatchedEnvironment


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _active and not getattr(_asking, "now", False):
        path, mode, flags = arguments
        if isinstance(path, str | bytes | os.PathLike):
            _opened(os.fsdecode(path), mode, flags)


def _opened(name: str, mode: str | None, flags: int) -> None:
    path = os.path.realpath(name)
    writes = (mode is not None and set(mode) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR)
    if path.endswith(_COMPILED) or path.startswith(_IGNORED) or _in_library(path) or _is_of_a_user_cache(path):
        return
    if not writes and not pathlib.Path(path).is_file() and not _is_users(sys._getframe(2).f_code.co_filename):
        return  # libraries look for their files in many places
    if _shows_source(sys._getframe(2)):
        return
    for observation in _observations():
        (observation.written if writes else observation.files).add(path)


def _shows_source(frame: types.FrameType | None) -> bool:
    """Whether a file is opened for its source lines: by a traceback, or a profiler such as that of Dask's workers."""
    while frame is not None and frame.f_code.co_filename == tokenize.__file__:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename == linecache.__file__


_CACHES = {".cache", ".config", ".local", "__pycache__", sysconfig.get_platform()}


def _is_of_a_user_cache(path: str) -> bool:
    return not _CACHES.isdisjoint(pathlib.PurePath(path).parts)


class _WatchedEnvironment(_Environment):  # type: ignore[misc, valid-type]
    """`os.environ`, which notes the names that code of the user reads."""

    def __getitem__(self, name: str) -> str:
        if _active and _reader_is_user():
            for observation in _observations():
                observation.variables.add(name)
        # Not super(): another thread may end its observation, and so this class of `os.environ`, right now.
        return str(_Environment.__getitem__(self, name))


_ENVIRONMENT_CODE = (os.__file__, Mapping.get.__code__.co_filename)


def _reader_is_user() -> bool:
    """Whether it is code of the user that asks, through `os.getenv` and the like or not."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename in _ENVIRONMENT_CODE:
        frame = frame.f_back
    return frame is not None and _is_users(frame.f_code.co_filename)
