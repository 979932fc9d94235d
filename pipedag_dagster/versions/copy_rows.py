"""Copying rows of a physical table of a source, in their order: all of them, or those with given handles."""

from __future__ import annotations

from dataclasses import dataclass

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.names import Label, quote
from pipedag_dagster.postgres import temporary_tables
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.postgres.piping import pipe
from pipedag_dagster.versions import write_table
from pipedag_dagster.versions.write_table import Connection, Constraints, PhysicalTable

_FEW = 5
"""Up to one row in so many is read by its handle; from there on, one scan of the table is faster."""


@dataclass(frozen=True)
class SourceRows:
    """Rows of a physical table.

    Attributes:
        database: that has the table.
        table: its name, quoted, with its schema.
        handles: a query, in the database of the copy, of the ctids of the rows; without it, all rows.
        few: there are so few of them that each is read by its handle.
        content: the data version of the copy, where it is known.
        content_hash: a hash of the rows, where one was taken.
        where: a condition on the columns: of these rows, only those for which it holds.
    """

    database: Database
    table: str
    columns: tuple[Column, ...]
    handles: str | None
    few: bool
    content: str | None
    where: str | None = None
    content_hash: str | None = None

    def query(self, handles: str | None) -> str:
        """The query that selects the rows, in their order in the table."""
        columns = ", ".join(quote("t", column.name) for column in self.columns)
        conditions = [] if self.where is None else [f"({self.where})"]
        if handles is not None:
            conditions.append(f"t.ctid = ANY (ARRAY({handles}))" if self.few else f"t.ctid IN ({handles})")
        where = f" WHERE {' AND '.join(conditions)} ORDER BY t.ctid" if conditions else ""
        return f"SELECT {columns} FROM {self.table} AS t{where}"


def few(rows: int, of: int) -> bool:
    """Whether so few rows of a table are read by their handles."""
    return rows * _FEW <= of


def copy(
    rows: SourceRows,
    writer: Connection,
    database: Database,
    schema: str,
    name: str,
    constraints: Constraints,
    what: Label,
) -> PhysicalTable:
    """A physical table with these rows. In another database they are streamed by binary COPY.

    Args:
        writer: in a transaction of `database`.

    Raises:
        UnstorableResult: one of the databases refuses, or the rows break a constraint.
    """
    table = quote(schema, name)
    if database.same_as(rows.database):
        with write_table.explained(what, name):
            query = f"CREATE TABLE {table} AS {rows.query(rows.handles)}"
            count = writer.execute(query.encode()).rowcount
        return _finished(rows, writer, schema, name, constraints, what, count)
    with rows.database.transaction() as reader:
        with write_table.explained(what, name):
            handles = None if rows.handles is None else _sent(rows.handles, writer, reader)
            count = write_table.stream(reader, rows.query(handles), writer, table)
        return _finished(rows, writer, schema, name, constraints, what, count)


def _finished(
    rows: SourceRows,
    connection: Connection,
    schema: str,
    name: str,
    constraints: Constraints,
    what: Label,
    count: int,
) -> PhysicalTable:
    columns, size = write_table.finish(connection, schema, name, constraints, what)
    return PhysicalTable(name, columns, count, size, rows.content, content_hash=rows.content_hash, ordered=True)


def _sent(handles: str, here: Connection, there: Connection) -> str:
    """Send handles to another database. Returns the query that gives them there."""
    temporary = quote("pg_temp", "pipedag_handles")
    temporary_tables.require(there, "Copying a sample")
    there.execute("CREATE TEMP TABLE pipedag_handles (handle tid) ON COMMIT DROP")
    pipe(here, handles, there, temporary, binary=False)
    there.execute(f"ANALYZE {temporary}".encode())
    there.execute("SET TRANSACTION READ ONLY")
    return f"SELECT handle FROM {temporary}"
