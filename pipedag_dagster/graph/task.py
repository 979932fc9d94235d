"""Tasks: functions that make tables."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Generic, Unpack, cast, overload

from typing_extensions import ParamSpec, TypeVar

from pipedag_dagster.config.tasks import PLACES, amount
from pipedag_dagster.errors import WiringError, did_you_mean
from pipedag_dagster.frame_types import DTYPE_BACKENDS, READABLE, FrameType, data_type, is_readable
from pipedag_dagster.graph.cache_option import combined
from pipedag_dagster.graph.container import Container
from pipedag_dagster.graph.description import DescriptionOptions, TableDescription
from pipedag_dagster.graph.nested import parts, replace
from pipedag_dagster.graph.schema_annotations import warn_of_schemas
from pipedag_dagster.names import asset_name, table_name
from pipedag_dagster.options import defined_at, refuse_unknown

P = ParamSpec("P", default=...)
R = TypeVar("R", default=Any)

Wire = Callable[["Task", tuple[Any, ...], dict[str, Any]], Any]
wiring: ContextVar[Wire | None] = ContextVar("wiring", default=None)
"""What a call of a task does: set by an open `Flow` or `Stage`. None: the plain function is called."""


class AutoVersion(enum.Enum):
    """The value of `version=` that stands for a fingerprint of the code."""

    AUTO_VERSION = "AUTO_VERSION"


AUTO_VERSION = AutoVersion.AUTO_VERSION
"""`version=AUTO_VERSION`: the code is fingerprinted, as without `version=`. A task of polars' LazyFrames is compared by
its plans."""


class Handle:
    """What the call of a task returns while a flow is open: it stands for tables that do not exist yet."""


class _Options(DescriptionOptions, total=False):
    outputs: Sequence[str] | None
    input_type: type | tuple[type, str] | None
    cache: Callable[..., Any] | Sequence[Callable[..., Any]] | None
    lazy: bool
    version: str | AutoVersion | None
    allow_fresh_input: bool
    name: str | None
    call_context: Callable[[], AbstractContextManager[Any]] | None
    add_input_source: bool
    ordering_barrier: bool | dict[str, Any]
    group_node_tag: str | None
    run_on: str | None
    resources: Mapping[str, float | str] | None


class TaskOptions(_Options, total=False):
    """The options of `@materialize`."""

    nout: int | None
    input: bool


class CopyOptions(_Options, total=False):
    """The options of `@input_stage_versions`."""

    nout: int | None
    pass_args: Sequence[str]
    include_views: bool
    lock_source_stages: bool


class Task(Generic[P, R]):
    """A function under `@materialize` or `@input_stage_versions`.

    Called inside `with Stage(...)` it is wired into the flow and returns a handle of its outputs. Called anywhere else,
    it is the plain function, so it can be tested as one. Of a `Table`, `Blob` or `RawSql` that the function returns,
    the caller gets the content: the DataFrame, query, object or script. `task.fn` returns them unchanged.

    Type checkers see the parameters of the function. The result is `Any` to them, because a handle takes the place of
    data of any type; `task.fn` is the function with its own result.
    """

    def __init__(self, fn: Callable[P, R], options: TaskOptions | CopyOptions, *, from_source: bool = False) -> None:
        if not callable(fn):
            raise WiringError(f'@materialize takes a function, not {fn!r}. Write its options by name: version="1.0".')
        name: str = cast("Any", options).get("name") or getattr(fn, "__name__", type(fn).__name__)
        known = CopyOptions.__optional_keys__ if from_source else TaskOptions.__optional_keys__
        refuse_unknown(f"Task {name!r} ({defined_at(fn)})", options, known)
        given = cast("dict[str, Any]", options)
        functools.update_wrapper(self, fn)
        self.fn: Callable[P, R] = fn
        self.outputs: tuple[str, ...] | None = given.get("outputs")
        # Tables without a name of their own are named after the task.
        self.name = asset_name(name) if self.outputs is None else table_name(name)
        self.nout: int | None = given.get("nout")
        self.input: bool = given.get("input", False)
        version = given.get("version")
        self.version: str | None = None if version is AUTO_VERSION else version
        self.cache: Callable[..., Any] | None = combined(given.get("cache"))
        self.input_type, self.dtype_backend = _input_type(given.get("input_type"))
        plans = version is AUTO_VERSION and data_type(self.input_type) is FrameType.POLARS_LAZY
        self.lazy: bool = given.get("lazy", False) or plans
        self.call_context: Callable[[], AbstractContextManager[Any]] | None = given.get("call_context")
        self.add_input_source: bool = given.get("add_input_source", False)
        self.ordering_barrier: bool = bool(given.get("ordering_barrier", False))
        self.allow_fresh_input: bool = given.get("allow_fresh_input", False)
        self.run_on: str | None = given.get("run_on")
        self.resources = _resources(self.name, given.get("resources") or {})
        self.from_source = from_source
        self.pass_args: tuple[str, ...] = given.get("pass_args", ())
        self.include_views: bool = given.get("include_views", True)
        self.signature = inspect.signature(fn)
        self._check_lists()
        self.outputs = None if self.outputs is None else tuple(asset_name(output) for output in self.outputs)
        self.pass_args = tuple(self.pass_args)
        described = {key: value for key, value in given.items() if key in DescriptionOptions.__optional_keys__}
        self.about = TableDescription.of(self.name, **cast("DescriptionOptions", described))
        self._check_outputs()
        self._check_values()
        warn_of_schemas(self.name, fn)

    def _check_lists(self) -> None:
        for option in ("outputs", "pass_args"):
            value = getattr(self, option)
            if isinstance(value, str):
                raise self._error(f"{option} must be a list, as in {option}=[{value!r}].")

    def _check_outputs(self) -> None:
        nout, outputs = self.nout, self.outputs
        if outputs is not None:
            if not outputs or len(set(outputs)) < len(outputs):
                raise self._error("outputs must be different table names, at least one.")
            if nout is not None and nout != len(outputs):
                raise self._error(f"nout={nout}, but outputs names {len(outputs)} tables. Leave nout out.")
        if nout is not None and (type(nout) is not int or nout < 1):
            raise self._error(f"nout must be a whole number of at least 1, not {nout!r}.")

    def _check_values(self) -> None:
        if self.dtype_backend is not None and self.dtype_backend not in DTYPE_BACKENDS:
            hint = did_you_mean(str(self.dtype_backend), DTYPE_BACKENDS)
            raise self._error(f"there is no dtype backend {self.dtype_backend!r}.{hint}")
        if self.input_type is not None and not is_readable(self.input_type):
            hint = _what_to_read(self.input_type)
            raise self._error(f"tables cannot be read as input_type={self.input_type!r}. {hint}")
        if not isinstance(self.version, str | None):
            raise self._error(f'version must be a text, as in version="1.0", not {self.version!r}.')
        if self.cache is not None and not callable(self.cache):
            raise self._error(f"cache must be a function, or a list of functions, not {self.cache!r}.")
        if self.run_on is not None and self.run_on not in PLACES:
            raise self._error(f"there is no place run_on={self.run_on!r}.{did_you_mean(str(self.run_on), PLACES)}")
        if self.call_context is not None and not callable(self.call_context):
            raise self._error(f"call_context must be a function that returns a context, not {self.call_context!r}.")
        for option in ("input", "lazy", "allow_fresh_input", "add_input_source"):
            if not isinstance(getattr(self, option), bool):
                raise self._error(f"{option} must be True or False, not {getattr(self, option)!r}.")

    def _error(self, message: str) -> WiringError:
        return WiringError(f"Task {self.name!r}: {message}")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        wire = wiring.get()
        if wire is not None:
            return wire(self, args, kwargs)
        for value in (*args, *kwargs.values()):
            handle = next((part for part in (value, *parts(value)) if isinstance(part, Handle)), None)
            if handle is not None:
                raise self._error(
                    f"it is called with {handle!r} after the flow was closed. "
                    "Move the call into a stage: `with Flow(…):`, `with Stage(…):`."
                )
        return replace(self.fn(*args, **kwargs), Container, lambda container: container.content)

    def __repr__(self) -> str:
        return f"<task {self.name}>"


def _what_to_read(given: Any) -> str:
    """What to write instead of a type that tables cannot be read as."""
    if isinstance(given, type) and given.__module__.partition(".")[0] == "pydiverse":
        return (
            "Write input_type=sa.Table or input_type=pl.LazyFrame, and make a table of pydiverse.transform in the "
            "task. Return the query or the frame that it holds."
        )
    return f"Known: {READABLE}."


def _resources(task: str, given: Mapping[str, float | str]) -> dict[str, float]:
    """The resources as numbers; sizes in bytes."""
    amounts = {}
    for name, written in given.items():
        try:
            amounts[name] = amount(written)
        except ValueError as error:
            raise WiringError(f"Task {task!r}: resources[{name!r}] {error}") from None
    return amounts


def _input_type(given: Any) -> tuple[type | None, str | None]:
    """The class of the inputs, and the dtypes that are chosen for pandas: `(pd.DataFrame, "arrow")`."""
    if isinstance(given, tuple) and len(given) == 2 and data_type(given[0]) is FrameType.PANDAS:
        return given
    return given, None


@overload
def materialize(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def materialize(**options: Unpack[TaskOptions]) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def materialize(fn: Callable[..., Any] | None = None, /, **options: Unpack[TaskOptions]) -> Any:
    """Make a task of a function: what it returns is materialized as tables of its stage.

    Args:
        nout: how many tables it returns, so that `a, b = task()` works. They are named after the task
            (`task`, `task_2`) unless the returned `Table` has a name.
        outputs: the names of the tables it returns, in order (a tuple or list) or by name (a dict).
            Recommended: Dagster then knows the tables by their names before the task has run.
        input: the task brings data in from outside. Small instances (`copy_filtered_input: true`) do not run
            it: they copy a sample of the tables that their `copy_source` has committed.
        version: pins the code version by hand. Without it, or with AUTO_VERSION, the code is fingerprinted.
        name: the name of the task; without it, that of the function.
        call_context: returns a context (for `with`) in which the task is called.
        add_input_source: each table arrives as a pair: the data, and a `Table` that says its name and constraints.
        ordering_barrier: the task runs after all calls of the stage that are wired before it, and before all others.
        group_node_tag: accepted for pydiverse.pipedag, without an effect.
        cache: a function that tells whether outside data changed. It gets those arguments of the task that
            it names, and returns any value with a stable content; another value means fresh input.
        lazy: the task runs every time, because it only builds a query (or a plan of polars), which is compared. With
            `version`, another version makes its tables again, too.
        input_type: how inputs arrive: `pd.DataFrame`, `sa.Table` (an alias to build queries on), also
            `pa.Table` and polars' `pl.DataFrame` and `pl.LazyFrame`. `Iterator[…]` of a DataFrame, and
            `pa.RecordBatchReader`, give the rows batch by batch. `(pd.DataFrame, "arrow")` gives columns that stay
            in Arrow; with "numpy" or "nullable", or alone, integers that may be NULL are `Int64`.
        run_on: where the task runs: on "threads" of the process that runs the stage, in "processes" or on "dask".
            Without it, where `tasks:` of the instance says.
        resources: what a worker of Dask must have for it: `{"memory": "8 GiB", "gpu": 1}`. Workers say what they have
            when they are started (`dask worker --resources "gpu=1"`). It has no effect elsewhere.
        allow_fresh_input: the task may read fresh input even where `cache_validation.mode` is
            `assert_no_fresh_input`.
        description: of the table, in Markdown; without it, the docstring.
        owners: whom to ask about the tables: e-mail addresses, and teams as `"team:sales"`.
        tags, kinds: shown by Dagster.
        columns: descriptions of columns by name.
        checks: conditions that the table must meet (see `pipedag_dagster.checks`).

    Changing one of the last six reruns nothing. For a task with several tables, write `description`, `columns`
    and `checks` by table: `checks={"orders": [unique("id")]}`.

    Raises:
        UnknownOption: there is no option of this name.
        WiringError: an option has a value that it cannot have, or the options contradict each other.

    Example:
        >>> @materialize(version="1.0")
        ... def answer():
        ...     return 42
        >>> answer()
        42
    """
    if fn is not None:
        return Task(fn, options)
    return lambda function: Task(function, options)


@overload
def input_stage_versions(fn: Callable[..., Any], /) -> Task: ...
@overload
def input_stage_versions(**options: Unpack[CopyOptions]) -> Callable[[Callable[..., Any]], Task]: ...
def input_stage_versions(fn: Callable[..., Any] | None = None, /, **options: Unpack[CopyOptions]) -> Any:
    """Make a task that gets two versions of the tables of its stage: to copy from another instance by hand, or to
    compare what a run has made with what is committed.

    **To copy**, call it as `task(source_cfg, stage=stage, **kwargs)`, where `source_cfg` is the instance to copy from.
    The function (and its cache function) is called as `fn(tbls, source_tbls, source_cfg, **passed)`:

    - `tbls`: the tables of this stage that this run has staged before, by name; usually none.
    - `source_tbls`: the tables of the same stage that the source has committed, by name, without those that
      other tasks of this stage make. They are pinned: they all come from one stage version, even if the source
      commits meanwhile.

    It returns tables, as any task does. Dagster knows them before the task has run if they are named with
    `outputs=[…]`, or if later tasks ask for them: `tbls["orders"]`.

    **To compare**, call it as `task(**kwargs)`, without another instance: `fn(tbls, committed, **passed)` gets the
    tables that this run has staged before it, and those of the committed version of the stage (none in the first run).
    It may raise an error, so that the stage is not committed, and return anything that a task may return.

    **Some tables only**: outputs among the arguments choose them, in lists and dicts, too. `task(orders)` compares this
    table alone; `task(source_cfg, orders)` with the one of the other instance. A table of another stage has the name
    `"stage.table"`. A table that the other version does not have is missing there. If there are blobs among them, the
    function gets two more dicts: `fn(tbls, committed, blobs, committed_blobs, …)`.

    Args:
        pass_args: the keyword arguments of the call that are passed to the function.
        include_views: without outputs among the arguments, take views, too.
        lock_source_stages: accepted for pydiverse.pipedag, without an effect: what is read is pinned.
        outputs, nout, input_type, cache, lazy, version, allow_fresh_input: as for `materialize`.
        description, owners, tags, kinds, columns, checks: as for `materialize`.

    Raises:
        UnknownOption: there is no option of this name.
        WiringError: an option has a value that it cannot have.
    """
    if fn is not None:
        return Task(fn, options, from_source=True)
    return lambda function: Task(function, options, from_source=True)
