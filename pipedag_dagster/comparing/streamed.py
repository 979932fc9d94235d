"""A table of another database, in a temporary table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipedag_dagster.comparing.compare_tables import Connection
from pipedag_dagster.comparing.relation import Relation
from pipedag_dagster.data.sql_types import sql_type
from pipedag_dagster.names import quote
from pipedag_dagster.postgres import temporary_tables
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.postgres.piping import pipe

_NAME = "pipedag_compared"


@contextmanager
def streamed(source: Database, relation: Relation, target: Database) -> Iterator[tuple[Connection, Relation]]:
    """Copy a table into a temporary one, block by block, and yield the READ ONLY transaction that sees it. It is gone
    at the end. Columns whose types only the source may know, like enums, become texts.

    Raises:
        DatabaseError: the target does not allow temporary tables.
    """
    columns = tuple(
        column if sql_type(column.type) is not None else replace(column, type="text") for column in relation.columns
    )
    table = quote("pg_temp", _NAME)
    declared = ", ".join(f"{quote(column.name)} {column.type}" for column in columns)
    selected = ", ".join(
        quote(column.name) + ("" if column.type == relation.types[column.name] else "::text") for column in columns
    )
    with source.transaction(read_only=True) as reader, target.transaction() as connection:
        temporary_tables.require(connection, "Comparing tables of two databases")
        connection.execute(f"CREATE TEMP TABLE {_NAME} ({declared}) ON COMMIT DROP".encode())
        pipe(reader, f"SELECT {selected} FROM {relation.table}", connection, table, binary=True)
        connection.execute(f"ANALYZE {table}".encode())
        connection.execute("SET TRANSACTION READ ONLY")
        yield connection, replace(relation, table=table, columns=columns)
