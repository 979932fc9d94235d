"""Reading table versions: as DataFrames, as tables of SQLAlchemy, or a few rows for people."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import psycopg
import pyarrow as pa
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import OutputKind, TableVersion
from pipedag_dagster.data import frames, json_values, polars_plans, polars_scan, streams
from pipedag_dagster.data.blobs import BlobStore
from pipedag_dagster.data.sql_types import sql_type
from pipedag_dagster.data.streams import TableStream
from pipedag_dagster.errors import NotMaterialized
from pipedag_dagster.frame_types import FrameType, batch_class, data_type, is_sql
from pipedag_dagster.graph.external_table import ExternalTableReference
from pipedag_dagster.names import TableRef, quote
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.versions.instance_schemas import InstanceSchemas

HEAD_COLUMNS = 20
"""How many columns of a table `heads` shows."""

_BATCH = 100  # tables that are read in one transaction: each takes an entry of PostgreSQL's lock table


class TableReader:
    """Reads table versions of one instance.

    Args:
        blobs: gives the files of the instance.
    """

    def __init__(self, database: Database, schemas: InstanceSchemas, blobs: Callable[[], BlobStore]) -> None:
        self.database = database
        self.schemas = schemas
        self._blobs = blobs
        self._reflected: dict[str, sa.Table] = {}

    def read(
        self, table: TableVersion, kind: type | None = None, *, where: str | None = None, limit: int | None = None
    ) -> Any:
        """A table version as `kind`. Values and blobs are returned as the objects that they are.

        Args:
            kind: `pd.DataFrame` (the default), `pa.Table`, `pl.DataFrame`, or `sa.Table` for an alias to build queries
                on. `pa.RecordBatchReader` and `Iterator[…]` of a frame give the rows batch by batch.
            where: an SQL condition: only these rows of it.
            limit: at most so many rows of a frame.

        Raises:
            NotMaterialized: the version was dropped meanwhile, or it is a value that contains tables.
            TaskFailed: the file of a blob was changed, or a column cannot be read as it is (see `docs/types.md`).
        """
        what = str(TableRef(table.stage, table.name))
        if table.file is not None:
            return self._blobs().load(table.stage, table.file, what)
        if table.kind is OutputKind.value:
            return json_values.decode(table.value, lambda part: _refuse_part(what, part))
        self.refuse_lost(table)
        if is_sql(kind):
            reflected = self.reflect(table)
            return reflected.alias(table.name) if where is None else _rows(reflected, where).subquery(table.name)
        return self._frame(self.name_of(table), kind, what, partial(self._told_of, table), where=where, limit=limit)

    def _frame(
        self,
        name: str,
        kind: type | None,
        what: str,
        told: Callable[[], AbstractContextManager[None]],
        *,
        where: str | None = None,
        limit: int | None = None,
    ) -> Any:
        """The rows of a relation: a frame, or a stream of them.

        Args:
            name: of the relation, quoted.
            told: the context of all that uses a connection.
        """
        cls, batch = kind or frames.default_class(), batch_class(kind)
        if data_type(cls) is FrameType.ARROW_STREAM:
            return streams.reader(self._stream(name, pa.Table, what, told, where))
        if batch is not None:
            return self._stream(name, batch, what, told, where)
        with told():
            return frames.read_table(self.database.uri, name, cls, what, where=where, limit=limit)

    def _stream(
        self, name: str, batch: type, what: str, told: Callable[[], AbstractContextManager[None]], where: str | None
    ) -> TableStream:
        def batches() -> Iterator[Any]:
            with told():
                yield from streams.read(self.database.uri, name, batch, what, where=where)

        return TableStream(batches(), what)

    def stream(self, table: TableVersion, batch: type) -> TableStream:
        """The rows of a table version, batch by batch. Nothing is read before the first batch is asked for, and errors
        come then.

        Args:
            batch: the class of the batches: `pd.DataFrame`, `pl.DataFrame` or `pa.Table`.
        """
        what = str(TableRef(table.stage, table.name))
        return self._stream(self.name_of(table), batch, what, partial(self._told_of, table), None)

    def scan(self, table: TableVersion) -> Any:
        """A table version as a polars LazyFrame, which reads the rows batch by batch when it is collected. Errors of
        values come then."""
        what = str(TableRef(table.stage, table.name))
        return polars_scan.scan(self.database.uri, self.name_of(table), what, partial(self._told_of, table))

    @contextmanager
    def _told_of(self, table: TableVersion) -> Iterator[None]:
        try:
            with self.database.told():
                yield
        except Exception as error:
            if getattr(error, "sqlstate", None) == psycopg.errors.UndefinedTable.sqlstate:
                raise self._gone(table) from None
            raise

    def read_external(self, reference: ExternalTableReference, kind: type | None = None) -> Any:
        """A table that somebody else owns, as it is now.

        Args:
            kind: as for `read`.

        Raises:
            NotMaterialized: it does not exist.
            TaskFailed: a column cannot be read as it is.
        """
        name, schema = reference.name, reference.schema
        with self.database.read() as connection:
            try:
                table = sa.Table(name, sa.MetaData(), schema=schema, autoload_with=connection)
            except sa.exc.NoSuchTableError:
                raise NotMaterialized(
                    f"Table {quote(schema, name)} does not exist in the database of instance "
                    f"{self.schemas.config.name!r}. Create it, or fix ExternalTableReference(name, schema)."
                ) from None
        if is_sql(kind):
            return table.alias(name)
        return self._frame(quote(schema, name), kind, f"{schema}.{name}", self.database.told)

    def refuse_lost(self, table: TableVersion) -> None:
        """
        Raises:
            NotMaterialized: the table is unlogged, and a crash of the server has emptied it.
        """
        if self.is_lost(table):
            what = TableRef(table.stage, table.name)
            raise NotMaterialized(f"{what} is unlogged, and empty since a crash of the server. Run its stage again.")

    def is_lost(self, table: TableVersion) -> bool:
        """Whether a table is unlogged, and a crash of the server has emptied it."""
        if not table.parts.get("unlogged") or not table.rows or not table.in_database:
            return False
        with self.database.transaction(read_only=True) as connection:
            row = connection.execute(f"SELECT EXISTS (SELECT FROM {self.name_of(table)})".encode()).fetchone()
        return row == (False,)

    def shape(self, table: TableVersion) -> Any:
        """A table version as a polars LazyFrame without rows, whose plan names the physical table."""
        return polars_plans.shape(self.database.uri, self.name_of(table), table.physical)

    def described(self, table: TableVersion) -> sa.Table:
        """The physical table for SQLAlchemy, as the catalog describes it. Nothing is asked of the database, unless the
        catalog does not know enough of a type."""
        types = [sql_type(column.type) for column in table.columns]
        if None in types:
            return self.reflect(table)
        columns = [
            sa.Column(column.name, type_, nullable=column.nullable, primary_key=column.name in table.primary_key)
            for column, type_ in zip(table.columns, types, strict=True)
        ]
        return sa.Table(table.physical, sa.MetaData(), *columns, schema=self.schemas.of(table.stage).versions)

    def reflect(self, table: TableVersion) -> sa.Table:
        """The physical table for SQLAlchemy, as it is in the database. It never changes, so it is looked up once.

        Raises:
            NotMaterialized: it was dropped meanwhile.
        """
        if table.physical not in self._reflected:
            schema = self.schemas.of(table.stage).versions
            with self.database.read() as connection:
                try:
                    reflected = sa.Table(table.physical, sa.MetaData(), schema=schema, autoload_with=connection)
                except sa.exc.NoSuchTableError:
                    raise self._gone(table) from None
            self._reflected[table.physical] = reflected
        return self._reflected[table.physical]

    def heads(self, tables: Sequence[TableVersion], rows: int) -> dict[str, list[tuple[str | None, ...]]]:
        """A few rows of each table, by physical name, as short texts. Of wide tables, only the first columns."""
        shown = [table for table in tables if table.kind is OutputKind.table and table.columns]
        heads: dict[str, list[tuple[str | None, ...]]] = {table.physical: [] for table in shown}
        for start in range(0, len(shown), _BATCH):
            batch = shown[start : start + _BATCH]
            query = " UNION ALL ".join(f"({self._head(number, table, rows)})" for number, table in enumerate(batch))
            with self.database.transaction(read_only=True) as connection:
                for number, row in connection.execute(query.encode()).fetchall():
                    heads[batch[number].physical].append(tuple(row))
        return heads

    def _head(self, number: int, table: TableVersion, rows: int) -> str:
        columns = (f"left({quote(column.name)}::text, 80)" for column in table.columns[:HEAD_COLUMNS])
        return f"SELECT {number}, ARRAY[{', '.join(columns)}] FROM {self.name_of(table)} LIMIT {rows}"

    def name_of(self, table: TableVersion) -> str:
        """The quoted name of the physical table, with its schema."""
        return quote(self.schemas.of(table.stage).versions, table.physical)

    def _gone(self, table: TableVersion) -> NotMaterialized:
        return NotMaterialized(
            f"This version of {TableRef(table.stage, table.name)} was dropped since (keep_versions: "
            f"{self.schemas.config.keep_versions}). Read it again: a newer one is there."
        )


def _rows(table: sa.Table, where: str) -> sa.Select[Any]:
    # A colon before a name would be a parameter.
    return sa.select(table).where(sa.text(re.sub(r":(?=\w)", r"\:", where)))


def _refuse_part(what: str, part: str) -> Any:
    raise NotMaterialized(f"{what} is a value that contains tables, like {part!r}: read that one.")
