"""What the catalog forgets: old versions of a stage, results that nothing uses, and what older runs did."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from pipedag_dagster.catalog.pins import Pins
from pipedag_dagster.catalog.reason import ReasonKind
from pipedag_dagster.catalog.rows import OutputKind
from pipedag_dagster.catalog.samples import Samples
from pipedag_dagster.names import StageSchemas, quote

KEPT_RUNS = 50
"""For each table, the catalog remembers at least so many runs that made it, and so many in which it was cached. Older
ones are forgotten when there are `_MANY_RUNS` times as many."""

_MANY_RUNS = 3

_NAMESPACE = sa.table("pg_namespace", sa.column("nspname", sa.Text))
_RELATION = sa.table("pg_class", sa.column("relname", sa.Text), sa.column("relkind"), sa.column("relnamespace"))


class Forgetting(Pins, Samples):
    """Statements that forget. Each takes the connection, and so the transaction, to run in."""

    def forget(self, connection: sa.Connection, stage: str, keep: int, asset: str | None = None) -> None:
        """Forget stage versions, except the last `keep` and the pinned ones, and everything that nothing refers to.

        Results that were written after the newest forgotten version stay: the next run may use them. What one execution
        made goes together. The physical tables are the caller's to drop.

        Args:
            asset: what older runs did is forgotten when too many are remembered of this table, because most runs do
                something about all tables of a stage; without it, always.
        """
        self.pins_lock(shared=False).take(connection)
        self._forget_pins(connection)
        last = connection.scalar(sa.select(self._last_not_kept(stage, keep)))
        connection.execute(self.stage_version.delete().where(self._is_old(stage, keep)))
        if last is not None:
            connection.execute(self.table_version.delete().where(self._is_unused(stage, sa.literal(last))))
        if asset is None or connection.scalar(sa.select(self._are_many_runs(stage, asset))):
            self._forget_runs(connection, stage)
        self._forget_texts(connection)
        self.forget_profiles(connection, stage)

    def is_anything_left(
        self, connection: sa.Connection, stage: str, schemas: StageSchemas, keep: int, asset: str | None
    ) -> bool:
        """Whether there is anything to clean up in a stage: to forget here, or to drop from its schemas. One statement.

        Args:
            asset: see `forget`. Without it, runs are not looked at.
        """
        namespace, relation = _NAMESPACE.c, _RELATION.c
        old = sa.func.substr(namespace.nspname, len(schemas.old) + 1).regexp_match(r"^\d*$")
        versions = sa.func.to_regnamespace(quote(schemas.versions))
        left = (
            sa.exists().where(self._has_ended()),
            sa.exists().where(self._is_old(stage, keep)),
            sa.exists().where(self._is_unused(stage, self._last_not_kept(stage, keep))),
            self._are_many_runs(stage, asset),
            sa.exists().where(sa.func.starts_with(namespace.nspname, schemas.old), old),
            sa.exists().where(namespace.nspname == schemas.next),
            sa.exists().where(
                relation.relnamespace == versions,
                relation.relkind.in_(["r", "v"]),
                relation.relname.not_in(self._physical_names(stage)),
            ),
        )
        return bool(connection.scalar(sa.select(sa.or_(*left))))

    def physical_names(self, connection: sa.Connection, stage: str) -> set[str]:
        """The physical tables and views of a stage that are known."""
        return set(connection.scalars(self._physical_names(stage)))

    def _physical_names(self, stage: str) -> sa.Select[str]:
        made = self.table_version.c
        return sa.select(made.physical).where(made.stage == stage, made.kind.in_([OutputKind.table, OutputKind.view]))

    def _newest(self, stage: str) -> sa.Select[int]:
        version = self.stage_version
        return sa.select(version.c.number).where(version.c.stage == stage).order_by(version.c.number.desc())

    def _last_not_kept(self, stage: str, keep: int) -> sa.ScalarSelect[object]:
        """When the newest version that is not kept was committed."""
        newest = self._newest(stage).with_only_columns(self.stage_version.c.committed_at)
        return newest.offset(keep).limit(1).scalar_subquery()

    def _is_old(self, stage: str, keep: int) -> sa.ColumnElement[bool]:
        """Whether a stage version is neither kept nor pinned."""
        version, pin = self.stage_version, self.pins
        pinned = sa.select(pin.c.number).where(pin.c.stage == stage, pin.c.until >= sa.func.now())
        kept = self._newest(stage).limit(keep).correlate(None)
        return sa.and_(
            version.c.stage == stage, version.c.number.not_in(kept.scalar_subquery()), version.c.number.not_in(pinned)
        )

    def _is_unused(self, stage: str, before: sa.ColumnElement[object]) -> sa.ColumnElement[bool]:
        """Whether a table version was made before a time, by an execution whose results no stage version has."""
        made, member = self.table_version.alias(), self.stage_table
        used = sa.select(made.c.execution).join(member, member.c.table_version == made.c.id)
        table = self.table_version
        return sa.and_(
            table.c.stage == stage,
            table.c.execution.not_in(used.where(made.c.stage == stage)),
            table.c.created_at < before,
        )

    def _are_many_runs(self, stage: str, asset: str | None) -> sa.Exists:
        run = self.run_table
        runs = sa.select(run.c.run_id).where(run.c.stage == stage, run.c.asset == asset)
        return runs.offset(_MANY_RUNS * KEPT_RUNS).limit(1).exists()

    def _forget_runs(self, connection: sa.Connection, stage: str) -> None:
        """Forget what older runs did about each table of a stage."""
        run = self.run_table
        kinds = (run.c.asset, run.c.reason == ReasonKind.cached.value)
        newest = sa.func.row_number().over(partition_by=kinds, order_by=run.c.at.desc()).label("newest")
        ranked = sa.select(run.c.run_id, run.c.asset, newest).where(run.c.stage == stage).subquery()
        old = sa.select(ranked.c.run_id, ranked.c.asset).where(ranked.c.newest > KEPT_RUNS)
        connection.execute(run.delete().where(run.c.stage == stage, sa.tuple_(run.c.run_id, run.c.asset).in_(old)))

    def _forget_texts(self, connection: sa.Connection) -> None:
        """Forget the texts that nothing refers to any more."""
        run, made, text = self.run_table, self.table_version, self.text
        columns = (made.c.text, run.c.old_text, run.c.new_text)
        used = sa.union_all(*(sa.select(column).where(column.is_not(None)) for column in columns))
        connection.execute(text.delete().where(text.c.key.not_in(used)))

    def disown(self, connection: sa.Connection, stage: str, broken: Collection[str]) -> list[str]:
        """Let no run find the results of the executions that made these physical tables or files, so that their tasks
        run again. Forget the older versions of the stage that show them. Returns the names of the tables."""
        made, member, version, pin = self.table_version, self.stage_table, self.stage_version, self.pins
        damaged = sa.and_(made.c.stage == stage, made.c.physical.in_(broken) | made.c.file.in_(broken))
        executions = list(connection.scalars(sa.select(made.c.execution).where(damaged).distinct()))
        ids = list(connection.scalars(sa.select(made.c.id).where(damaged)))
        names = list(connection.scalars(sa.select(made.c.name).where(damaged).distinct().order_by(made.c.name)))
        nothing = {"task_key": "", "cache_key": ""}
        connection.execute(made.update().where(made.c.execution.in_(executions)).values(nothing))
        shows = sa.select(member.c.number).where(member.c.stage == stage, member.c.table_version.in_(ids))
        newest = sa.select(sa.func.max(version.c.number)).where(version.c.stage == stage).scalar_subquery()
        connection.execute(
            version.delete().where(
                version.c.stage == stage,
                version.c.number.in_(shows),
                version.c.number < newest,
                version.c.number.not_in(sa.select(pin.c.number).where(pin.c.stage == stage)),
            )
        )
        connection.execute(made.delete().where(made.c.id.in_(ids), made.c.id.not_in(sa.select(member.c.table_version))))
        return names
