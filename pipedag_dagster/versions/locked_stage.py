"""What only the run that holds the lock of a stage may do: write tables, record them, and commit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Catalog, RunRecord, SourceVersion, StageVersion, TableVersion
from pipedag_dagster.data.blobs import BlobStore
from pipedag_dagster.errors import DatabaseError
from pipedag_dagster.fingerprint.code_text import CodeText
from pipedag_dagster.names import TableRef, physical_name, quote
from pipedag_dagster.postgres.advisory_lock import take_in_order
from pipedag_dagster.postgres.database import STAGING, Database, driver_of
from pipedag_dagster.postgres.query_reads import QueryReads, query_reads
from pipedag_dagster.postgres.session import settings_of_a_transaction
from pipedag_dagster.versions import (
    cleanup,
    commit,
    copy_rows,
    same_content,
    schema_objects,
    write_script,
    write_table,
    write_view,
)
from pipedag_dagster.versions.copy_rows import SourceRows
from pipedag_dagster.versions.instance_schemas import InstanceSchemas
from pipedag_dagster.versions.same_content import Identity, unique_identity
from pipedag_dagster.versions.write_table import Constraints, PhysicalTable

log = logging.getLogger(__name__)


class _Together(threading.local):
    """The transaction of one thread. It begins when it is first needed."""

    stack: ExitStack | None = None
    connection: sa.Connection | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        with ExitStack() as self.stack:
            try:
                yield
            finally:
                self.stack = self.connection = None

    def enter(self, transaction: AbstractContextManager[sa.Connection]) -> sa.Connection:
        assert self.stack is not None
        self.connection = self.stack.enter_context(transaction)
        return self.connection

    @contextmanager
    def until_committed(self) -> Iterator[None]:
        """Commit the transaction, if there is one, after the block."""
        yield
        if self.stack is not None:
            self.connection = None
            self.stack.close()


class LockedStage:
    """A stage, while a run holds its lock (see `TableStore.lock`).

    Args:
        stage: its name.
        run_id: of the run that holds the lock.
        check: raises ConnectionLost when the lock was lost.
        blobs: gives the files of the instance.
    """

    def __init__(
        self,
        stage: str,
        run_id: str,
        database: Database,
        catalog: Catalog,
        schemas: InstanceSchemas,
        blobs: Callable[[], BlobStore],
        check: Callable[[], None],
    ) -> None:
        self.stage = stage
        self.run_id = run_id
        self.check = check
        self._database = database
        self._catalog = catalog
        self._instance_schemas = schemas
        self._schemas = schemas.of(stage)
        self._owner = schemas.owner(stage)
        self.config = schemas.config
        self._blobs = blobs
        self._pinned: int | None = None
        self._together = _Together()
        self._adding = threading.Lock()
        self._row_counts: set[tuple[str, int]] | None = None

    def base(self, pinned: StageVersion) -> StageVersion:
        """The committed version of the stage, on which the run builds: the one that the run has pinned, unless another
        run has committed since."""
        self._pinned = pinned.number
        with self._database.look() as connection:
            number = self._catalog.newest(connection, [self.stage])[self.stage]
            return (
                pinned
                if number == pinned.number
                else self._catalog.versions(connection, {self.stage: number})[self.stage]
            )

    # Writing: nobody sees these tables before a commit

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within it, a table or view that this thread writes and its record (`add`) are one transaction. DataFrames and
        scripts have one of their own."""
        with self._or_lost(), self._together.opened():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """The transaction of `together`; without it, a new one."""
        if self._together.stack is None:
            with self._database.begin() as connection:
                yield connection
        else:
            yield self._together.connection or self._together.enter(self._database.begin())

    def write_frame(self, name: str, frame: Any, constraints: Constraints) -> PhysicalTable:
        """Write a DataFrame into a new physical table."""
        what = TableRef(self.stage, name)
        with self._or_lost():
            return write_table.from_frame(
                self._database, self._schemas.versions, physical_name(name), frame, constraints, what
            )

    def write_query(
        self, name: str, query: str, constraints: Constraints, source: Database | None = None
    ) -> PhysicalTable:
        """Write the rows of a query into a new physical table.

        Args:
            source: the database whose tables the query reads. When it is another one, the rows are streamed.
        """
        what, schema, physical = TableRef(self.stage, name), self._schemas.versions, physical_name(name)
        with self._or_lost(), self._transaction() as connection:
            writer = driver_of(connection)
            if source is None or self._database.same_as(source):
                return write_table.from_query(writer, self._database, schema, physical, query, constraints, what)
            return write_table.from_elsewhere(source, query, writer, schema, physical, constraints, what)

    def copy_rows(self, name: str, rows: SourceRows, constraints: Constraints) -> PhysicalTable:
        """Copy rows of a table of another instance into a new physical table."""
        with self._or_lost(), self._transaction() as connection:
            return copy_rows.copy(
                rows,
                driver_of(connection),
                self._database,
                self._schemas.versions,
                physical_name(name),
                constraints,
                TableRef(self.stage, name),
            )

    def write_view(self, name: str, query: str) -> PhysicalTable:
        """Make a view of a query on physical tables of the instance."""
        with self._or_lost(), self._transaction() as connection:
            return write_view.make(
                driver_of(connection),
                self._database,
                self._schemas.versions,
                physical_name(name),
                query,
                TableRef(self.stage, name),
                self._instance_schemas.role,
            )

    def query_reads(self, query: str) -> QueryReads:
        """What a query reads that has just made a table or view."""
        with self._or_lost(), self._transaction() as connection:
            return query_reads(driver_of(connection), self._database, query)

    def run_script(self, texts: Sequence[str], what: str) -> dict[str, PhysicalTable]:
        """Run a script. Returns the tables and views that it made, by name."""
        with self._or_lost():
            return write_script.run(self._database, self._schemas, texts, what, self._instance_schemas.role)

    def identify(self, asset: str, table: PhysicalTable, *, compare: bool = True) -> Identity:
        """What a new table holds (see `same_content`).

        Args:
            compare: with earlier versions. Without it, a table whose content is not known counts as changed.
        """
        if table.content is not None:
            return Identity(table.content, table.content_hash)
        if not compare or table.rows > self.config.content_hash_rows:
            return unique_identity()
        with self._or_lost(), self._transaction() as connection:
            if self._row_counts is None:
                self._row_counts = self._catalog.row_counts(connection, self.stage)
            if (asset, table.rows) not in self._row_counts:
                return unique_identity()
            schema = self._schemas.versions
            return same_content.identity(connection, self._catalog, schema, self.stage, asset, table)

    def hash_of(self, table: PhysicalTable) -> str:
        """A hash of the rows of a new table."""
        with self._or_lost(), self._transaction() as connection:
            return same_content.rows_hash(driver_of(connection), self._schemas.versions, table)

    def write_blob(self, data: bytes) -> str:
        """Write a blob. Returns the name of its file."""
        return self._blobs().write(self.stage, data)

    def drop(self, tables: Sequence[TableVersion]) -> None:
        """Drop tables and views that were written, and not recorded, in this order."""
        with self._database.transaction() as connection:
            for table in tables:
                name = quote(self._schemas.versions, table.physical)
                connection.execute(f"DROP {table.kind.name.upper()} IF EXISTS {name}".encode())

    def add(self, tables: Sequence[TableVersion], texts: Collection[CodeText] = ()) -> list[TableVersion]:
        """Record what one execution of a task has written, so that this or a later run can use it, with the texts of
        its code and queries. Returns the tables with their ids.

        Raises:
            ConnectionLost: the lock was lost. A task of a run that was interrupted may go on for a while; what it has
                written is gone, or belongs to nobody and is dropped by the next run that commits.
        """
        locks = [commit.gate_lock(self._schemas), *([self._catalog.pins_lock(shared=True)] if texts else [])]
        # Threads of one process wait for each other here, which is faster than in the database.
        with self._adding, self._together.until_committed(), self._transaction() as connection:
            # A query that ran in this transaction may have changed settings.
            take_in_order(connection, locks, before=f"{STAGING}; {settings_of_a_transaction()}; ")
            self.check()
            return self._catalog.add(connection, tables, texts)

    # Committing

    def commit(
        self,
        number: int,
        tables: Mapping[str, TableVersion],
        records: Sequence[RunRecord] = (),
        *,
        sources: Collection[SourceVersion] | None = None,
        restored: int | None = None,
    ) -> None:
        """Make these tables (by asset) the version `number` of the stage, atomically, and let the run see it. What the
        run did is recorded with it.

        Args:
            sources: what its inputs were copied from; without it, those of the version before.
            restored: the number of the version whose tables these are, for a rollback.

        Raises:
            ConnectionLost: the lock was lost, or the connection. Nothing was committed, or everything.
        """
        commit.commit(
            self._database,
            self._catalog,
            self._schemas,
            self._owner,
            number,
            list(tables.values()),
            self.run_id,
            records,
            sources,
            restored,
            check=self.check,
        )
        self._clean_up_after(records, is_changed=True)

    def shows(self, version: StageVersion) -> bool:
        """Whether people see the views of this version. Somebody may have dropped one."""
        with self._database.look() as connection:
            views = schema_objects.relations(connection, self._schemas.current, "v")
        return set(views) >= {table.name for table in version.tables.values() if table.in_database}

    def keep(self, number: int, records: Sequence[RunRecord]) -> None:
        """Instead of a commit, when nothing has changed: let the run see this version, and record what it did."""
        if number == self._pinned:
            with self._database.look() as connection:
                self._catalog.record(connection, records)
        else:
            with self._database.begin() as connection:
                self._catalog.record(connection, records)
                # Another run may have committed it since this one pinned what it sees.
                self._catalog.move_pin(connection, self.run_id, self.stage, number)
        self._clean_up_after(records, is_changed=False)

    # Cleaning up

    def clean_up(self, asset: str | None = None) -> None:
        """Drop old versions that nobody needs any more, and forget what older runs did (see `cleanup.clean_up`)."""
        before = self._files()
        keep = self.config.keep_versions
        cleanup.clean_up(self._database, self._catalog, self._schemas, self._owner, keep, asset, check=self.check)
        if before:
            self._remove_files(before - self._files())

    def clean_up_files(self) -> None:
        """Remove files that the catalog does not know: those of a run that was killed."""
        self._remove_files(self._blobs().sizes(self.stage).keys() - self._files())

    def _clean_up_after(self, records: Sequence[RunRecord], *, is_changed: bool) -> None:
        """Clean up after a commit. What goes wrong here does not undo it.

        Args:
            is_changed: without a change, first look whether there is anything to clean up.
        """
        asset = next((record.asset for record in records), None)
        try:
            if is_changed or self._is_anything_left(asset):
                self.clean_up(asset)
        except (DatabaseError, sa.exc.SQLAlchemyError, psycopg.Error) as error:
            log.warning("stage %s: old versions stay for the next run. %s", self.stage, error)

    def _is_anything_left(self, asset: str | None) -> bool:
        keep = self.config.keep_versions
        with self._database.look() as connection:
            return self._catalog.is_anything_left(connection, self.stage, self._schemas, keep, asset)

    def _files(self) -> set[str]:
        with self._database.look() as connection:
            return self._catalog.files(connection, self.stage)

    def _remove_files(self, names: Collection[str]) -> None:
        try:
            self._blobs().remove(self.stage, names)
        except Exception as error:  # what is visible is not touched by it; gc tries again
            log.warning("%s: blobs that nobody needs stay for now: %s", self.stage, error)

    @contextmanager
    def _or_lost(self) -> Iterator[None]:
        """After a crash, the server has lost what was just written. Then the lost lock is the error, and not what
        followed from it."""
        try:
            yield
        except Exception:
            self.check()
            raise
