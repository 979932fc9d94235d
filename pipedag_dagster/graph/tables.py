"""What a task returns: tables, with their names and properties, and other things that a stage can hold."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.util import ClauseAdapter

from pipedag_dagster.errors import WiringError, WrongCall
from pipedag_dagster.frame_types import is_readable
from pipedag_dagster.graph import nested
from pipedag_dagster.graph.container import Container
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

    Raises:
        WiringError: a column is not a text, or is named twice.

    Example:
        >>> Table([1, 2], "Orders", primary_key="id")
        Table(list, name='Orders', primary_key=('id',))
    """

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
        self.name = _name("Table", name)
        self.primary_key = _column_names("primary_key", () if primary_key is None else primary_key)
        listed = (indexes,) if isinstance(indexes, str) else indexes
        self.indexes = tuple(_column_names("indexes", columns) for columns in listed)
        self.non_nullable = _column_names("non_nullable", non_nullable)
        self.nullable = None if nullable is None else _column_names("nullable", nullable)
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


def _name(kind: str, name: Any) -> str | None:
    if name is not None and not isinstance(name, str):
        raise WrongCall(f'{kind}(…): name={name!r} is not a text. Write name="orders".')
    return name


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

    @known_options()
    def __init__(self, obj: Any, name: str | None = None) -> None:
        self.obj = obj
        self.name = _name("Blob", name)

    @property
    def content(self) -> Any:
        return self.obj

    def content_for_hash(self) -> tuple[Any, ...]:
        return (self.obj, self.name)

    def __repr__(self) -> str:
        return f"Blob({type(self.obj).__name__}, name={self.name!r})"


class RawSql(Container):
    """An SQL script. The tables and views that it makes become tables of the stage, under their own names.

    It runs in one transaction, in an empty schema of its own, which is first in the search path: write
    `CREATE TABLE orders …`. `{name}` stands for an input: the table that the task gets as the argument `name`;
    `{name.key}` is a part of it. `{schema}` stands for the script's own schema.

    Args:
        sql: the script, or a list of scripts that run one after the other. The database splits it into statements.
        name: for messages.

    Example:
        >>> RawSql("CREATE TABLE large AS SELECT * FROM {orders} WHERE amount > 100")
        RawSql('CREATE TABLE large AS SELECT * FROM {orders} WHERE amount > …')
    """

    @known_options()
    def __init__(self, sql: str | Sequence[str], name: str | None = None) -> None:
        self.scripts = (sql,) if isinstance(sql, str) else tuple(sql)
        self.name = _name("RawSql", name)

    @property
    def content(self) -> str | tuple[str, ...]:
        return self.scripts[0] if len(self.scripts) == 1 else self.scripts

    def content_for_hash(self) -> tuple[Any, ...]:
        return (self.scripts, self.name)

    def __repr__(self) -> str:
        text = "; ".join(self.scripts)
        return f"RawSql({text if len(text) <= 60 else text[:60] + '…'!r})"


class View:
    """A query whose result is not stored: the stage has a view of it. The tables that it reads are kept as long as the
    view is.

    Args:
        src: a query, a table that the task takes as `sa.Table`, or an `ExternalTableReference`. Of a list of them, the
            view has all rows (`UNION ALL`).
        name: as for `Table`.
        columns: only these columns; a dict renames them: `{"new": "old"}`.
        sort_by: one or more columns to sort by: names, or expressions like `t.c.id.desc()`.
        limit: the greatest number of rows.

    Example:
        >>> View(sa.text("SELECT 1 AS x"), "one").name
        'one'
    """

    @known_options()
    def __init__(
        self,
        src: Any,
        name: str | None = None,
        *,
        columns: str | Sequence[Any] | Mapping[str, Any] | None = None,
        sort_by: Any = None,
        limit: int | None = None,
    ) -> None:
        self.src = src
        self.name = name
        self.columns = columns
        self.sort_by = sort_by
        self.limit = limit

    def content_for_hash(self) -> tuple[Any, ...]:
        return (self.src, self.name, self.columns, self.sort_by, self.limit)

    @property
    def query(self) -> sa.ClauseElement:
        """The query as one SELECT. A text is returned unchanged if there are no columns, sorting or limit to apply."""
        sources = list(self.src) if isinstance(self.src, list | tuple) else [self.src]
        if len(sources) == 1 and self.columns is None and self.sort_by is None and self.limit is None:
            only = sources[0]
            query: sa.ClauseElement = only.rows if isinstance(only, ExternalTableReference) else only
            return query
        parts = [_selectable(source) for source in sources]
        external = any(isinstance(source, ExternalTableReference) for source in sources)
        selects = [sa.select(sa.literal_column("*") if external else part).select_from(part) for part in parts]
        rows = parts[0] if len(parts) == 1 else sa.union_all(*selects).subquery("rows")
        query = sa.select(*self._columns(rows)).select_from(rows)
        for key in () if self.sort_by is None else _listed(self.sort_by):
            query = query.order_by(_column(rows, key))
        return query if self.limit is None else query.limit(self.limit)

    def _columns(self, rows: sa.FromClause) -> list[Any]:
        if self.columns is None:
            return [rows]
        if isinstance(self.columns, Mapping):
            return [_column(rows, old).label(new) for new, old in self.columns.items()]
        return [_column(rows, column) for column in _listed(self.columns)]

    def __repr__(self) -> str:
        return f"View({type(self.src).__name__}, name={self.name!r})"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


def _selectable(source: Any) -> sa.FromClause:
    if isinstance(source, ExternalTableReference):
        return source.rows.subquery(source.name)
    if isinstance(source, sa.FromClause) and not isinstance(source, sa.SelectBase):
        return source
    if isinstance(source, sa.SelectBase):
        return source.subquery()
    raise TypeError(
        f"View: an object of the class {type(source).__name__} cannot be combined, sorted or renamed. Write "
        "sa.select(…), or take the input as sa.Table."
    )


class SortOrder(enum.Enum):
    """The direction in which a column is sorted."""

    ASC = 0
    DESC = 1


@dataclass(frozen=True)
class SortCol:
    """A column to sort a `View` by.

    Args:
        col: its name.
        order: `SortOrder.ASC` or `SortOrder.DESC`.
        nulls_first: whether NULLs come first; None for the order of the database.

    Example:
        View(orders, sort_by=[SortCol("id", SortOrder.DESC, nulls_first=True)])
    """

    col: str
    order: SortOrder = SortOrder.ASC
    nulls_first: bool | None = None

    def content_for_hash(self) -> tuple[Any, ...]:
        return (self.col, self.order.name, self.nulls_first)

    def of(self, rows: sa.FromClause) -> Any:
        """The expression to sort `rows` by."""
        column = _named(rows, self.col)
        key = column.desc() if self.order is SortOrder.DESC else column.asc()
        return key if self.nulls_first is None else key.nulls_first() if self.nulls_first else key.nulls_last()


def _column(rows: sa.FromClause, column: Any) -> Any:
    if isinstance(column, SortCol):
        return column.of(rows)
    # Expressions name columns of the sources; the SELECT reads from their union.
    return _named(rows, column) if isinstance(column, str) else ClauseAdapter(rows).traverse(column)


def _named(rows: sa.FromClause, column: str) -> sa.ColumnElement[Any]:
    """A column by its name. The columns of an external table are known to the database only."""
    return sa.column(column) if "*" in rows.c else rows.c[column]
