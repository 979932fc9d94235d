"""Queries that people type: one statement, READ ONLY, on one state of the database.

A table may be written as `stage.table`, whatever the prefix of the instance's schemas is. A name without a stage is
found where no other stage has the same one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import adbc_driver_manager
import psycopg

from pipedag_dagster.catalog.catalog import StageVersion
from pipedag_dagster.data import frames
from pipedag_dagster.errors import BadQuery, NotMaterialized
from pipedag_dagster.looking import committed
from pipedag_dagster.names import quote
from pipedag_dagster.postgres.sql_lexer import Token, tokens, without_last_semicolon
from pipedag_dagster.versions.table_store import TableStore

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
_T = TypeVar("_T")

_TRIES = 5
_SERIALIZATION_FAILURE = psycopg.errors.SerializationFailure.sqlstate
_QUERIES = ("SELECT", "WITH", "VALUES", "TABLE")


@dataclass(frozen=True)
class Rows:
    """Rows for people.

    Attributes:
        columns: name and type of each.
        values: each value as PostgreSQL prints it; None for NULL.
        more: whether there are more rows than these.
    """

    columns: tuple[tuple[str, str], ...]
    values: tuple[tuple[str | None, ...], ...]
    more: bool


class Queries:
    """Runs the queries of people on one instance."""

    def __init__(self, store: TableStore) -> None:
        self.store = store

    def frame(self, sql: str, cls: type) -> Any:
        """The result of a query as a frame.

        Args:
            cls: pd.DataFrame, pa.Table, pl.DataFrame or pl.LazyFrame.

        Raises:
            BadQuery: the database refuses it.
            TaskFailed: a column cannot be read as it is (see `docs/types.md`).
        """

        def read() -> Any:
            with self.transaction() as connection:
                query = self._query(sql)
                columns = _described(connection, query)
            path = self.search_path()
            with self.store.database.told(read_only=True):
                return frames.read_query(
                    self.store.database.uri, query, columns, cls, "The result of the query", search_path=path
                )

        return self._again(read)

    def rows(self, sql: str, limit: int | None = None) -> Rows:
        """The result of a query, or of another statement that only reads, like EXPLAIN.

        Raises:
            BadQuery: the database refuses it.
        """

        def read() -> Rows:
            with self.transaction() as connection:
                if not _is_query(sql):
                    return _statement(connection, sql, limit)
                return query_rows(connection, self._query(sql), limit)

        return self._again(read)

    def json(self, sql: str, limit: int | None = None) -> list[str]:
        """Each row of the result of a query as the text of a JSON object, as PostgreSQL writes it.

        Raises:
            BadQuery: the database refuses it.
        """

        def read() -> list[str]:
            with self.transaction() as connection:
                return json_rows(connection, self._query(sql), limit)

        return self._again(read)

    def search_path(self) -> str:
        """The schemas of the stages that share no name of a table with another stage, and the path of the login."""
        schemas = [self.store.schemas(stage).current for stage in self.unshared()]
        return ", ".join([*map(quote, schemas), self.store.database.own_search_path])

    def unshared(self) -> list[str]:
        """The stages whose tables can be named without the stage."""
        stages = self._stages()
        counts = Counter(table.name for version in stages.values() for table in version.tables.values())
        return [
            stage
            for stage, version in stages.items()
            if all(counts[table.name] == 1 for table in version.tables.values())
        ]

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A READ ONLY transaction for SQL of people, on one state of the database.

        Raises:
            BadQuery: the database refuses a statement.
        """
        path = self.search_path()
        with self.store.database.transaction(read_only=True) as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.execute("SELECT pg_catalog.set_config('search_path', %s, true)", (path,))
            yield connection

    def _query(self, sql: str) -> str:
        return with_schemas(
            without_last_semicolon(sql), lambda stage: self.store.schemas(stage).current, self._stages()
        )

    def _stages(self) -> dict[str, StageVersion]:
        try:
            return committed.stages(self.store)
        except NotMaterialized:
            return {}

    def _again(self, read: Callable[[], _T]) -> _T:
        """Views refuse a transaction that is older than the commit that made them: it is begun again."""
        for left in reversed(range(_TRIES)):
            try:
                return read()
            except (psycopg.Error, adbc_driver_manager.Error) as error:
                if error.sqlstate != _SERIALIZATION_FAILURE or not left:
                    raise self._refused(error) from None
        raise AssertionError

    def _refused(self, error: psycopg.Error | adbc_driver_manager.Error) -> BadQuery:
        if isinstance(error, adbc_driver_manager.Error):
            return BadQuery(f"The database refuses the query: {error}")
        hint = ""
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            name = self.store.config.name
            hint = f" Write tables as stage.table. `pipedag-dagster list {name}` shows them."
        return refused("query", error, hint)


