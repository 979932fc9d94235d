"""Writing one table of a stage by itself, as plain Dagster assets do: write it, put it in place of its last version, or
of some rows of it, and commit. The other tables of the stage stay as they are."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from pipedag_dagster.catalog.catalog import Column, StageVersion, TableVersion
from pipedag_dagster.catalog.reason import CACHED, Reason, ReasonKind
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.execution.run_log import run_record
from pipedag_dagster.names import TableRef, quote
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.versions.copy_rows import SourceRows
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.same_content import Identity
from pipedag_dagster.versions.write_table import Constraints, PhysicalTable


@dataclass(frozen=True)
class Slice:
    """Some rows of a table: those for which a condition holds.

    Attributes:
        name: for people: `partition 2026-01-01`.
        where: gets the columns and returns the condition, as SQL.
    """

    name: str
    where: Callable[[Sequence[Column]], str]


@dataclass(frozen=True)
class FrameRows:
    """The rows of a DataFrame."""

    frame: Any

    def write(self, held: LockedStage, name: str, constraints: Constraints) -> PhysicalTable:
        return held.write_frame(name, self.frame, constraints)


@dataclass(frozen=True)
class QueryRows:
    """The rows of a query."""

    query: str

    def write(self, held: LockedStage, name: str, constraints: Constraints) -> PhysicalTable:
        return held.write_query(name, self.query, constraints)


@dataclass(frozen=True)
class CopiedRows:
    """Rows of a table of another instance."""

    source: SourceRows

    def write(self, held: LockedStage, name: str, constraints: Constraints) -> PhysicalTable:
        return held.copy_rows(name, self.source, constraints)


@dataclass(frozen=True)
class NewTable:
    """What is to be written.

    Attributes:
        key: what it depends on. A table that was made for the same key is not made again; without a key, it always is.
    """

    rows: FrameRows | QueryRows | CopiedRows
    constraints: Constraints
    key: str | None = None

    @property
    def query(self) -> str | None:
        return self.rows.query if isinstance(self.rows, QueryRows) else None


@dataclass(frozen=True)
class WriteResult:
    """What was written.

    Attributes:
        table: as it is now.
        version: the stage version that has it.
        data_version, rows: of the rows that were given.
        cached: it was there already.
    """

    table: TableVersion
    version: int
    data_version: str
    rows: int
    cached: bool


def write_table(
    instance: ConfigContext, ref: TableRef, run_id: str, new: NewTable, part: Slice | None = None
) -> WriteResult:
    """Write one table and commit it. Nothing is committed when the table has not changed.

    Args:
        part: the rows to replace; without it, all. All rows of `new` must lie in it.

    Raises:
        UnstorableResult: the database refuses it, it has rows outside of the slice, or its columns differ from those of
            the rest of the table; or another table has its name.
        NotOwned: the stage's schema belongs to somebody else.
    """
    store = instance.store.table_store
    started = time.monotonic()
    store.prepare([ref.stage])
    with store.lock(ref.stage, run_id) as held:
        base = store.current([ref.stage])[ref.stage]
        before = base.tables.get(ref.name)
        if any(table.name == ref.name and asset != ref.name for asset, table in base.tables.items()):
            raise UnstorableResult(
                f"Stage {ref.stage!r} has a table {ref.name!r} already. Give the asset another name."
            )
        if before is not None and new.key is not None and before.cache_key == new.key:
            held.keep(base.number, [run_record(run_id, CACHED, 0.0, before, before)])
            return WriteResult(before, base.number, before.data_version, before.rows, cached=True)
        given, whole = _write(held, store.database, store.schemas(ref.stage).versions, ref, before, new, part)
        table = _version(ref, run_id, new, whole, held.identify(ref.name, whole), time.monotonic() - started)
        data_version = table.data_version if part is None else given.content or held.hash_of(given)
        if before is not None and _same(before, table):
            held.keep(base.number, [run_record(run_id, Reason(ReasonKind.unchanged), table.seconds, before, before)])
            return WriteResult(before, base.number, data_version, given.rows, cached=False)
        table = held.add([table])[0]
        record = run_record(run_id, Reason(ReasonKind.written), table.seconds, table, before)
        held.commit(base.number + 1, dict(base.tables) | {ref.name: table}, [record])
        return WriteResult(table, base.number + 1, data_version, given.rows, cached=False)


def newest(instance: ConfigContext, stage: str, run_id: str) -> StageVersion:
    """The version of a stage that a run reads: the newest when it asks first, or writes."""
    return instance.store.table_store.pin(run_id, [stage])[stage]


def _write(
    held: LockedStage,
    database: Database,
    schema: str,
    ref: TableRef,
    before: TableVersion | None,
    new: NewTable,
    part: Slice | None,
) -> tuple[PhysicalTable, PhysicalTable]:
    """Write the given rows. Returns them, and the whole table."""
    if part is None:
        whole = new.rows.write(held, ref.name, new.constraints)
        return whole, whole
    given = new.rows.write(held, ref.name, Constraints() if before else new.constraints)
    where = part.where(given.columns)
    with database.transaction() as connection:
        try:
            query = f"SELECT count(*) FROM {quote(schema, given.physical)} WHERE ({where}) IS NOT TRUE"
            row = connection.execute(query.encode()).fetchone()
        except psycopg.DataError as error:
            raise UnstorableResult(f"{ref}: {part.name} cannot be compared with partition_expr: {error}") from None
        except psycopg.ProgrammingError as error:
            raise UnstorableResult(f"{ref}: partition_expr cannot be computed from its columns: {error}") from None
        if row and row[0]:
            raise UnstorableResult(
                f"{ref}: {row[0]:,} of {given.rows:,} rows are outside of {part.name}, by its partition_expr. Nothing "
                f"was committed. Return the rows of that partition only, or fix partition_expr. ({where})"
            )
        if before is None:
            return given, given
        query = _merged(connection, schema, ref, before, given, part.where(before.columns))
    return given, held.write_query(ref.name, query, new.constraints)


def _merged(
    connection: psycopg.Connection[tuple[object, ...]],
    schema: str,
    ref: TableRef,
    before: TableVersion,
    given: PhysicalTable,
    where: str,
) -> str:
    """The query of the table with the given rows in place of those for which `where` holds."""
    old = {column.name: column.type for column in before.columns}
    new = {column.name: column.type for column in given.columns}
    if set(old) != set(new):
        differ = ", ".join(sorted(set(old) ^ set(new)))
        raise UnstorableResult(
            f"{ref}: its other partitions have other columns ({differ}). Nothing was committed. Materialize all "
            "partitions in one run (BackfillPolicy.single_run()), or return the same columns."
        )

    def values(table: str, column: str, condition: str) -> bool:
        query = f"SELECT EXISTS (SELECT FROM {quote(schema, table)} WHERE {quote(column)} IS NOT NULL AND {condition})"
        return connection.execute(query.encode()).fetchone() == (True,)

    kept = f"({where}) IS NOT TRUE"
    left, right = [], []
    for column, kind in old.items():
        one = two = quote(column)
        # The type of a column without a value was guessed: that of the other side counts.
        if new[column] != kind:
            if not values(given.physical, column, "true"):
                two = f"NULL::{kind}"
            elif not values(before.physical, column, kept):
                one = f"NULL::{new[column]}"
        left.append(f"{one} AS {quote(column)}")
        right.append(two)
    return (
        f"SELECT {', '.join(left)} FROM {quote(schema, before.physical)} WHERE {kept}\n"
        f"UNION ALL SELECT {', '.join(right)} FROM {quote(schema, given.physical)}"
    )


def _version(
    ref: TableRef, run_id: str, new: NewTable, made: PhysicalTable, identity: Identity, seconds: float
) -> TableVersion:
    key = new.key or digest("plain asset", ref.stage, ref.name, run_id, secrets.token_hex(8))
    return TableVersion(
        stage=ref.stage,
        asset=ref.name,
        name=ref.name,
        physical=made.physical,
        flow="",
        task="",
        execution=secrets.token_hex(8),
        slot="",
        task_key=key,
        cache_key=key,
        parts={"ordered": True} if made.ordered else {},
        code_version="",
        data_version=identity.data_version,
        content_hash=identity.content_hash,
        columns=made.columns,
        primary_key=new.constraints.primary_key,
        indexes=new.constraints.indexes,
        rows=made.rows,
        bytes=made.bytes,
        query=new.query,
        run_id=run_id,
        seconds=seconds,
    )


def _same(before: TableVersion, table: TableVersion) -> bool:
    names = ("data_version", "columns", "primary_key", "indexes", "query")
    return all(getattr(before, name) == getattr(table, name) for name in names)
