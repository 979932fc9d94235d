"""Making one immutable physical table: from a DataFrame, from a query, or by copying from another instance.

Each function makes the table in a schema that nobody reads from yet and returns what it has become. Constraints,
indexes and statistics come last, after the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg

from pipedag_dagster.catalog.catalog import Column, OutputKind
from pipedag_dagster.data import adbc, frames, streams
from pipedag_dagster.data.content import Content
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import UnstorableResult, did_you_mean
from pipedag_dagster.frame_types import is_stream
from pipedag_dagster.names import Label, literal, quote
from pipedag_dagster.postgres import user_sql
from pipedag_dagster.postgres.database import STAGING, Database
from pipedag_dagster.postgres.diagnosis import STATEMENT_ERRORS, Diagnosis, Statements, last_result
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
    """A physical table with the rows of a DataFrame (pandas, polars, pyarrow), of a stream, or of a DataFrame that was
    converted before.

    Raises:
        UnstorableResult: a column cannot be stored as it is, or breaks a constraint.
        BaseException: what a stream raises. There is no table then.
    """
    with closing(frame) if is_stream(frame) else nullcontext():
        return _written(database, schema, name, _content(frame, str(what)), constraints, what)


def _written(
    database: Database, schema: str, name: str, content: Content, constraints: Constraints, what: Label
) -> PhysicalTable:
    try:
        with database.told(), adbc.transaction(database.uri) as cursor:
            cursor.execute(STAGING)
            with explained(what, name):
                rows = frames.write(cursor, schema, name, content, create=constraints.create)
            columns, size = finish(adbc.Session(cursor), schema, name, constraints, what)
    except BaseException:
        if content.failure is None:
            raise
        raise content.failure from content.failure.__cause__  # of the task that makes the rows
    # The values that others read are of the types that were declared.
    version = digest(content.version, repr(constraints.types)) if constraints.types else content.version
    return PhysicalTable(name, columns, rows, size, version, content_hash=version)


def _content(frame: Any, what: str) -> Content:
    if isinstance(frame, Content):
        return frame
    return streams.content(frame, what) if is_stream(frame) else frames.content(frame, what)


def from_query(
    connection: Connection,
    database: Database,
    schema: str,
    name: str,
    query: str,
    constraints: Constraints,
    what: Label,
) -> PhysicalTable:
    """A physical table with the rows of a query, made inside the database.

    Args:
        connection: in a transaction of this database.

    Raises:
        UnstorableResult: the database refuses the query, or the result breaks a constraint.
    """
    with explained(what, name, query), user_sql.contained(connection, database, str(what), schema, name):
        rows = user_sql.run(connection, f"{constraints.create} {quote(schema, name)} AS\n{query}").rowcount
    columns, size = finish(connection, schema, name, constraints, what)
    return PhysicalTable(name, columns, rows, size, None, ordered=is_ordered(query))


def from_elsewhere(
    source: Database,
    query: str,
    writer: Connection,
    schema: str,
    name: str,
    constraints: Constraints,
    what: Label,
) -> PhysicalTable:
    """A physical table with the rows of a query on another database, streamed by binary COPY.

    Args:
        writer: in a transaction of the database that gets the table.

    Raises:
        UnstorableResult: one of the databases refuses, or the result breaks a constraint.
    """
    table = quote(schema, name)
    with source.transaction(read_only=True) as reader:
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
    connection: Statements, schema: str, name: str, constraints: Constraints, what: Label
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
    statements += [f"ANALYZE {table}", _SHAPE.format(table=literal(table))]
    with explained(what, name):
        shape = last_result(connection, statements).fetchall()
    return tuple(Column(*column) for *column, _ in shape), max((size for *_, size in shape), default=0)


_SHAPE = """
    SELECT attname::text, format_type(atttypid, atttypmod), NOT attnotnull, pg_total_relation_size(attrelid)
    FROM pg_attribute WHERE attrelid = {table}::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""


def _refuse_changed_values(
    connection: Statements, table: str, constraints: Constraints, physical: str, what: Label
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


def _not_nullable(connection: Statements, table: str, constraints: Constraints, what: Label) -> list[str]:
    """The columns that must not be NULL, because they are not among those that may be."""
    if constraints.nullable is None:
        return []
    columns = [column.name for column in columns_of(connection, table)]
    for name in constraints.nullable:
        if name not in columns:
            raise UnstorableResult(f"{what}: nullable names the column {name!r}.{did_you_mean(name, columns)}")
    return [name for name in columns if name not in constraints.nullable]


def columns_of(connection: Statements, relation: str) -> tuple[Column, ...]:
    """The columns of a table or view."""
    query = (
        "SELECT attname::text, format_type(atttypid, atttypmod), NOT attnotnull FROM pg_attribute "
        f"WHERE attrelid = {literal(relation)}::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return tuple(Column(*column) for column in connection.execute(query.encode()).fetchall())


@contextmanager
def explained(what: Label, physical: str, query: str | None = None) -> Iterator[None]:
    """Turn what the database says about a statement into an error in the words of the user: `what` for the name of the
    physical table, and the user's own query, never one of ours."""
    try:
        yield
    except STATEMENT_ERRORS as error:
        told = Diagnosis.of(error)
        if told.has(*_LIMITS):
            raise UnstorableResult(f"{what}: {told.message}. {_TOO_WIDE}") from error
        if told.is_about_a_connection or is_about_the_database(error):
            raise
        if told.has(psycopg.errors.UniqueViolation):
            raise UnstorableResult(
                f"{what}: the primary key is not unique: {told.detail} Fix the task, or declare another primary_key "
                "in Table(…)."
            ) from error
        if told.has(psycopg.errors.NotNullViolation):
            raise UnstorableResult(
                f"{what}: column {told.column!r} has NULLs, but is declared as primary_key or non_nullable in "
                "Table(…), or is not among its nullable columns. Fix the task or the declaration."
            ) from error
        said = " ".join(filter(None, (told.message, told.detail))).replace(physical, what.name)
        raise UnstorableResult(f"{what}: {said}" + (f"\nin the query:\n{query.strip()}" if query else "")) from error