def refused(what: str, error: psycopg.Error, hint: str = "") -> BadQuery:
    """The error for what PostgreSQL says about a query or a condition."""
    said = error.diag.message_primary or str(error)
    if error.diag.message_hint:
        said += f". {error.diag.message_hint}"
    return BadQuery(f"The database refuses the {what}: {said.rstrip('.')}.{hint}")


def query_rows(connection: Connection, query: str, limit: int | None) -> Rows:
    """The first rows of a query, as texts."""
    columns = _described(connection, query)
    numbered = [f"c{number}" for number in range(len(columns))]
    texts = ", ".join(f"{name}::pg_catalog.text" for name in numbered)
    whole = f"SELECT {texts} FROM ({query}\n) AS q ({', '.join(numbered)})"
    values = _one_statement(connection, whole if limit is None else f"{whole} LIMIT {limit + 1}").fetchall()
    types = connection.execute(
        "SELECT pg_catalog.format_type(oid, modifier) FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.oid[]), "
        "pg_catalog.unnest(%s::pg_catalog.int4[])) WITH ORDINALITY AS t (oid, modifier, place) ORDER BY place",
        ([oid for _, oid, _ in columns], [modifier for _, _, modifier in columns]),
    ).fetchall()
    named = tuple((name, str(kind)) for (name, _, _), (kind,) in zip(columns, types, strict=True))
    return Rows(named, tuple(values[:limit]), limit is not None and len(values) > limit)


def json_rows(connection: Connection, query: str, limit: int | None) -> list[str]:
    """The first rows of a query, each as the text of a JSON object."""
    whole = f"SELECT pg_catalog.row_to_json(q)::pg_catalog.text FROM ({query}\n) AS q"
    return [row[0] for row in _one_statement(connection, whole if limit is None else f"{whole} LIMIT {limit}")]


def _statement(connection: Connection, sql: str, limit: int | None) -> Rows:
    """A statement that is not a query but has a result, like EXPLAIN or SHOW. Its values are texts."""
    cursor = _one_statement(connection, sql)
    if cursor.description is None:
        raise BadQuery("The statement has no result. Here people only read: write a query.")
    values = [tuple(None if value is None else str(value) for value in row) for row in cursor.fetchall()]
    columns = tuple((column.name, column.type_display) for column in cursor.description)
    return Rows(columns, tuple(values[:limit]), limit is not None and len(values) > limit)


def _described(connection: Connection, query: str) -> Sequence[tuple[str, int, int]]:
    """Name, type oid and type modifier of each column of a query."""
    cursor = _one_statement(connection, f"SELECT * FROM ({query}\n) AS q LIMIT 0")
    if not cursor.description or cursor.pgresult is None:
        raise BadQuery("The query has no columns.")
    return [
        (column.name, column.type_code, cursor.pgresult.fmod(number))
        for number, column in enumerate(cursor.description)
    ]


def _one_statement(connection: Connection, sql: str) -> psycopg.Cursor[tuple[Any, ...]]:
    # A result in the binary format takes PostgreSQL's extended protocol, which has one statement for each message. So
    # nobody ends the READ ONLY transaction.
    return connection.cursor(binary=True).execute(sql.encode())


def _is_query(sql: str) -> bool:
    first = next((token for token in tokens(sql) if token.is_code and token.text != "("), None)
    return first is not None and any(first.is_word(word) for word in _QUERIES)


def with_schemas(sql: str, schema: Callable[[str], str], stages: dict[str, StageVersion]) -> str:
    """The query with the schema of the instance in place of each stage, in `stage.table`.

    Args:
        schema: the schema of a stage.
        stages: the committed versions.
    """
    parts = list(tokens(sql))
    code = [number for number, token in enumerate(parts) if token.is_code]
    texts = [token.text for token in parts]
    for before, at, dot, after in zip([None, *code], code, code[1:], code[2:], strict=False):
        stage, name = _identifier(parts[at]), _identifier(parts[after])
        if parts[dot].text != "." or stage not in stages or (before is not None and parts[before].text == "."):
            continue
        if any(table.name == name for table in stages[stage].tables.values()):
            texts[at] = quote(schema(stage))
    return "".join(texts)


def _identifier(token: Token) -> str:
    """The name as PostgreSQL reads it; empty for other tokens."""
    if token.kind == "word":
        return token.text.lower()
    return token.text[1:-1].replace('""', '"') if token.text.startswith('"') else ""
