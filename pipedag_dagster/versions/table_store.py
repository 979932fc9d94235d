"""The tables of one instance in one database: reading pinned versions, staging new ones, committing."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Catalog, CheckFinding, RunRecord, StageVersion, TableVersion
from pipedag_dagster.config.instances import InstanceConfig
from pipedag_dagster.data import frames, json_values, polars_plans
from pipedag_dagster.data.blobs import BlobStore
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import DatabaseError, NotMaterialized
from pipedag_dagster.fingerprint.code_text import CodeText
from pipedag_dagster.graph.tables import SCRIPT_SCHEMA
from pipedag_dagster.names import StageSchemas, quote
from pipedag_dagster.postgres.advisory_lock import StageLock, hold, take_in_transaction
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.versions import ownership
from pipedag_dagster.versions.instance_schemas import InstanceSchemas
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.ownership import Owner

log = logging.getLogger(__name__)

HEAD_COLUMNS = 20
"""How many columns of a table `heads` shows."""

_BATCH = 100  # tables that are read in one transaction: each takes an entry of PostgreSQL's lock table


_pinned: dict[str, dict[TableStore, None]] = {}


def take_pinned(run_id: str) -> list[TableStore]:
    """The stores in which a run has pinned something, in this process. It forgets them: the caller unpins."""
    return list(_pinned.pop(run_id, {}))


def pinned_by(run_id: str) -> list[TableStore]:
    """The stores in which a run has pinned something, in this process."""
    return list(_pinned.get(run_id, {}))


class Schema(str):
    """The name of a schema."""

    def get(self) -> str:
        return str(self)


class TableStore:
    """The store of one instance. Nothing connects before the first use; safe to use from several threads.

    Args:
        config: the instance. Its `schema_prefix` keeps it apart from the other instances of the database.
    """

    def __init__(self, config: InstanceConfig) -> None:
        self.config = config
        self.database = Database(
            config.url, config.project, create=config.create_database_if_not_exists, role=config.role
        )
        self.instance_schemas = InstanceSchemas(config)
        self.catalog = Catalog(self.instance_schemas.catalog)
        self._reflected: dict[str, sa.Table] = {}

    def schemas(self, stage: str) -> StageSchemas:
        return self.instance_schemas.of(stage)

    def get_schema(self, stage: str) -> Schema:
        """The schema of a stage by its name, as in pydiverse.pipedag: `get_schema(stage.name).get()`. For
        `stage.current_name` it is what a script writes to."""
        return Schema(stage if stage == SCRIPT_SCHEMA else self.schemas(stage).current)

    def owner(self, stage: str) -> Owner:
        return self.instance_schemas.owner(stage)

    def prepare(self, stages: Collection[str] = ()) -> None:
        """Make sure that the catalog is there and that the schemas of these stages are ours.

        Raises:
            NotOwned: a schema belongs to somebody else. Nothing was changed.
        """
        with self.database.begin() as connection:
            # Two processes may do so at once.
            take_in_transaction(connection, "pipedag:prepare", "the lock for making schemas")
            if ownership.claim(connection, self.catalog.schema, self.owner("")):
                self.catalog.create(connection)
            self.catalog.migrate(connection)
            for stage in stages:
                schemas = self.schemas(stage)
                ownership.claim(connection, schemas.current, self.owner(stage))
                ownership.claim(connection, schemas.versions, self.owner(stage))

    def exists(self) -> bool:
        """Whether anything of this instance was ever made. A catalog of an older format is brought to this one."""
        with self.database.read() as connection:
            if ownership.owner_of(connection, self.catalog.schema) != self.owner(""):
                return False
            ownership.refuse_code(connection, self.catalog.schema)
            old = self.catalog.is_old(connection)
            if old and not ownership.belongs_to_us(connection, self.catalog.schema):
                raise DatabaseError(
                    f"The catalog {self.catalog.schema!r} has an older format, and only the role that owns it may "
                    f"change that. Run its own instance {self.config.name!r} once."
                )
        if old:
            self.prepare()
        return True

    @property
    def blobs(self) -> BlobStore:
        """The files of the instance. Its catalog is there.

        Raises:
            ConfigError: `base_path` cannot be used.
        """
        with self.database.read() as connection:  # each time: the instance may be dropped, and run again
            return BlobStore(self.config.base_path, f"{self.config.instance_id}-{self.catalog.id(connection)}")

    # Reading

    def current(self, stages: Collection[str]) -> dict[str, StageVersion]:
        """The committed version of each stage; number 0 where there is none."""
        if not self.exists():
            return {stage: StageVersion(stage, 0, {}) for stage in stages}
        with self.database.read() as connection:
            return self.catalog.current(connection, stages)

    def pin(
        self, run_id: str, stages: Collection[str], wanted: Collection[str] | None = None
    ) -> dict[str, StageVersion]:
        """The versions that a run sees from its first step to its last: those that are current when it asks
        first. They are kept until `unpin`.

        Args:
            wanted: of these stages only are the tables returned; without it, of all.
        """
        wanted = stages if wanted is None else wanted
        if not self.exists():
            return {stage: StageVersion(stage, 0, {}) for stage in wanted}
        _pinned.setdefault(run_id, {})[self] = None
        with self.database.begin() as connection:
            pins = self.catalog.pin(connection, run_id, stages)
            return self.catalog.versions(connection, {stage: pins[stage] for stage in wanted})

    def unpin(self, run_id: str) -> None:
        """Give up what the run has pinned here."""
        with self.database.begin() as connection:
            ours = ownership.owner_of(connection, self.catalog.schema) == self.owner("")
            if ours and not self.catalog.is_old(connection):  # an older one was not pinned by this process
                self.catalog.unpin(connection, run_id)

    def get_stage_hash(self, stage: object) -> str:
        """A hash of the committed content of a stage: it changes when one of its tables does.

        Args:
            stage: a `Stage`, or its name.
        """
        name = str(getattr(stage, "name", stage))
        tables = self.current([name])[name].tables
        return digest(name, *(part for asset in sorted(tables) for part in (asset, tables[asset].data_version)))

    def read(self, table: TableVersion, kind: type | None = None, *, where: str | None = None) -> Any:
        """A table version as `kind`: a `pd.DataFrame` (the default), `pa.Table`, `pl.DataFrame`, or `sa.Table` for
        an alias to build queries on. What is no table comes as what it is.

        Args:
            where: an SQL condition: only these rows of it.

        Raises:
            NotMaterialized: the version was dropped meanwhile, or it is a value with tables in it.
            TaskFailed: a blob is not what was written.
        """
        what = f"{table.stage}.{table.name}"
        if table.file is not None:
            return self.blobs.load(table.stage, table.file, what)
        if table.kind == "json":
            return json_values.decode(table.value, lambda part: _refuse_part(what, part))
        if kind is not None and issubclass(kind, sa.FromClause):
            found = self.reflect(table)
            return found.alias(table.name) if where is None else _rows(found, where).subquery(table.name)
        source = quote(self.schemas(table.stage).versions, table.physical)
        try:
            with self.database.told():
                arrow = frames.read(self.database.uri, f"SELECT * FROM {source}" + (f" WHERE {where}" if where else ""))
        except Exception as error:
            if getattr(error, "sqlstate", None) == psycopg.errors.UndefinedTable.sqlstate:
                raise self._gone(table, what) from None
            raise
        if kind is None or issubclass(kind, pd.DataFrame):
            return frames.to_pandas(arrow)
        return frames.to_arrow(arrow, table.name) if issubclass(kind, pa.Table) else frames.to_polars(arrow, kind)

    def shape(self, table: TableVersion) -> Any:
        """A table version as a polars LazyFrame without rows, whose plan names the physical table."""
        source = quote(self.schemas(table.stage).versions, table.physical)
        return polars_plans.shape(self.database.uri, source, table.physical)

    def _gone(self, table: TableVersion, what: str) -> NotMaterialized:
        return NotMaterialized(
            f"This version of {what} was dropped since (keep_versions: "
            f"{self.config.keep_versions}). Read it again: a newer one is there."
        )

    def reflect(self, table: TableVersion) -> sa.Table:
        """The physical table for SQLAlchemy. It never changes, so it is looked up once."""
        if table.physical not in self._reflected:
            schema = self.schemas(table.stage).versions
            with self.database.read() as connection:
                try:
                    found = sa.Table(table.physical, sa.MetaData(), schema=schema, autoload_with=connection)
                except sa.exc.NoSuchTableError:
                    raise self._gone(table, f"{table.stage}.{table.name}") from None
            self._reflected[table.physical] = found
        return self._reflected[table.physical]

    def heads(self, tables: Sequence[TableVersion], rows: int) -> dict[str, list[tuple[str | None, ...]]]:
        """A few rows of each table, by physical name, as short texts; only the first columns of wide ones."""
        found: dict[str, list[tuple[str | None, ...]]] = {}
        shown = [table for table in tables if table.kind == "table" and table.columns]
        for start in range(0, len(shown), _BATCH):
            with self.database.transaction() as connection:
                connection.execute("SET TRANSACTION READ ONLY")
                for table in shown[start : start + _BATCH]:
                    columns = (f"left({quote(column.name)}::text, 80)" for column in table.columns[:HEAD_COLUMNS])
                    source = quote(self.schemas(table.stage).versions, table.physical)
                    query = f"SELECT {', '.join(columns)} FROM {source} LIMIT {rows}"
                    found[table.physical] = connection.execute(query.encode()).fetchall()
        return found

    def find(self, stage: str, key: str, *, with_cache_value: bool = True) -> list[TableVersion]:
        """What the newest execution with this key has made (see `Catalog.find`)."""
        with self.database.read() as connection:
            return self.catalog.find(connection, stage, key, with_cache_value=with_cache_value)

    def text(self, key: str | None) -> CodeText:
        """What is kept of the code and the query of a table version; empty when nothing is."""
        if key is None:
            return CodeText()
        with self.database.read() as connection:
            return self.catalog.texts(connection, [key]).get(key, CodeText())

    def findings(self, keys: Collection[str]) -> dict[str, CheckFinding]:
        """What checks have found before, by key."""
        with self.database.read() as connection:
            return self.catalog.findings(connection, keys)

    def add_finding(self, key: str, table: TableVersion, finding: CheckFinding) -> None:
        """Remember what a check has found in a table version."""
        with self.database.begin() as connection:
            self.catalog.add_finding(connection, key, table.id or 0, finding)

    # Committing

    def stage_lock(self, stage: str) -> StageLock:
        """The name of a stage's lock (see `lock` for holding it)."""
        instance = self.config.name
        what = f"stage {stage!r} of instance {instance!r}"
        return StageLock(self.schemas(stage).current, what, f"pipedag-dagster unlock {instance} {stage}")

    @contextmanager
    def lock(self, stage: str, run_id: str, tell: Callable[[str], None] | None = None) -> Iterator[LockedStage]:
        """Hold the lock of a stage: one run at a time writes a stage. What needs the lock is a method of what this
        yields.

        Args:
            tell: gets a line of text when it must wait.

        Raises:
            RunActive: another run holds it for longer than the instance's `lock_timeout`.

        Example:
            with store.lock("raw", run_id) as held:
                held.commit(number, tables)
        """
        timeout = self.config.lock_timeout
        with hold(self.database, self.stage_lock(stage), run_id, timeout=timeout, tell=tell) as check:
            yield LockedStage(
                stage, run_id, self.database, self.catalog, self.instance_schemas, lambda: self.blobs, check
            )

    def of_run(self, run_id: str) -> list[tuple[RunRecord, TableVersion]]:
        """What a run did, table by table."""
        with self.database.read() as connection:
            return self.catalog.of_run(connection, run_id)

    def runs(self, stage: str, asset: str, limit: int) -> list[RunRecord]:
        """What the last runs did about a table, the newest first."""
        with self.database.read() as connection:
            return self.catalog.runs(connection, stage, asset, limit)

    def close(self) -> None:
        self.database.close()


def _rows(table: sa.Table, where: str) -> sa.Select[Any]:
    # A colon before a name would be a parameter.
    return sa.select(table).where(sa.text(re.sub(r":(?=\w)", r"\:", where)))


def _refuse_part(what: str, part: str) -> Any:
    raise NotMaterialized(f"{what} is a value with tables in it, like {part!r}: read that one.")
