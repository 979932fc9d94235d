"""What a task returns: tables with their properties, and blobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from pipedag_dagster.errors import WiringError
from pipedag_dagster.frame_types import is_readable
from pipedag_dagster.graph import nested
from pipedag_dagster.graph.container import Container, NameOption
from pipedag_dagster.graph.external_table import ExternalTableReference
from pipedag_dagster.graph.schema import Schema, schema_name
from pipedag_dagster.graph.task_context import TaskContext
from pipedag_dagster.options import known_options


class Table(Container):
    """Data or a query that becomes one table of the task's stage.

    Args:
        obj: a DataFrame (pandas, polars, pyarrow.Table), or a query (`sa.select(...)`, `sa.text(...)`, a
            `sa.Table` or an alias of one), a `View`, or an `ExternalTableReference`.
        name: the table's name, case-insensitive, stored lower-case. `%%` in it stands for a hash of what the task
            takes. Without it the table is named after
            its asset: the task's `outputs=`, else the task.
        primary_key: column or columns; checked and enforced by the database.
        indexes: a column, or a list of columns, for each index; made after the data is loaded.
        non_nullable: columns that must not be NULL; checked and enforced by the database.
        nullable: the columns that may be NULL; no other column may.
        type_map: the types of SQLAlchemy (or names of types) that columns are stored as: `{"id": sa.SmallInteger}`.
        materialization_details: a label of `table_store.args.materialization_details` in the configuration, which says
            whether the table is unlogged.
        annotation: accepted for pydiverse.pipedag, without an effect: a class of tables, like `pd.DataFrame`.
        stage: for `retrieve_table_obj`: the stage of a table that is committed already, or its name.

    Attributes:
        primary_key, indexes, non_nullable, nullable: as tuples; `nullable` is None if it was not given.

    Raises:
        WiringError: a column is not a text, or is named twice.
        WrongCall: the name is not a text. It is also raised when the name is set later.

    Example:
        >>> Table([1, 2], "Orders", primary_key="id")
        Table(list, name='Orders', primary_key=('id',))
    """

    name = NameOption()

    @known_options()
    def __init__(
        self,
        obj: Any = None,
        name: str | None = None,
        *,
        primary_key: str | Sequence[str] | None = None,
        indexes: Sequence[str | Sequence[str]] = (),
        non_nullable: str | Sequence[str] = (),
        nullable: str | Sequence[str] | None = None,
        type_map: Mapping[str, Any] | None = None,
        materialization_details: str | None = None,
        annotation: type | None = None,
        stage: Any = None,
    ) -> None:
        if annotation is not None and not is_readable(annotation):
            raise WiringError(
                f"Table(…): annotation={annotation!r} is not a class of tables, like pd.DataFrame. Write conditions "
                "that the table must meet as checks: @materialize(checks=[…])."
            )
        self.obj = obj
        self.name = name
        self.primary_key = _column_names("primary_key", () if primary_key is None else primary_key)
        listed = indexes if isinstance(indexes, Iterable) and not isinstance(indexes, str) else (indexes,)
        self.indexes = tuple(_column_names("indexes", columns) for columns in listed)
        self.non_nullable = _column_names("non_nullable", non_nullable)
        self.nullable = None if nullable is None else _column_names("nullable", nullable)
        self.type_map = type_map
        self.column_types = tuple((name, _ddl(name, kind)) for name, kind in (type_map or {}).items())
        self.materialization_details = materialization_details
        self.stage = stage

    @property
    def content(self) -> Any:
        return self.obj

    def materialize(
        self,
        config_context: Any = None,
        schema: Schema | str | None = None,
        return_as_type: Any = None,
        return_nothing: bool = False,
        clear_table_obj: bool = True,
    ) -> Any:
        """Write the table now, so that the rest of the task can use it. It becomes a table of the stage, whether the
        task returns it or not, and is dropped if the task fails.

        While a flow runs the task, the first two arguments are not needed. Outside of a run:

        - with `config_context` and `schema`, the table is written into that schema, for looking at it. A table of the
          same name is replaced.
        - without them, nothing is written, and the data or the query is returned.

        Args:
            config_context: the instance (`PipedagConfig(…).get(…)`).
            schema: a schema of your own. It must exist, and it may not belong to a stage.
            return_as_type: how to return the table: `pd.DataFrame`, `sa.Table`, …, or a list of them for a tuple. None
                stands for an alias to build queries on (`sa.Table`).
            return_nothing: return None instead.
            clear_table_obj: drop the data from this object once it is stored.

        Returns:
            The table. It may be used in queries of the same task, and returned by the task.

        Raises:
            UnstorableResult: the database refuses it. It is also the error that SQLAlchemy has for that.
            WiringError: `config_context` is not the instance that runs; or the schema is missing, does not exist or
                belongs to a stage.

        Example:
            subtotals = Table(sa.select(…), "subtotals").materialize()
            return Table(sa.select(orders).join(subtotals, …))
        """
        task = TaskContext.current()
        if task is not None:
            task.refuse_others(config_context, schema)
            read = task.materialize(self)
        elif config_context is None:
            return None if return_nothing else self.obj
        else:
            store = config_context.store.table_store
            stored = ExternalTableReference(store.store_table(self, schema), schema_name(schema))

            def read(kind: type | None) -> Any:
                return store.retrieve_table_obj(stored, kind or sa.Table)

        if clear_table_obj:
            self.obj = None
        if return_nothing:
            return None
        is_list = isinstance(return_as_type, list | tuple)
        return tuple(map(read, return_as_type)) if is_list else read(return_as_type)

    @property
    def has_constraints(self) -> bool:
        """Whether the database is to enforce, index or convert something."""
        columns = (self.primary_key, self.indexes, self.non_nullable, self.column_types)
        return any(columns) or self.nullable is not None

    def content_for_hash(self) -> tuple[Any, ...]:
        constraints = (self.primary_key, self.indexes, self.non_nullable, self.nullable, self.column_types)
        return (self.obj, self.name, *constraints)

    def __repr__(self) -> str:
        key = f", primary_key={self.primary_key}" if self.primary_key else ""
        return f"Table({type(self.obj).__name__}, name={self.name!r}{key})"


def bare_references(value: Any) -> Any:
    """`value` with each `Table(ExternalTableReference(…))` in it replaced by the reference."""
    return nested.replace(value, Table, lambda t: t.obj if isinstance(t.obj, ExternalTableReference) else t)


def _ddl(column: str, kind: Any) -> str:
    """A type as PostgreSQL writes it."""
    instance = kind() if isinstance(kind, type) and issubclass(kind, sa.types.TypeEngine) else kind
    if isinstance(instance, sa.types.TypeEngine):
        return str(instance.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    if isinstance(kind, str) and re.fullmatch(r"[A-Za-z][\w ]*(\(\d+( *, *\d+)?\))?[\w ]*(\[\])?", kind):
        return kind
    raise WiringError(
        f"Table(…): type_map: {column!r}: {kind!r} is not a type. Write one of SQLAlchemy: sa.BigInteger."
    )


def _column_names(option: str, columns: str | Sequence[str]) -> tuple[str, ...]:
    names = (columns,) if isinstance(columns, str) else tuple(columns) if isinstance(columns, Iterable) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise WiringError(f'Table(…): {option}={columns!r} is not a column. Write its name, as in {option}="id".')
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise WiringError(f"Table(…): {option}={columns!r} names the column {twice!r} twice.")
    return names


class Blob(Container):
    """Any Python object that can be pickled: a model, a figure, bytes. Other tasks get the object itself.

    Args:
        obj: the object.
        name: its name in the stage, case-insensitive. Without a name, it is called like its asset.

    Example:
        >>> Blob({1, 2}, "model")
        Blob(set, name='model')
    """

    name = NameOption()

    @known_options()
    def __init__(self, obj: Any = None, name: str | None = None) -> None:
        self.obj = obj
        self.name = name

    @property
    def content(self) -> Any:
        return self.obj

    def content_for_hash(self) -> tuple[Any, ...]:
        return (self.obj, self.name)

    def __repr__(self) -> str:
        return f"Blob({type(self.obj).__name__}, name={self.name!r})"
