"""Every error that this package raises on purpose.

There is one class for each thing that a user can do about an error. The message names the object, what is wrong and
what to type next. A docstring here is the remedy in one line::

    PipedagError
    ├── ConfigError             fix the YAML file (every mistake is listed, with file and line)
    │   ├── NoInstance          write `with instance:` around it (a LookupError, too)
    │   ├── NoConfig            write a configuration, or say where it is
    │   ├── UnknownInstance     choose an instance that exists (an AttributeError, too)
    │   ├── UnknownAttr         fix the name of the key of `attrs` (an AttributeError and a KeyError, too)
    │   ├── FrozenAttrs         choose other attrs by with_attrs (a TypeError and an AttributeError, too)
    │   └── MissingVariable     set the environment variable, or write the attribute file
    ├── WiringError             fix the flow: names, cycles, the way tasks are called
    │   ├── UnknownOption       fix the name of the option (a TypeError, too)
    │   ├── WrongCall           fix the arguments of the call of a task (a TypeError, too)
    │   ├── UnknownName         fix the name of the stage, task or output (a KeyError, too)
    │   ├── NotHere             write what the message says instead (an AttributeError, too)
    │   ├── NoTask              call it inside of a task (a LookupError, too)
    │   └── InvalidName         choose another name for a stage or table
    ├── DatabaseError           look at the database
    │   ├── DatabaseUnreachable start it, or fix host and port
    │   ├── ConnectionLost      run it again: finished tasks are not repeated
    │   ├── DiskFull            make room, and run it again
    │   ├── LoginRefused        fix user name and password
    │   ├── TooManyConnections  lower max_concurrent, or raise max_connections
    │   ├── TimedOut            raise the limit that the message names
    │   ├── ReadOnlyServer      connect to the primary server
    │   ├── PoolerRefused       connect directly, or set pool_mode = session
    │   └── DatabaseMissing     create the database, or set create_database_if_not_exists
    ├── NotOwned                the schema belongs to somebody else: change schema_prefix
    ├── WorkerLost              look at the workers (`tasks:` in the YAML)
    ├── RunActive               wait for the run, or stop it
    ├── InUse                   other objects depend on it: remove them first
    ├── PinLost                 start a new run
    ├── NotMaterialized         run the stage that makes the table
    ├── SampleError             change the rules under `sample:`
    ├── SampleSplit             run the source: what belongs together is not of one state
    ├── FreshInput              the source changed, and the mode of the run does not allow that
    ├── SeveralFailed           several tasks failed (fail_fast: false); each one is listed
    ├── ChecksFailed            fix the rows in the message: the stage was not committed
    ├── TaskFailed              fix the task
    │   └── UnstorableResult    return something that a table can hold
    ├── NotComparable           choose a key by which the tables can be compared
    ├── BadQuery                fix the query or the condition: the database refuses it
    ├── EmptySelection          select at least one table
    ├── WrongPartition          name a partition that the assets have
    └── FilesInTheWay           choose another folder for the new project
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class PipedagError(Exception):
    """Root of all errors of this package.

    Some are also what Python raises in the same case, a ValueError or a TypeError: callers may catch either.

    Attributes:
        task: the task that failed (`stage.name`), if the error belongs to one.
        line: `file:line` of the user's code that failed; else, the line in which the task is defined.
        notes: what was added to the message later, such as what people see after a failure.
    """

    task: str | None = None
    line: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(getattr(self, "__notes__", ()))

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # the str of a KeyError is in quotes


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration file.

    `line` counts from 1; it is None where a mistake belongs to the file as a whole.
    """

    file: Path | None
    line: int | None
    message: str

    def __str__(self) -> str:
        where = "" if self.file is None else f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return where + self.message


