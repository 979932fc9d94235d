"""Rows of one table version, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.errors import BadQuery, NotMaterialized, did_you_mean
from pipedag_dagster.looking.queries import Connection, Queries, Rows, json_rows, query_rows, refused
from pipedag_dagster.names import quote


def rows(queries: Queries, table: TableVersion, columns: Sequence[str], where: str | None, limit: int) -> Rows:
    """The first rows of a table, with each value as PostgreSQL prints it.

    Args:
        columns: only these, in this order. Without any, all.
        where: an SQL condition.

    Raises:
        BadQuery: there is no such column, or the database refuses the condition.
        NotMaterialized: the table was dropped meanwhile.
    """
    with _transaction(queries, table) as connection:
        return query_rows(connection, _select(queries, table, columns, where), limit)


def json(queries: Queries, table: TableVersion, columns: Sequence[str], where: str | None, limit: int) -> list[str]:
    """As `rows`, but each row is the text of a JSON object."""
    with _transaction(queries, table) as connection:
        return json_rows(connection, _select(queries, table, columns, where), limit)


def check_condition(queries: Queries, table: TableVersion, where: str) -> None:
    """
    Raises:
        BadQuery: the database refuses the condition.
        NotMaterialized: the table was dropped meanwhile.
    """
    with _transaction(queries, table) as connection:
        query_rows(connection, _select(queries, table, [], where), 0)


@contextmanager
def _transaction(queries: Queries, table: TableVersion) -> Iterator[Connection]:
    with queries.transaction() as connection:
        # It takes a lock by which the table stays until the transaction ends.
        try:
            connection.execute(f"SELECT FROM {queries.store.reader.name_of(table)} LIMIT 0".encode())
        except psycopg.errors.UndefinedTable:
            name = f"{table.stage}.{table.name}"
            raise NotMaterialized(f"This version of {name} was dropped meanwhile. Look again.") from None
        try:
            yield connection
        except psycopg.Error as error:
            raise refused("condition", error) from None


def _select(queries: Queries, table: TableVersion, columns: Sequence[str], where: str | None) -> str:
    known = [column.name for column in table.columns]
    for name in columns:
        if name not in known:
            raise BadQuery(f"{table.stage}.{table.name} has no column {name!r}.{did_you_mean(name, known)}")
    # The name is for conditions that use it: ranking.customer = 1.
    source = f"{queries.store.reader.name_of(table)} AS {quote(table.name)}"
    query = f"SELECT {', '.join(map(quote, columns or known))} FROM {source}"
    return query if where is None else f"{query} WHERE ({where}\n)"
