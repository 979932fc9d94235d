"""Making one immutable physical table: from a DataFrame, from a query, or by copying from another instance.

Each function makes the table in a schema that nobody reads from yet and returns what it has become. Constraints,
indexes and statistics come last, after the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import adbc_driver_manager
import psycopg
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Column, OutputKind
from pipedag_dagster.data import frames
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import DatabaseError, UnstorableResult, did_you_mean
from pipedag_dagster.names import Label, quote
from pipedag_dagster.postgres import user_sql
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.postgres.failures import is_about_the_database
from pipedag_dagster.postgres.piping import pipe
from pipedag_dagster.postgres.sql_text import is_ordered

_LIMITS = (psycopg.errors.ProgramLimitExceeded, psycopg.errors.TooManyColumns)
_TOO_WIDE = (
    "A table of PostgreSQL has at most 1600 columns. A row must fit into a page of 8 kB, where a long text takes 18 "
    "bytes and a number 2 to 8. A value in a key or an index must fit into a third of one. Store one row for each "
    "value, as with df.melt(id_vars=[…]), or split the table into several."
)

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Constraints:
    """What the database is to enforce and to index, and how it keeps the table.

    An `unlogged` table is written faster, and empty after a crash of the server. Its rows are the same, so `unlogged`
    is not part of the `identity`.
    """

    primary_key: tuple[str, ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()
    non_nullable: tuple[str, ...] = ()
    unlogged: bool = field(default=False, repr=False)
    nullable: tuple[str, ...] | None = field(default=None, repr=False)
    """The columns that may be NULL, and no others; None when that is not said."""
    types: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Columns that are stored as another type than their values have."""

    @property
    def identity(self) -> str:
        """A text that is equal when the stored table would be equal."""
        more = [repr(part) for part in (self.nullable, self.types) if part not in (None, ())]
        return " ".join([repr(self), *more])

    @property
    def create(self) -> str:
        return "CREATE UNLOGGED TABLE" if self.unlogged else "CREATE TABLE"


@dataclass(frozen=True)
class PhysicalTable:
    """A new physical table or view.

    Attributes:
        content: the data version, where it is known without reading the table. None for the result of a query (see
            `same_content`).
        content_hash: a hash of the rows, where one was taken.
        ordered: the order of the rows counts.
        constraints: for a table that a script made: those that the script gave it.
    """

    physical: str
    columns: tuple[Column, ...]
    rows: int
    bytes: int
    content: str | None
    kind: OutputKind = OutputKind.table
    constraints: Constraints | None = None
    content_hash: str | None = None
    ordered: bool = False


def from_frame(
    database: Database, schema: str, name: str, frame: Any, constraints: Constraints, what: Label
) -> PhysicalTable:
    """A physical table with the rows of a DataFrame (pandas, polars, pyarrow), or of one that was converted before.

    Raises:
        UnstorableResult: a column cannot be stored as it is, or breaks a constraint.
    """
    content = frame if isinstance(frame, frames.Content) else frames.Content(frames.to_arrow(frame, str(what)))
    arrow = content.arrow
    try:
        with database.told():
            rows = frames.write(database.uri, schema, name, arrow, create=constraints.create)
    except adbc_driver_manager.Error as error:
        if error.sqlstate not in [limit.sqlstate for limit in _LIMITS]:
            raise
        raise UnstorableResult(
            f"{what} has {len(arrow.column_names):,} columns, which is too wide. {_TOO_WIDE}"
        ) from None
    with _dropped_if_it_fails(database, quote(schema, name)), database.transaction(staging=True) as connection:
        columns, size = finish(connection, schema, name, constraints, what)
    # The values that others read are of the types that were declared.
    version = digest(content.version, repr(constraints.types)) if constraints.types else content.version
    return PhysicalTable(name, columns, rows, size, version, content_hash=version)


@contextmanager
def _dropped_if_it_fails(database: Database, table: str) -> Iterator[None]:
    """A useless table takes up room, and may be what has filled the disk."""
    try:
        yield
    except Exception:
        with suppress(DatabaseError, psycopg.Error, sa.exc.SQLAlchemyError), database.transaction() as connection:
            connection.execute(f"DROP TABLE IF EXISTS {table}".encode())
        raise


def from_query(
    database: Database, schema: str, name: str, query: str, constraints: Constraints, what: Label
) -> PhysicalTable:
    """A physical table with the rows of a query, made inside the database.

    Raises:
        UnstorableResult: the database refuses the query, or the result breaks a constraint.
    """
    with database.transaction(staging=True) as connection:
        with explained(what, name, query), user_sql.contained(connection, database, str(what), schema, name):
            rows = user_sql.run(connection, f"{constraints.create} {quote(schema, name)} AS\n{query}").rowcount
        columns, size = finish(connection, schema, name, constraints, what)
    return PhysicalTable(name, columns, rows, size, None, ordered=is_ordered(query))


def from_elsewhere(
    source: Database,
    query: str,
    database: Database,
    schema: str,
    name: str,
    constraints: Constraints,
    what: Label,
) -> PhysicalTable:
    """A physical table with the rows of a query on another database, streamed by binary COPY.

    Raises:
        UnstorableResult: one of the databases refuses, or the result breaks a constraint.
    """
    table = quote(schema, name)
    with source.transaction(read_only=True) as reader, database.transaction(staging=True) as writer:
        with explained(what, name, query):
            rows = stream(reader, query, writer, table)
            if constraints.unlogged:
                writer.execute(f"ALTER TABLE {table} SET UNLOGGED".encode())
        columns, size = finish(writer, schema, name, constraints, what)
    return PhysicalTable(name, columns, rows, size, None, ordered=is_ordered(query))