class ConfigError(PipedagError, ValueError):
    """Fix the configuration. `problems` lists all mistakes."""

    def __init__(self, problems: Problem | str | Sequence[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(None, None, problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class NoInstance(ConfigError, LookupError):
    """Write `with instance:` around it: there is no current instance."""


class NoConfig(ConfigError, FileNotFoundError):
    """Write a configuration, pass its path, or set PIPEDAG_CONFIG."""


class UnknownInstance(ConfigError, AttributeError):
    """Choose an instance that exists. (Callers from pydiverse.pipedag catch an AttributeError.)"""


class UnknownAttr(ConfigError, AttributeError, KeyError):
    """Fix the name: the `attrs` of the instance have no such key."""


class FrozenAttrs(ConfigError, TypeError, AttributeError):
    """Choose other `attrs` by `instance.with_attrs({…})`: those of an instance do not change."""


class MissingVariable(ConfigError):
    """Set the environment variable, or write the attribute file, that the instance uses."""


class WiringError(PipedagError, ValueError):
    """Fix the flow: it cannot run as it is wired."""


class UnknownOption(WiringError, TypeError):
    """Fix the name of the option: nobody reads it."""


class WrongCall(WiringError, TypeError):
    """Fix the arguments: the task does not take them."""


class UnknownName(WiringError, KeyError):
    """Fix the name: the flow has no such stage, task or output."""


class NotHere(WiringError, AttributeError):
    """Write what the message says: objects of pydiverse.pipedag have this attribute, and ours do not."""


class NoTask(WiringError, LookupError):
    """Call it inside of a task, while a flow runs it."""


class InvalidName(WiringError):
    """Choose another name: a stage or table cannot have this one."""


class DatabaseError(PipedagError):
    """Look at the database."""


class DatabaseUnreachable(DatabaseError):
    """Start the database, or fix host and port in the url."""


class ConnectionLost(DatabaseError):
    """The connection was cut. Run it again: the results of finished tasks are reused."""


class DiskFull(DatabaseError):
    """Make room on the disk of the database, and run it again."""


class LoginRefused(DatabaseError):
    """Fix user name and password in the url."""


class TooManyConnections(DatabaseError):
    """Run fewer tasks at a time (`max_concurrent`), or raise the limit of the server, the database or the role."""


class TimedOut(DatabaseError):
    """A limit of the server ended a statement or a connection. Raise the limit that the message names."""


class ReadOnlyServer(DatabaseError):
    """The server does not accept changes. Connect to the primary server."""


class PoolerRefused(DatabaseError):
    """A connection pooler is in between. Connect to PostgreSQL itself, or set `pool_mode = session`."""


class DatabaseMissing(DatabaseError):
    """Create the database, or set `create_database_if_not_exists: true`."""


class NotOwned(PipedagError):
    """The schema belongs to somebody else. Choose another `schema_prefix` or stage name."""


class SampleError(PipedagError):
    """Change the rules under `sample:`: no sample can be taken by them."""


class SampleSplit(PipedagError):
    """Run the source instance: tables that refer to each other are not of one state."""


class WorkerLost(PipedagError):
    """Look at the workers that `tasks:` names: they died, cannot be reached, or run another version of the code."""


class RunActive(PipedagError):
    """Another run uses the tables that would be written or removed. Wait for it, or stop it."""


class InUse(PipedagError):
    """Objects of somebody else depend on the tables that would be removed. Remove them first."""


class PinLost(PipedagError):
    """A version that the run has read is gone. Start a new run."""


class NotMaterialized(PipedagError):
    """Run the stage first: the table has no committed version."""


class FreshInput(PipedagError):
    """The input changed, but the mode of the run is `assert_no_fresh_input`. Choose another mode."""


class TaskFailed(PipedagError):
    """Fix the task. The user's own exception is `__cause__`, with its traceback."""


def task_failed(message: str, cause: BaseException | None, kind: type[TaskFailed] = TaskFailed) -> TaskFailed:
    """The error of a task that raised `cause`. It can be caught as what the task has raised, too, and has the arguments
    and attributes of that: where a task raises an OSError, the run raises an error that is both a TaskFailed and an
    OSError, with its `errno`. Only its text is ours.

    >>> error = task_failed("raw.orders failed: there is no file", FileNotFoundError(2, "there is no file"))
    >>> isinstance(error, FileNotFoundError), error.errno, str(error)
    (True, 2, 'raw.orders failed: there is no file')
    """
    if not isinstance(cause, Exception) or isinstance(cause, StopIteration | StopAsyncIteration):
        return kind(message)
    for beside in type(cause).__mro__[:-3]:  # without Exception, BaseException and object
        try:
            return _combined(kind, beside, cause, message)
        except TypeError:  # Python cannot combine these classes: the next one will do
            continue
    return kind(message)


def _combined(kind: type[TaskFailed], beside: type, cause: Exception, message: str) -> TaskFailed:
    failure_class: Any = _failure_class(kind, beside)  # type: ignore[arg-type]
    built_in = next(base for base in beside.__mro__ if base.__module__ == "builtins")
    failure: TaskFailed = built_in.__new__(failure_class, *cause.args)
    vars(failure).update({name: value for name, value in vars(cause).items() if name != "__notes__"})
    for base in beside.__mro__[:-3]:
        for name, attribute in vars(base).items():  # what is not in vars(cause), as the filename of an OSError
            is_data = isinstance(attribute, types.MemberDescriptorType | types.GetSetDescriptorType)
            if is_data and not name.startswith("__"):
                with contextlib.suppress(AttributeError, TypeError):
                    setattr(failure, name, getattr(cause, name))
    vars(failure)["_message"] = message
    return failure


@functools.lru_cache(maxsize=100)
def _failure_class(kind: type[TaskFailed], beside: type) -> type[TaskFailed]:
    def text(error: TaskFailed) -> str:
        return str(vars(error)["_message"])

    def plain(error: TaskFailed) -> tuple[Any, ...]:  # other processes do not know the class
        ours = {name: value for name, value in vars(error).items() if name in ("task", "line", "__notes__")}
        return kind, (str(error),), ours

    bases = (beside,) if issubclass(beside, kind) else (kind, beside)
    methods: dict[str, Any] = {"__str__": text, "__reduce__": plain, "__module__": __name__}
    return type(kind.__name__, bases, methods)


class UnstorableResult(TaskFailed, ValueError, TypeError):
    """Return something that a table can hold."""


class SeveralFailed(PipedagError):
    """Several tasks failed. Each one is in `failures`."""

    def __init__(self, failures: Sequence[BaseException]) -> None:
        self.failures = tuple(part for failure in failures for part in failures_in(failure))
        listed = "\n".join(f"- {failure}" for failure in self.failures)
        super().__init__(f"{len(self.failures)} tasks failed:\n{listed}")


def failures_in(error: BaseException) -> tuple[BaseException, ...]:
    """The error of each task, if several have failed. Otherwise, the error itself."""
    return error.failures if isinstance(error, SeveralFailed) else (error,)


class ChecksFailed(PipedagError):
    """Fix the rows in the message: blocking checks failed, and the stage was not committed. `results` has the result of
    each check."""

    def __init__(self, message: str, results: Sequence[Any] = ()) -> None:
        self.results = tuple(results)
        super().__init__(message)


class NotComparable(PipedagError):
    """Choose a key by which the tables can be compared, or other tables."""


class BadQuery(PipedagError):
    """Fix the query or the condition: the database refuses it."""


class EmptySelection(PipedagError):
    """Select at least one table."""


class WrongPartition(PipedagError):
    """Name a partition that the assets have: `--partition KEY`."""


class FilesInTheWay(PipedagError):
    """Choose another folder for the new project: existing files are never overwritten."""


def did_you_mean(word: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """`" Did you mean 'midi'?"` when something close to `word` is known, else the choices, or `otherwise`.

    >>> did_you_mean("mid", ["full", "midi"])
    " Did you mean 'midi'?"
    >>> did_you_mean("xyz", ["full", "midi"])
    " Known: 'full', 'midi'."
    >>> did_you_mean("xyz", ["full", "midi"], otherwise="Write one of your instances.")
    ' Write one of your instances.'
    """
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    if otherwise is not None:
        return f" {otherwise}" if otherwise else ""
    return f" Known: {', '.join(map(repr, known))}." if known else ""
