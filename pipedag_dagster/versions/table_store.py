"""The tables of one instance in one database: which versions there are, reading them, and the lock for writing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Catalog, StageVersion, TableVersion
from pipedag_dagster.config.instances import InstanceConfig
from pipedag_dagster.data.blobs import BlobStore
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import DatabaseError, NotMaterialized, WiringError, did_you_mean
from pipedag_dagster.graph.external_table import ExternalTableReference
from pipedag_dagster.graph.schema import SCRIPT_SCHEMA, Schema, schema_name
from pipedag_dagster.graph.tables import Table
from pipedag_dagster.names import StageSchemas, stage_name, table_name
from pipedag_dagster.postgres.advisory_lock import StageLock, TransactionLock, hold
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.versions import debug_table, ownership, pydiverse_schemas
from pipedag_dagster.versions.instance_schemas import InstanceSchemas
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.ownership import Owner
from pipedag_dagster.versions.records import Records
from pipedag_dagster.versions.table_reader import TableReader

log = logging.getLogger(__name__)

_pinned: dict[str, dict[TableStore, dict[tuple[str, int], StageVersion]]] = {}
"""The versions that each run has pinned and read in this process, by stage and number: they are read once."""


def pinned_by(run_id: str) -> list[TableStore]:
    """The stores in which a run has pinned something, in this process."""
    return list(_pinned.get(run_id, {}))


class TableStore:
    """The store of one instance. Nothing connects before the first use; it may be used from several threads.

    Args:
        config: of the instance.

    Attributes:
        reader: reads table versions.
        records: what the catalog remembers.
        database, catalog: what both are made of.
    """

    def __init__(self, config: InstanceConfig) -> None:
        self.config = config
        self.database = Database(
            config.url, config.project, create=config.create_database_if_not_exists, role=config.role
        )
        self.instance_schemas = InstanceSchemas(config)
        self.catalog = Catalog(self.instance_schemas.catalog)
        self.reader = TableReader(self.database, self.instance_schemas, lambda: self.blobs)
        self.records = Records(self.database, self.catalog)

    def schemas(self, stage: str) -> StageSchemas:
        return self.instance_schemas.of(stage)

    def get_schema(self, stage: str) -> Schema:
        """The schema of a stage by its name, as in pydiverse.pipedag: `get_schema(stage.name).get()`. For
        `stage.current_name` it is what a script writes to."""
        if stage == SCRIPT_SCHEMA:
            return Schema(stage)
        self.schemas(stage)
        return Schema(stage_name(stage), self.schema_prefix, self.schema_suffix)

    @property
    def schema_prefix(self) -> str:
        """What the names of all schemas begin with."""
        return self.config.schema_prefix

    @property
    def schema_suffix(self) -> str:
        """What the names of all schemas end with."""
        return self.config.schema_suffix

    @property
    def engine(self) -> sa.Engine:
        """The SQLAlchemy engine of the database, for queries of your own in cache functions. Parameters are written
        into the statement, so a text may be compared with a date."""
        return self.database.users_engine

    @contextmanager
    def engine_connect(self) -> Iterator[sa.Connection]:
        """A connection for queries of your own. Changes need `connection.commit()`."""
        with self.engine.connect() as connection:
            yield connection

    def execute(self, query: sa.Executable | str, *, conn: sa.Connection | None = None) -> sa.Result[Any]:
        """Run a statement: in a transaction of its own, or on `conn`.

        Returns:
            The rows, which can be read after the connection is closed.
        """
        statement = sa.text(query) if isinstance(query, str) else query
        if conn is not None:
            return conn.execute(statement)
        with self.engine.begin() as connection:
            result = connection.execute(statement)
            return result.freeze()() if result.returns_rows else result

    def owner(self, stage: str) -> Owner:
        return self.instance_schemas.owner(stage)

    def prepare(self, stages: Collection[str] = ()) -> None:
        """Make sure that the catalog is there and that the schemas of these stages are ours.

        Raises:
            NotOwned: a schema belongs to somebody else. Nothing was changed.
        """
        claimed = {self.catalog.schema: self.owner("")}
        for stage in stages:
            schemas = self.schemas(stage)
            claimed |= {schemas.current: self.owner(stage), schemas.versions: self.owner(stage)}
        with self.database.look() as connection:
            if ownership.are_claimed(connection, claimed) and not self.catalog.is_old(connection):
                return
        with self.database.begin() as connection:
            # Two processes may do so at once.
            TransactionLock("pipedag:prepare", "the lock for making schemas").take(connection)
            for stage in stages:
                pydiverse_schemas.refuse(connection, self.instance_schemas, stage)
            for schema, owner in claimed.items():
                is_new = ownership.claim(connection, schema, owner)
                if schema == self.catalog.schema:
                    if is_new:
                        self.catalog.create(connection)
                    self.catalog.migrate(connection)

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
        self,
        run_id: str,
        stages: Collection[str],
        wanted: Collection[str] | None = None,
        *,
        is_prepared: bool = False,
    ) -> dict[str, StageVersion]:
        """The versions that a run sees from its first step to its last: those that are current when it first asks. They
        are kept until `unpin`.

        Args:
            wanted: the stages whose tables are returned; without it, all.
            is_prepared: the caller has just called `prepare`, so nobody needs to look whether the catalog is there.

        Raises:
            PinLost: a version that the run has pinned before is gone.
        """
        wanted = stages if wanted is None else wanted
        versions = _pinned.get(run_id, {}).get(self)
        if versions is None:
            if not (is_prepared or self.exists()):
                return {stage: StageVersion(stage, 0, {}) for stage in wanted}
            versions = _pinned.setdefault(run_id, {}).setdefault(self, {})
        else:
            stages = wanted  # the others were pinned when the run asked first
        with self.database.look() as connection:
            pins = self.catalog.pin_now(connection, run_id, stages)
        if pins is None:
            with self.database.begin() as connection:
                pins = self.catalog.pin(connection, run_id, stages)
        missing = {stage: pins[stage] for stage in wanted if (stage, pins[stage]) not in versions}
        if missing:
            with self.database.look() as connection:
                read = self.catalog.versions(connection, missing)
            versions |= {(stage, version.number): version for stage, version in read.items()}
        return {stage: versions[stage, pins[stage]] for stage in wanted}

    def unpin(self, run_id: str) -> None:
        """Release what the run has pinned here."""
        stores = _pinned.get(run_id, {})
        is_known = stores.pop(self, None) is not None
        if not stores:
            _pinned.pop(run_id, None)
        with self.database.look() as connection:
            if ownership.owner_of(connection, self.catalog.schema) != self.owner(""):
                return
            if is_known or not self.catalog.is_old(connection):  # this process has pinned nothing in an older one
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
        """A table version as `kind` (see `TableReader.read`)."""
        return self.reader.read(table, kind, where=where)

    def retrieve_table_obj(self, table: Table | ExternalTableReference, as_type: type | None = None) -> Any:
        """A table by its name, for cache functions and for checks of a source. It is read as it is now: a task that
        calls this does not run again when the table changes.

        Args:
            table: `Table(name="orders")` with `table.stage = stage` for a table that is committed, or an
                `ExternalTableReference`, alone or in `Table(…)`.
            as_type: `pd.DataFrame` (the default), `pa.Table`, `pl.DataFrame`, or `sa.Table`.

        Raises:
            NotMaterialized: there is no such table.
        """
        reference = table.obj if isinstance(table, Table) else table
        if isinstance(reference, ExternalTableReference):
            return self.reader.read_external(reference, as_type)
        if not isinstance(table, Table) or table.name is None or table.stage is None:
            raise WiringError(
                'retrieve_table_obj: a table is found by its name and its stage. Write table = Table(name="orders") '
                "and table.stage = stage, or Table(ExternalTableReference(name, schema))."
            )
        stage, name = str(getattr(table.stage, "name", table.stage)), table_name(table.name)
        tables = {version.name: version for version in self.current([stage])[stage].tables.values()}
        if name not in tables:
            raise NotMaterialized(
                f"Instance {self.config.name!r} has not committed {stage}.{name}.{did_you_mean(name, tables)}"
            )
        return self.read(tables[name], as_type)

    # Writing

    def store_table(
        self,
        table: Table,
        schema: Schema | str | None = None,
        *,
        suffix: str = "",
        replace: bool = True,
        task: Any = None,
    ) -> str:
        """Write a table into a schema of your own, for looking at it.

        Args:
            schema: it must exist, and may not belong to a stage.
            suffix: is added to the name of the table.
            replace: whether a table of the same name is replaced.
            task: of pydiverse.pipedag, and refused: a table of a task is written by `Table(…).materialize()`.

        Returns:
            The name of the table in the schema. A table without a name gets a random one.

        Raises:
            WiringError: there is no such schema.
            NotOwned: the schema belongs to a stage or a catalog.
            UnstorableResult: the table cannot be stored.
        """
        if task is not None:
            raise WiringError(
                "store_table(…): a table of a task is part of its result. Write Table(…).materialize() in the task, or "
                "leave task= out and name a schema of your own."
            )
        if schema is None:
            raise WiringError(
                "No task runs here, so the schema to write to is not known. Write "
                'materialize(instance, Schema("debug")), or return the table from a task.'
            )
        place = debug_table.Place(schema_name(schema), suffix, replace)
        return debug_table.write(self.database, place, table, self.instance_schemas.role)

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

    def close(self) -> None:
        self.database.close()
