"""Tasks: functions that make tables."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Unpack, overload

import sqlalchemy as sa

from pipedag_dagster.errors import WiringError
from pipedag_dagster.graph.description import About, AboutOptions
from pipedag_dagster.names import asset_name, table_name

READABLE = "pd.DataFrame, sa.Table, pa.Table, pl.DataFrame, pl.LazyFrame"


def readable(kind: object) -> bool:
    """Whether tables can be read as this class. Classes of optional libraries are known by name."""
    if not isinstance(kind, type):
        return False
    name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    return issubclass(kind, sa.FromClause) or name in (
        "pandas.DataFrame",
        "pyarrow.Table",
        "polars.DataFrame",
        "polars.LazyFrame",
    )


Wire = Callable[["Task", tuple[Any, ...], dict[str, Any]], Any]
wiring: ContextVar[Wire | None] = ContextVar("wiring", default=None)
"""What a call of a task does: set by an open `Flow` or `Stage`. None: the plain function is called."""


class Task:
    """A function under `@materialize` or `@input_stage_versions`.

    Called inside `with Stage(...)` it is wired into the flow and returns a handle of its outputs; called
    anywhere else it is the plain function, so it can be tested as one.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        nout: int | None = None,
        outputs: Sequence[str] | None = None,
        input: bool = False,
        version: str | None = None,
        cache: Callable[..., Any] | None = None,
        lazy: bool = False,
        input_type: type | None = None,
        from_source: bool = False,
        pass_args: Sequence[str] = (),
        allow_fresh_input: bool = False,
        **about: Unpack[AboutOptions],
    ) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        name = getattr(fn, "__name__", type(fn).__name__)
        # Tables without a name of their own are named after the task.
        self.name = asset_name(name) if outputs is None else table_name(name)
        for option, given in (("outputs", outputs), ("pass_args", pass_args)):
            if isinstance(given, str):
                raise WiringError(f"Task {self.name!r}: {option} must be a list, as in {option}=[{given!r}].")
        self.outputs = None if outputs is None else tuple(asset_name(name) for name in outputs)
        self.nout = nout
        self.input = input
        self.version = version
        self.cache = cache
        self.lazy = lazy
        self.input_type = input_type
        self.from_source = from_source
        self.allow_fresh_input = allow_fresh_input
        self.pass_args = tuple(pass_args)
        self.signature = inspect.signature(fn)
        self.about = About.of(self.name, **about)
        self._check()

    def _check(self) -> None:
        if self.input_type is not None and not readable(self.input_type):
            raise WiringError(f"Task {self.name!r}: input_type={self.input_type!r} is not known. Known: {READABLE}.")
        if isinstance(self.version, bool) or not isinstance(self.version, str | None):
            raise WiringError(f'Task {self.name!r}: version must be a text, as in version="1.0".')
        if self.outputs is not None:
            if not self.outputs or len(set(self.outputs)) < len(self.outputs):
                raise WiringError(f"Task {self.name!r}: outputs must be different table names, at least one.")
            if self.nout is not None and self.nout != len(self.outputs):
                raise WiringError(
                    f"Task {self.name!r}: nout={self.nout}, but outputs names {len(self.outputs)} tables. "
                    "Leave nout out."
                )
        if self.nout is not None and self.nout < 1:
            raise WiringError(f"Task {self.name!r}: nout must be at least 1.")
        if self.lazy and self.version is not None:
            raise WiringError(
                f"Task {self.name!r}: a lazy task always runs, because what it returns is compared; "
                "leave version= out, or lazy=True."
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        wire = wiring.get()
        return self.fn(*args, **kwargs) if wire is None else wire(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name}>"


@overload
def materialize(fn: Callable[..., Any], /) -> Task: ...
@overload
def materialize(
    *,
    nout: int | None = None,
    outputs: Sequence[str] | None = None,
    input: bool = False,
    version: str | None = None,
    cache: Callable[..., Any] | None = None,
    lazy: bool = False,
    input_type: type | None = None,
    allow_fresh_input: bool = False,
    **about: Unpack[AboutOptions],
) -> Callable[[Callable[..., Any]], Task]: ...
def materialize(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a task of a function: what it returns is materialized as tables of its stage.

    Args:
        nout: how many tables it returns, so that `a, b = task()` works. They are named after the task
            (`task`, `task_2`) unless the returned `Table` has a name.
        outputs: the names of the tables it returns, in order (a tuple or list) or by name (a dict).
            Recommended: Dagster then knows the tables by their names before the task has run.
        input: the task brings data in from outside. Small instances (`copy_filtered_input: true`) do not run
            it: they copy a sample of what their `copy_source` has committed.
        version: pins the code version by hand. Without it, the code is fingerprinted.
        cache: a function that tells whether outside data changed. It gets those arguments of the task that
            it names, and returns any value with a stable content; another value means fresh input.
        lazy: the task runs every time, because it only builds a query (or a plan of polars), which is compared.
        input_type: how inputs arrive: `pd.DataFrame`, `sa.Table` (an alias to build queries on), also
            `pa.Table` and polars' `pl.DataFrame` and `pl.LazyFrame`.
        allow_fresh_input: the task may take fresh input in also where `cache_validation.mode` is
            `assert_no_fresh_input`.
        description: of the table, in Markdown; without it, the docstring.
        owners: who is to be asked: e-mail addresses, and teams as `"team:sales"`.
        tags, kinds: as Dagster has them.
        columns: descriptions of columns by name.
        checks: what must be true of the table (see `pipedag_dagster.checks`).

    The last five are shown in Dagster; changing them makes nothing run. For a task with several tables,
    `description`, `columns` and `checks` may be given by table: `checks={"orders": [unique("id")]}`.

    Raises:
        WiringError: the options contradict each other.

    Example:
        >>> @materialize(version="1.0")
        ... def answer():
        ...     return 42
        >>> answer()
        42
    """
    return Task(fn) if fn is not None else functools.partial(Task, **options)


def input_stage_versions(
    *,
    outputs: Sequence[str] | None = None,
    input_type: type | None = None,
    cache: Callable[..., Any] | None = None,
    pass_args: Sequence[str] = (),
    lazy: bool = False,
    version: str | None = None,
    allow_fresh_input: bool = False,
    **about: Unpack[AboutOptions],
) -> Callable[[Callable[..., Any]], Task]:
    """Make a task that fills a stage from another instance: copying by hand.

    It is called as `task(source_cfg, stage=stage, **kwargs)`, where `source_cfg` is the configuration of the
    instance to copy from. The function (and its cache function) is called as
    `fn(tbls, source_tbls, source_cfg, **{name: … for name in pass_args})`:

    - `tbls`: the tables of this stage that this run has staged so far, by name; usually none.
    - `source_tbls`: the tables of the same stage that the source has committed, by name, without those that
      other tasks of this stage make. They are pinned: one stage version, whatever the source does meanwhile.

    It returns a dict of tables. Ask the handle for what later tasks need: `tbls["orders"]`.

    Args:
        pass_args: which of the keyword arguments of the call the function gets.
        outputs, input_type, cache, lazy, version, allow_fresh_input: as for `materialize`.
        description, owners, tags, kinds, columns, checks: as for `materialize`.
    """
    return functools.partial(
        Task,
        outputs=outputs,
        input_type=input_type,
        cache=cache,
        pass_args=pass_args,
        lazy=lazy,
        version=version,
        allow_fresh_input=allow_fresh_input,
        from_source=True,
        **about,
    )
