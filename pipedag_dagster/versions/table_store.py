"""The tables of one instance in one database: reading pinned versions, staging new ones, committing."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Catalog, CheckFinding, RunRecord, SourceVersion, StageVersion, TableVersion
from pipedag_dagster.config.instances import InstanceConfig
from pipedag_dagster.data import frames, json_values, polars_plans
from pipedag_dagster.data.blobs import BlobStore
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import ConnectionLost, DatabaseError, NotMaterialized
from pipedag_dagster.fingerprint.code_text import CodeText
from pipedag_dagster.graph.tables import SCRIPT_SCHEMA
from pipedag_dagster.names import CATALOG, StageSchemas, physical_name, quote
from pipedag_dagster.postgres.advisory_lock import StageLock, hold, take_in_transaction
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.versions import commit, ownership, write_script, write_table, write_view
from pipedag_dagster.versions.ownership import Owner
from pipedag_dagster.versions.write_table import Constraints, PhysicalTable

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
        self.catalog = Catalog(f"{config.schema_prefix}{CATALOG}{config.schema_suffix}")
        self._reflected: dict[str, sa.Table] = {}
        self._lock_checks: dict[str, Callable[[], None]] = {}

    def schemas(self, stage: str) -> StageSchemas:
        return StageSchemas.of(self.config.schema_prefix, stage, self.config.schema_suffix)

    def get_schema(self, stage: str) -> Schema:
        """The schema of a stage by its name, as in pydiverse.pipedag: `get_schema(stage.name).get()`. For
        `stage.current_name` it is what a script writes to."""
        return Schema(stage if stage == SCRIPT_SCHEMA else self.schemas(stage).current)

    def owner(self, stage: str) -> Owner:
        return Owner(self.config.pipeline, self.config.instance_id, stage)

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
        if table.stage in self._lock_checks:
            self._lock_checks[table.stage]()  # a server that crashed has lost what it had not written to its disk yet
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

    # Staging: new physical tables, visible to nobody

    def stage_frame(self, stage: str, name: str, frame: Any, constraints: Constraints) -> PhysicalTable:
        """Write a DataFrame into a new physical table."""
        schema, what = self.schemas(stage).versions, f"{stage}.{name}"
        with self._or_lost(stage):
            return write_table.from_frame(self.database, schema, physical_name(name), frame, constraints, what)

    def stage_query(
        self, stage: str, name: str, query: str, constraints: Constraints, source: TableStore | None = None
    ) -> PhysicalTable:
        """Write the rows of a query into a new physical table.

        Args:
            source: the instance whose tables the query reads, when it is another one. Rows are streamed when it lives
                in another database.
        """
        schema, what, limit = self.schemas(stage).versions, f"{stage}.{name}", self.config.content_hash_rows
        place = (self.database, schema, physical_name(name))
        with self._or_lost(stage):
            if source is None or self.database.same_as(source.database):
                return write_table.from_query(*place, query, constraints, what, hash_rows=limit)
            return write_table.from_elsewhere(source.database, query, *place, constraints, what, hash_rows=limit)

    def stage_view(self, stage: str, name: str, query: str) -> PhysicalTable:
        """Make a view of a query on physical tables of the instance."""
        schema, what = self.schemas(stage).versions, f"{stage}.{name}"
        with self._or_lost(stage):
            return write_view.make(self.database, schema, physical_name(name), query, what, self._place)

    def stage_script(self, stage: str, texts: Sequence[str], what: str) -> dict[str, PhysicalTable]:
        """Run a script. Returns the tables and views that it has made, by their names."""
        limit = self.config.content_hash_rows
        with self._or_lost(stage):
            return write_script.run(self.database, self.schemas(stage), texts, what, self._place, hash_rows=limit)

    @contextmanager
    def _or_lost(self, stage: str) -> Iterator[None]:
        """When something fails because the server has crashed, and so has lost what was just made, say that."""
        try:
            yield
        except Exception:
            if stage in self._lock_checks:
                self._lock_checks[stage]()
            raise

    def _place(self, schema: str, owner: Owner | None) -> str:
        """Whose a schema is that a view reads from: "ours" for physical tables of this instance."""
        if owner is None:
            return "nobody's"
        if owner != self.owner(owner.stage):
            return "another instance's"
        return "ours" if owner.stage and schema == self.schemas(owner.stage).versions else "moving"

    def stage_blob(self, stage: str, data: bytes) -> tuple[str, int]:
        """Write a blob. Returns its file, and its bytes."""
        return self.blobs.write(stage, data), len(data)

    def add(self, tables: Sequence[TableVersion], texts: Collection[CodeText] = ()) -> list[TableVersion]:
        """Record what one execution of a task has staged, so that this or a later run can use it, with the texts of
        its code and queries."""
        with self.database.begin(staging=True) as connection:
            for stage in {table.stage for table in tables}:
                commit.gate(connection, self.schemas(stage), self._lock_checks.get(stage, lambda: None))
            self._refuse_dropped(connection, tables)
            return self.catalog.add(connection, tables, texts)

    def _refuse_dropped(self, connection: sa.Connection, tables: Sequence[TableVersion]) -> None:
        """A task of a run that was interrupted may go on for a while. What it has staged is nobody's, and goes when the
        next run commits."""
        made = [table for table in tables if table.in_database]
        names = {quote(self.schemas(table.stage).versions, table.physical): table for table in made}
        query = sa.text("SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass(name) IS NULL")
        gone = connection.scalars(query, {"names": list(names)}).first()
        if gone is not None:
            raise ConnectionLost(
                f"{names[gone].stage}.{names[gone].name} was dropped before it was recorded: its run was interrupted, "
                "and another one has committed since. Nothing was recorded. Run it again."
            )

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
        """The lock of a stage, by name; see `lock` for holding it."""
        instance = self.config.name
        what = f"stage {stage!r} of instance {instance!r}"
        return StageLock(self.schemas(stage).current, what, f"pipedag-dagster unlock {instance} {stage}")

    @contextmanager
    def lock(self, stage: str, run_id: str, tell: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the stage's lock: one run at a time writes a stage.

        Args:
            tell: gets a line of text when it must wait.

        Raises:
            RunActive: another run holds it for longer than the instance's `lock_timeout`.
        """
        timeout = self.config.lock_timeout
        with hold(self.database, self.stage_lock(stage), run_id, timeout=timeout, tell=tell) as check:
            self._lock_checks[stage] = check
            try:
                yield
            finally:
                del self._lock_checks[stage]

    def commit(
        self,
        stage: str,
        number: int,
        tables: Mapping[str, TableVersion],
        run_id: str,
        records: Sequence[RunRecord] = (),
        *,
        sources: Collection[SourceVersion] | None = None,
        restored: int | None = None,
    ) -> None:
        """Make these tables (by asset) the version `number` of the stage, atomically, and let the run see it. What
        the run did is recorded with it. The caller holds the stage's lock.

        Args:
            sources: what its inputs were copied from; without it, what those of the version before were.
            restored: the number of the version whose tables these are, for a rollback.
        """
        commit.commit(
            self.database,
            self.catalog,
            self.schemas(stage),
            self.owner(stage),
            number,
            list(tables.values()),
            run_id,
            records,
            sources,
            restored,
            check=self._lock_checks[stage],
        )
        self._clean_up_after(stage)

    def clean_up(self, stage: str) -> None:
        """Drop what nobody needs any more. The caller holds the stage's lock."""
        before = self._files(stage)
        keep, check = self.config.keep_versions, self._lock_checks[stage]
        commit.clean_up(self.database, self.catalog, self.schemas(stage), self.owner(stage), keep, check=check)
        if before:
            self._remove_blobs(stage, before - self._files(stage))

    def clean_up_files(self, stage: str) -> None:
        """Remove files that the catalog does not know: of a run that was killed. The caller holds the stage's lock."""
        self._remove_blobs(stage, self.blobs.sizes(stage).keys() - self._files(stage))

    def _files(self, stage: str) -> set[str]:
        with self.database.read() as connection:
            return self.catalog.files(connection, stage)

    def _remove_blobs(self, stage: str, names: Collection[str]) -> None:
        try:
            if names:
                self.blobs.remove(stage, names)
        except Exception as error:  # what is visible is not touched by it; gc tries again
            log.warning("%s: blobs that nobody needs stay for now: %s", stage, error)

    def _clean_up_after(self, stage: str) -> None:
        """Clean up after what was to be done is done: what goes wrong here does not undo it."""
        try:
            self.clean_up(stage)
        except (DatabaseError, sa.exc.SQLAlchemyError, psycopg.Error) as error:
            log.warning("stage %s: old versions stay for the next run. %s", stage, error)

    def shows(self, version: StageVersion) -> bool:
        """Whether people see the views of this version: somebody may have dropped one."""
        with self.database.read() as connection:
            there = commit.relations(connection, self.schemas(version.stage).current, "v")
        return set(there) >= {table.name for table in version.tables.values() if table.in_database}

    def keep(self, stage: str, number: int, run_id: str, records: Sequence[RunRecord]) -> None:
        """Instead of a commit, when nothing has changed: let the run see this version, and record what it did. The
        caller holds the stage's lock."""
        with self.database.begin() as connection:
            self.catalog.record(connection, records)
            # Another run may have committed it since this one pinned what it sees.
            self.catalog.move_pin(connection, run_id, stage, number)
        self._clean_up_after(stage)

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
