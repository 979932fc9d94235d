"""The catalog of one instance: what was made, from what, by which run, and what is visible.

It lives in the schema `<prefix>pipedag` of the instance's own database, so that it changes in the same
transaction as the tables that it describes. Statements only; nothing here decides anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from pipedag_dagster.catalog.forgetting import Forgetting
from pipedag_dagster.catalog.reason import Reason, ReasonKind
from pipedag_dagster.catalog.rows import (
    CheckFinding,
    Column,
    Commit,
    Origin,
    OutputKind,
    RunRecord,
    SourceVersion,
    StageVersion,
    TableVersion,
)
from pipedag_dagster.catalog.samples import SampledRows
from pipedag_dagster.fingerprint.code_text import CodePart, CodeText

__all__ = [
    "Catalog",
    "CheckFinding",
    "Column",
    "Commit",
    "Origin",
    "OutputKind",
    "RunRecord",
    "SampledRows",
    "SourceVersion",
    "StageVersion",
    "TableVersion",
]


_FIELDS = [field for field in dataclasses.fields(TableVersion) if field.name not in ("id", "created_at")]
"""What is recorded of a table version. The database gives the rest."""


class Catalog(Forgetting):
    """Statements on the catalog in `schema`. Each takes the connection, and so the transaction, to run in."""

    # What is visible

    def current(self, connection: sa.Connection, stages: Collection[str]) -> dict[str, StageVersion]:
        """The newest version of each stage; number 0 where there is none."""
        return self.versions(connection, self.newest(connection, stages))

    def newest(self, connection: sa.Connection, stages: Collection[str]) -> dict[str, int]:
        """The number of the newest version of each stage; 0 where there is none."""
        table = self.stage_version
        newest = sa.select(table.c.stage, sa.func.max(table.c.number)).where(table.c.stage.in_(stages))
        found = {row[0]: row[1] for row in connection.execute(newest.group_by(table.c.stage))}
        return dict.fromkeys(stages, 0) | found

    def versions(self, connection: sa.Connection, numbers: Mapping[str, int]) -> dict[str, StageVersion]:
        """The given version of each stage."""
        member, made = self.stage_table, self.table_version
        wanted = sa.tuple_(member.c.stage, member.c.number).in_(list(numbers.items()))
        query = sa.select(made).join(member, member.c.table_version == made.c.id).where(wanted)
        tables: dict[str, dict[str, TableVersion]] = {stage: {} for stage in numbers}
        for row in connection.execute(query.order_by(made.c.id)):
            tables[row.stage][row.asset] = _table_version(row)
        return {stage: StageVersion(stage, number, tables[stage]) for stage, number in numbers.items()}

    def stages(self, connection: sa.Connection) -> list[str]:
        """All stages that have a version."""
        column = self.stage_version.c.stage
        return list(connection.scalars(sa.select(column).distinct().order_by(column)))

    def commits(self, connection: sa.Connection, stage: str) -> list[Commit]:
        """The versions of a stage that are there, the newest first."""
        table = self.stage_version
        rows = connection.execute(sa.select(table).where(table.c.stage == stage).order_by(table.c.number.desc()))
        return [
            Commit(
                row.number,
                row.committed_at,
                row.run_id,
                tuple(SourceVersion(**part) for part in row.sources),
                row.restored,
            )
            for row in rows
        ]

    def commit(
        self,
        connection: sa.Connection,
        stage: str,
        number: int,
        tables: Iterable[int],
        run_id: str,
        sources: Collection[SourceVersion] | None = None,
        restored: int | None = None,
    ) -> None:
        """Record a stage version. Without `sources`, it has those of the version before.

        Args:
            restored: the number of the version whose tables it has, when a rollback makes it.
        """
        table = self.stage_version
        if sources is None:
            before = sa.select(table.c.sources).where(table.c.stage == stage, table.c.number == number - 1)
            copied = connection.scalar(before) or []
        else:
            copied = [dataclasses.asdict(source) for source in sources]
        connection.execute(
            table.insert().values(stage=stage, number=number, run_id=run_id, sources=copied, restored=restored)
        )
        members = sa.func.unnest(sa.cast(list(tables), ARRAY(sa.BigInteger))).column_valued()
        rows = sa.select(sa.literal(stage), sa.literal(number), members)
        connection.execute(self.stage_table.insert().from_select(["stage", "number", "table_version"], rows))

    # What was made

    def add(
        self, connection: sa.Connection, tables: Iterable[TableVersion], texts: Iterable[CodeText] = ()
    ) -> list[TableVersion]:
        """Record the tables of one execution, and the texts that they refer to. Returns the tables with their ids. The
        caller holds `pins_lock`, so that texts which are there already are not forgotten meanwhile."""
        new_texts = {text.key: [list(vars(part).values()) for part in text.parts] for text in texts}
        added = []
        for table in tables:
            values = {field.name: getattr(table, field.name) for field in _FIELDS}
            values["columns"] = [dataclasses.asdict(column) for column in table.columns]
            if new_texts:
                number = connection.scalar(self._insert_with_texts, {**values, "new_texts": new_texts})
                new_texts = {}
            else:
                number = connection.scalar(self._insert, values)
            added.append(dataclasses.replace(table, id=number))
        return added

    @cached_property
    def _insert(self) -> Any:
        """The statement that records a table. It is made once, because making one takes longer than running it."""
        return self.table_version.insert().returning(self.table_version.c.id)

    @cached_property
    def _insert_with_texts(self) -> Any:
        """The same, with texts: in the order of their keys, so that two runs do not wait for each other."""
        new = sa.func.jsonb_each(sa.bindparam("new_texts", type_=JSONB)).table_valued(
            sa.column("key"), sa.column("value")
        )
        texts = sa.select(new.c.key, new.c.value).order_by(new.c.key)
        statement = insert(self.text).from_select(["key", "parts"], texts).on_conflict_do_nothing()
        columns: dict[str, Any] = {field.name: sa.bindparam(field.name) for field in _FIELDS}
        return self._insert.values(columns).add_cte(statement.cte("texts"))

    def find(self, connection: sa.Connection, stage: str, key: str, *, with_cache_value: bool) -> list[TableVersion]:
        """The tables of the newest execution with this cache key (or, without the value of the cache function,
        this task key); empty when there is none."""
        table = self.table_version
        column = table.c.cache_key if with_cache_value else table.c.task_key
        newest = (
            sa.select(table.c.execution)
            .where(table.c.stage == stage, column == key)
            .order_by(table.c.id.desc())
            .limit(1)
            .scalar_subquery()
        )
        rows = connection.execute(sa.select(table).where(table.c.execution == newest).order_by(table.c.id))
        return [_table_version(row) for row in rows]

    def with_as_many_rows(self, connection: sa.Connection, stage: str, asset: str, rows: int) -> list[TableVersion]:
        """The versions of a table that have so many rows, the newest first."""
        made = self.table_version
        query = sa.select(made).where(
            made.c.stage == stage, made.c.asset == asset, made.c.rows == rows, made.c.kind == OutputKind.table
        )
        return [_table_version(row) for row in connection.execute(query.order_by(made.c.id.desc()))]

    def row_counts(self, connection: sa.Connection, stage: str) -> set[tuple[str, int]]:
        """The tables of a stage, each with the numbers of rows that its versions have."""
        made = self.table_version
        query = sa.select(made.c.asset, made.c.rows).distinct().where(made.c.stage == stage)
        return {(row.asset, row.rows) for row in connection.execute(query)}

    def keys(self, connection: sa.Connection, stage: str) -> set[str]:
        """The task keys and cache keys of the results of a stage."""
        made = self.table_version
        query = sa.select(made.c.task_key, made.c.cache_key).where(made.c.stage == stage)
        return {key for row in connection.execute(query) for key in row}

    def keep_content_hash(self, connection: sa.Connection, table: TableVersion, content_hash: str) -> None:
        """Keep the hash of a table that was not hashed when it was written."""
        made = self.table_version
        connection.execute(made.update().where(made.c.id == table.id).values(content_hash=content_hash))

    def texts(self, connection: sa.Connection, keys: Collection[str]) -> dict[str, CodeText]:
        """The texts of code and queries, by key."""
        query = sa.select(self.text).where(self.text.c.key.in_(keys))
        return {row.key: CodeText(tuple(CodePart(*part) for part in row.parts)) for row in connection.execute(query)}

    # What runs did

    def record(self, connection: sa.Connection, tables: Iterable[RunRecord]) -> None:
        rows = [
            {name: part for name, part in vars(table).items() if name != "at"}
            | {"reason": table.reason.kind.value, "details": list(table.reason.details)}
            for table in tables
        ]
        if not rows:
            return
        # One statement for all rows, which travel as JSON.
        columns = [sa.column(name, self.run_table.c[name].type) for name in rows[0]]
        sent = sa.func.jsonb_to_recordset(sa.bindparam("rows", rows, JSONB)).table_valued(*columns)
        sent = sent.render_derived(name="sent", with_types=True)
        statement = insert(self.run_table).from_select(list(rows[0]), sa.select(*sent.c))
        update = {name: statement.excluded[name] for name in rows[0] if name not in ("run_id", "stage", "asset")}
        connection.execute(statement.on_conflict_do_update(index_elements=["run_id", "stage", "asset"], set_=update))

    def of_run(self, connection: sa.Connection, run_id: str) -> list[tuple[RunRecord, TableVersion]]:
        """What a run did, in order. Tables that were dropped since are left out."""
        run, made = self.run_table, self.table_version
        query = sa.select(run.c.reason, run.c.details, run.c.seconds.label("run_seconds"), made)
        query = query.join(made, made.c.id == run.c.table_version).where(run.c.run_id == run_id)
        return [
            (RunRecord(run_id, row.stage, row.asset, _reason(row), row.run_seconds, row.id), _table_version(row))
            for row in connection.execute(query.order_by(run.c.at, made.c.id))
        ]

    def runs(self, connection: sa.Connection, stage: str, asset: str, limit: int) -> list[RunRecord]:
        """What the last runs did about a table, the newest first."""
        run = self.run_table
        query = sa.select(run).where(run.c.stage == stage, run.c.asset == asset).order_by(run.c.at.desc()).limit(limit)
        names = [field.name for field in dataclasses.fields(RunRecord) if field.name != "reason"]
        return [
            RunRecord(reason=_reason(row), **{name: getattr(row, name) for name in names})
            for row in connection.execute(query)
        ]

    def assets(self, connection: sa.Connection) -> list[tuple[str, str]]:
        """Stage and asset of every table that runs are remembered of."""
        run = self.run_table
        rows = connection.execute(sa.select(run.c.stage, run.c.asset).distinct().order_by(run.c.stage, run.c.asset))
        return [(row.stage, row.asset) for row in rows]

    # What checks found. Tables never change, so this stays true.

    def findings(self, connection: sa.Connection, keys: Collection[str]) -> dict[str, CheckFinding]:
        """Earlier findings, by key."""
        table = self.check_result
        rows = connection.execute(sa.select(table).where(table.c.key.in_(keys)))
        return {row.key: CheckFinding(row.bad_rows, row.sample, row.seconds) for row in rows}

    def add_finding(self, connection: sa.Connection, key: str, table_version: int, finding: CheckFinding) -> None:
        values = {"key": key, "table_version": table_version, **dataclasses.asdict(finding)}
        connection.execute(insert(self.check_result).values(values).on_conflict_do_nothing())

    # What there is

    def table_versions(self, connection: sa.Connection, stage: str) -> list[TableVersion]:
        """Everything of a stage that is remembered, also what no version of the stage shows."""
        made = self.table_version
        rows = connection.execute(sa.select(made).where(made.c.stage == stage).order_by(made.c.id))
        return [_table_version(row) for row in rows]

    def files(self, connection: sa.Connection, stage: str) -> set[str]:
        """The files of the blobs of a stage that are known."""
        made = self.table_version.c
        return set(connection.scalars(sa.select(made.file).where(made.stage == stage, made.file.is_not(None))))

    def id(self, connection: sa.Connection) -> str:
        """The id of this catalog. No other catalog has it."""
        return str(connection.scalar(sa.select(self.meta.c.id)))


def _reason(row: sa.Row[Any]) -> Reason:
    return Reason(ReasonKind(row.reason), tuple(row.details))


def _table_version(row: sa.Row[Any]) -> TableVersion:
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(TableVersion)}
    values["columns"] = tuple(
        Column(**column | {"origins": tuple(map(tuple, column.get("origins", ())))}) for column in row.columns
    )
    values["kind"] = OutputKind(row.kind)
    values["primary_key"] = tuple(row.primary_key)
    values["indexes"] = tuple(tuple(index) for index in row.indexes)
    return TableVersion(**values)