def stream(reader: Connection, query: str, writer: Connection, table: str) -> int:
    """Make a table with the rows of a query on another database. Returns how many they are."""
    writer.execute(f"CREATE TABLE {table} ({_shape(reader, query)})".encode())
    return pipe(reader, query, writer, table, binary=True)


def _shape(connection: Connection, query: str) -> str:
    """The columns of a query with their types, as DDL."""
    result = user_sql.run(connection, f"SELECT * FROM ({query}\n) AS q LIMIT 0").pgresult
    assert result is not None
    columns = range(result.nfields)
    kinds = connection.execute(
        "SELECT format_type(oid, modifier) "
        "FROM unnest(%s::oid[], %s::int[]) WITH ORDINALITY AS t (oid, modifier, i) ORDER BY i",
        ([result.ftype(i) for i in columns], [result.fmod(i) for i in columns]),
    ).fetchall()
    names = [(result.fname(i) or b"").decode() for i in columns]
    return ", ".join(f"{quote(name)} {kind}" for name, (kind,) in zip(names, kinds, strict=True))


def finish(
    connection: Connection, schema: str, name: str, constraints: Constraints, what: Label
) -> tuple[tuple[Column, ...], int]:
    """Constraints, indexes and statistics; returns columns and size in bytes."""
    table = quote(schema, name)
    _refuse_changed_values(connection, table, constraints, name, what)
    changes = [
        f"ALTER COLUMN {quote(column)} TYPE {kind} USING {quote(column)}::{kind}" for column, kind in constraints.types
    ]
    not_null = [*constraints.non_nullable, *_not_nullable(connection, table, constraints, what)]
    changes += [f"ALTER COLUMN {quote(column)} SET NOT NULL" for column in dict.fromkeys(not_null)]
    if constraints.primary_key:
        changes.append(f"ADD PRIMARY KEY ({', '.join(map(quote, constraints.primary_key))})")
    statements = [f"ALTER TABLE {table} {', '.join(changes)}"] if changes else []
    statements += [f"CREATE INDEX ON {table} ({', '.join(map(quote, index))})" for index in constraints.indexes]
    statements.append(f"ANALYZE {table}")
    for statement in statements:
        with explained(what, name):
            connection.execute(statement.encode())
    size = connection.execute("SELECT pg_total_relation_size(%s::regclass)", (table,)).fetchone()
    assert size is not None
    return columns_of(connection, table), size[0]


def _refuse_changed_values(
    connection: Connection, table: str, constraints: Constraints, physical: str, what: Label
) -> None:
    """Refuse types of `type_map` in which a value would be another one: 1.5 as an integer."""
    before = {column.name: column.type for column in columns_of(connection, table)} if constraints.types else {}
    for name, kind in constraints.types:
        if name not in before:
            raise UnstorableResult(f"{what}: type_map names the column {name!r}.{did_you_mean(name, before)}")
        column = quote(name)
        changed = f"{column}::{kind}::{before[name]}::text <> {column}::text"
        query = f"SELECT {column}::text FROM {table} WHERE {changed} LIMIT 1"
        with explained(what, physical):
            row = connection.execute(query.encode()).fetchone()
        if row is not None:
            raise UnstorableResult(f"{what}: column {name!r} holds {row[0]}, which {kind} of its type_map cannot hold.")


def _not_nullable(connection: Connection, table: str, constraints: Constraints, what: Label) -> list[str]:
    """The columns that must not be NULL, because they are not among those that may be."""
    if constraints.nullable is None:
        return []
    columns = [column.name for column in columns_of(connection, table)]
    for name in constraints.nullable:
        if name not in columns:
            raise UnstorableResult(f"{what}: nullable names the column {name!r}.{did_you_mean(name, columns)}")
    return [name for name in columns if name not in constraints.nullable]


def columns_of(connection: Connection, relation: str) -> tuple[Column, ...]:
    """The columns of a table or view."""
    columns = connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (relation,),
    ).fetchall()
    return tuple(Column(*column) for column in columns)


@contextmanager
def explained(what: Label, physical: str, query: str | None = None) -> Iterator[None]:
    """Turn what the database says about a statement into an error in the words of the user: `what` for the name of the
    physical table, and the user's own query, never one of ours."""
    try:
        yield
    except _LIMITS as error:
        raise UnstorableResult(f"{what}: {error.diag.message_primary}. {_TOO_WIDE}") from error
    except (psycopg.OperationalError, psycopg.InterfaceError):
        raise  # the connection, not the result
    except psycopg.errors.UniqueViolation as error:
        raise UnstorableResult(
            f"{what}: the primary key is not unique: {error.diag.message_detail} Fix the task, or declare another "
            "primary_key in Table(…)."
        ) from error
    except psycopg.errors.NotNullViolation as error:
        raise UnstorableResult(
            f"{what}: column {error.diag.column_name!r} has NULLs, but is declared as primary_key or non_nullable in "
            "Table(…), or is not among its nullable columns. Fix the task or the declaration."
        ) from error
    except psycopg.Error as error:
        if is_about_the_database(error):
            raise
        said = " ".join(filter(None, (error.diag.message_primary or str(error), error.diag.message_detail)))
        said = said.replace(physical, what.name)
        raise UnstorableResult(f"{what}: {said}" + (f"\nin the query:\n{query.strip()}" if query else "")) from error
