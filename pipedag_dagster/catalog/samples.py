"""What small instances remember of the samples that they have chosen, and what is known of the tables of a source.

A sample is a list of handles: the ctids of rows of physical tables, which never change. So it can be used again as long
as the source has the same physical tables and the rules are the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from pipedag_dagster.catalog.schema import CatalogTables
from pipedag_dagster.names import quote
from pipedag_dagster.postgres.database import execute

_KEPT = 3
"""So many samples of the same tables are remembered."""


@dataclass(frozen=True)
class SampledRows:
    """What one sample has of one table.

    Attributes:
        content: a hash of the rows in the sample.
        rows: how many they are.
        source_rows: how many rows the table has.
        reasons: how many rows were chosen for each reason (see `selection.Why`).
        rows_of_view: for a view, whose rows have no handles: the table in the schema of the catalog that has them.
    """

    content: str
    rows: int
    source_rows: int
    reasons: Mapping[str, int]
    rows_of_view: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the sample has all rows of the table. Then no handles are kept for it."""
        return self.rows == self.source_rows


class Samples(CatalogTables):
    """Statements on samples and profiles. Each takes the connection, and so the transaction, to run in."""

    def sample(self, connection: sa.Connection, key: str) -> dict[str, SampledRows] | None:
        """A sample by its key: what it has of each table (`stage.asset`). None when it is not remembered."""
        tables = connection.scalar(sa.select(self.samples.c.tables).where(self.samples.c.key == key))
        return None if tables is None else {name: SampledRows(**rows) for name, rows in tables.items()}

    def add_sample(self, connection: sa.Connection, key: str, tables: Mapping[str, SampledRows]) -> None:
        """Remember a sample, and forget older ones of the same tables. Its handles are added afterwards."""
        subject = " ".join(sorted(tables))
        of_subject = self.samples.c.subject == subject
        kept = sa.select(self.samples.c.key).where(of_subject).order_by(self.samples.c.at.desc()).limit(_KEPT - 1)
        old = self.samples.delete().where(of_subject, self.samples.c.key.not_in(kept.scalar_subquery()))
        for gone in connection.scalars(old.returning(self.samples.c.tables)).all():
            for rows in gone.values():
                if rows["rows_of_view"] is not None:
                    execute(connection, f"DROP TABLE {quote(self.schema, rows['rows_of_view'])}")
        body = {name: asdict(rows) for name, rows in tables.items()}
        connection.execute(self.samples.insert().values(key=key, subject=subject, tables=body))

    def handles(self, key: str, table: str) -> str:
        """A query for the handles of the rows of one table in a sample, each as a `tid`."""
        literals = (sa.literal(key), sa.literal(table))
        ours = [str(text.compile(compile_kwargs={"literal_binds": True})) for text in literals]
        where = f"sample = {ours[0]} AND table_name = {ours[1]}"
        return f"SELECT unnest(handles) FROM {quote(self.schema, self.sample_rows.name)} WHERE {where}"

    def out_of_step(self, connection: sa.Connection, numbers: Mapping[str, int]) -> tuple[str, str, str] | None:
        """Whether versions of several stages are not of one state: one was committed by a run, and another was not
        looked at by that run or a later one.

        Args:
            numbers: the version of each stage.

        Returns:
            The newer stage, the older one, and the run that committed the newer one; None when they belong together.
        """
        version, run = self.stage_version, self.run_table
        for newer, number in numbers.items():
            made = connection.execute(
                sa.select(version.c.run_id, version.c.committed_at).where(
                    version.c.stage == newer, version.c.number == number
                )
            ).one_or_none()
            if made is None:
                continue
            for older in sorted(numbers.keys() - {newer}):
                # A run that has changed the other stage after the version in question proves nothing about it.
                changed = sa.select(version.c.run_id).where(version.c.stage == older, version.c.number > numbers[older])
                seen = sa.select(run.c.run_id).where(
                    run.c.stage == older,
                    (run.c.run_id == made.run_id) | (run.c.at >= made.committed_at),
                    run.c.run_id.not_in(changed),
                )
                if connection.scalar(seen.limit(1)) is None:
                    return newer, older, made.run_id
        return None

    def profile(self, connection: sa.Connection, stage: str, physical: str, key: str) -> Any:
        """What is known of a physical table (see `sampling/profile.py`); None when nothing is."""
        table = self.profiles
        same = (table.c.stage == stage, table.c.physical == physical, table.c.key == key)
        return connection.scalar(sa.select(table.c.body).where(*same))

    def add_profile(self, connection: sa.Connection, stage: str, physical: str, key: str, body: Any) -> None:
        """Remember what is known of a physical table. `body` can be written as JSON."""
        values = {"stage": stage, "physical": physical, "key": key, "body": json.loads(json.dumps(body))}
        statement = insert(self.profiles).values(values)
        update = {"body": statement.excluded.body}
        statement = statement.on_conflict_do_update(index_elements=["stage", "physical", "key"], set_=update)
        connection.execute(statement)

    def forget_profiles(self, connection: sa.Connection, stage: str) -> None:
        """Forget what is known of physical tables that are gone."""
        made = self.table_version
        self.keep_profiles(connection, stage, sa.select(made.c.physical).where(made.c.stage == stage))

    def keep_profiles(self, connection: sa.Connection, stage: str, physical: Collection[str] | sa.Select[Any]) -> None:
        """Forget what is known of all other physical tables of a stage."""
        table = self.profiles
        connection.execute(table.delete().where(table.c.stage == stage, table.c.physical.not_in(physical)))
