"""Writing one table of a stage by itself, as plain Dagster assets do: stage it, put it in place of its last version, or
of some of its rows, and commit. The other tables of the stage stay as they are."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from pipedag_dagster.catalog.catalog import Column, StageVersion, TableVersion
from pipedag_dagster.catalog.reason import CACHED, Reason, ReasonKind
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.execution.run_log import run_record
from pipedag_dagster.names import quote
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.write_table import Constraints, PhysicalTable


@dataclass(frozen=True)
class Slice:
    """Some rows of a table, by what is said about them: `where` gets the columns and returns a condition. `name` is for
    people: `partition 2026-01-01`."""

    name: str
    where: Callable[[Sequence[Column]], str]


@dataclass(frozen=True)
class NewTable:
    """What is to be written: `make` stages it into a physical table of its own.

    `key`: what it depends on; a table that was made for the same key is not made again. Without it, it is always made.
    """

    make: Callable[[Constraints], PhysicalTable]
    constraints: Constraints
    query: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class WriteResult:
    """What was written: the table as it is now, the stage version that has it, and the content and number of the rows
    that were given."""

    table: TableVersion
    version: int
    data_version: str
    rows: int
    cached: bool


def write_table(
    instance: ConfigContext, stage: str, name: str, run_id: str, content: NewTable, part: Slice | None = None
) -> WriteResult:
    """Write one table and commit it; nothing is committed when the table is what it was.

    Args:
        part: the rows to replace; without it, all. What is given must lie in it.

    Raises:
        UnstorableResult: the database refuses it, it has rows outside of the slice, or other columns than the rest of
            the table; or the name is that of another table.
        NotOwned: the stage's schema belongs to somebody else.
    """
    store = instance.store.table_store
    started = time.monotonic()
    store.prepare([stage])
    with store.lock(stage, run_id):
        base = store.current([stage])[stage]
        before = base.tables.get(name)
        if any(table.name == name and asset != name for asset, table in base.tables.items()):
            raise UnstorableResult(f"Stage {stage!r} has a table {name!r} already. Give the asset another name.")
        if before is not None and content.key is not None and before.cache_key == content.key:
            store.keep(stage, base.number, run_id, [run_record(run_id, CACHED, 0.0, before, before)])
            return WriteResult(before, base.number, before.data_version, before.rows, cached=True)
        given, made = _stage(store, f"{stage}.{name}", before, content, part)
        table = _version(stage, name, run_id, content, made, time.monotonic() - started)
        data_version = table.data_version if given is made else given.content or table.data_version
        if before is not None and _same(before, table):
            store.keep(
                stage,
                base.number,
                run_id,
                [run_record(run_id, Reason(ReasonKind.unchanged), table.seconds, before, before)],
            )
            return WriteResult(before, base.number, data_version, given.rows, cached=False)
        table = store.add([table])[0]
        members = dict(base.tables) | {name: table}
        records = [run_record(run_id, Reason(ReasonKind.written), table.seconds, table, before)]
        store.commit(stage, base.number + 1, members, run_id, records)
        return WriteResult(table, base.number + 1, data_version, given.rows, cached=False)


def newest(instance: ConfigContext, stage: str, run_id: str) -> StageVersion:
    """The version of a stage that a run reads: the newest when it asks first, or writes."""
    return instance.store.table_store.pin(run_id, [stage])[stage]


def _stage(
    store: TableStore, what: str, before: TableVersion | None, content: NewTable, part: Slice | None
) -> tuple[PhysicalTable, PhysicalTable]:
    """What was given, and the whole table with it."""
    if part is None:
        made = content.make(content.constraints)
        return made, made
    given = content.make(Constraints() if before else content.constraints)
    schema = store.schemas(what.partition(".")[0]).versions
    where = part.where(given.columns)
    with store.database.transaction() as connection:
        try:
            query = f"SELECT count(*) FROM {quote(schema, given.physical)} WHERE ({where}) IS NOT TRUE"
            row = connection.execute(query.encode()).fetchone()
        except psycopg.DataError as error:
            raise UnstorableResult(f"{what}: {part.name} cannot be compared with partition_expr: {error}") from None
        except psycopg.ProgrammingError as error:
            raise UnstorableResult(f"{what}: partition_expr is no expression of its columns: {error}") from None
        if row and row[0]:
            raise UnstorableResult(
                f"{what}: {row[0]:,} of {given.rows:,} rows are outside of {part.name}, by its partition_expr. Nothing "
                f"was committed. Return the rows of that partition only, or fix partition_expr. ({where})"
            )
        if before is None:
            return given, given
        query = _merged(connection, schema, what, before, given, part.where(before.columns))
    stage, _, name = what.partition(".")
    return given, store.stage_query(stage, name, query, content.constraints)


def _merged(
    connection: psycopg.Connection[tuple[object, ...]],
    schema: str,
    what: str,
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
            f"{what}: its other partitions have other columns ({differ}). Nothing was committed. Materialize all "
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
    stage: str, name: str, run_id: str, content: NewTable, made: PhysicalTable, seconds: float
) -> TableVersion:
    key = content.key or digest("plain asset", stage, name, run_id, secrets.token_hex(8))
    return TableVersion(
        stage=stage,
        asset=name,
        name=name,
        physical=made.physical,
        flow="",
        task="",
        execution=secrets.token_hex(8),
        slot="",
        task_key=key,
        cache_key=key,
        parts={},
        code_version="",
        data_version=made.content or key,
        columns=made.columns,
        primary_key=content.constraints.primary_key,
        indexes=content.constraints.indexes,
        rows=made.rows,
        bytes=made.bytes,
        query=content.query,
        run_id=run_id,
        seconds=seconds,
    )


def _same(before: TableVersion, table: TableVersion) -> bool:
    names = ("data_version", "columns", "primary_key", "indexes", "query")
    return all(getattr(before, name) == getattr(table, name) for name in names)
