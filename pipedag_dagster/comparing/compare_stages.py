"""Comparing two instances, or two versions of a stage: table by table, in the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg

from pipedag_dagster.catalog.catalog import OutputKind, StageVersion, TableVersion
from pipedag_dagster.comparing.compare_tables import Connection, compare
from pipedag_dagster.comparing.diff import Diff
from pipedag_dagster.comparing.relation import Relation
from pipedag_dagster.comparing.streamed import streamed
from pipedag_dagster.comparing.table_diff import Status, TableDiff
from pipedag_dagster.errors import NotComparable, NotMaterialized, did_you_mean
from pipedag_dagster.versions.table_store import TableStore


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        label: what people read.
        store: of the instance.
        stages: the version of each stage that is compared.
    """

    label: str
    store: TableStore
    stages: Mapping[str, StageVersion]

    def tables(self, stage: str | None, asset: str | None) -> dict[str, TableVersion]:
        """The tables by `stage.asset`: all, or those of a stage, or one."""
        return {
            f"{name}.{table.asset}": table
            for name, version in sorted(self.stages.items())
            for table in sorted(version.tables.values(), key=lambda table: table.asset)
            if stage in (None, name) and asset in (None, table.asset, table.name)
        }


def compare_sides(
    left: Side, right: Side, select: str | None = None, *, key: Sequence[str] = (), examples: int | None = None
) -> Diff:
    """What differs between two sides.

    Args:
        select: a stage, or `stage.table`. Without it, all tables.
        key: as for `compare`. Only for one table.
        examples: so many rows of one side are shown. Without it, 3; none where an instance has `preview: 0`, because
            its data is confidential. With 0, no values are shown at all.

    Raises:
        NotMaterialized: there is no such table; or a version was dropped meanwhile.
        NotComparable: the tables cannot be compared by this key.
    """
    stage, _, asset = (select or "").lower().partition(".")
    one, two = (side.tables(stage or None, asset or None) for side in (left, right))
    names = list(dict.fromkeys([*one, *two]))
    if not names and select:
        known = [name for side in (left, right) for name in (*side.tables(None, None), *side.stages)]
        raise NotMaterialized(f"Neither {left.label} nor {right.label} has {select!r}.{did_you_mean(select, known)}")
    if key and len(names) != 1:
        raise NotComparable("--key belongs to one table: name it as stage.table.")
    if examples is None:
        examples = min(3, *(side.store.config.preview for side in (left, right)))
    tables = (_compared(name, left, one.get(name), right, two.get(name), key, examples) for name in sorted(names))
    return Diff(left.label, right.label, tuple(tables))


def _compared(
    name: str,
    left: Side,
    one: TableVersion | None,
    right: Side,
    two: TableVersion | None,
    key: Sequence[str],
    examples: int,
) -> TableDiff:
    if one is None or two is None:
        table = one or two
        assert table is not None
        status = Status.added if one is None else Status.removed
        return TableDiff(name, status, table.kind.value, _rows(one), _rows(two))
    if not (one.in_database and two.in_database):
        return _stored_outside(name, one, two)
    same_store = left.store.schemas(one.stage) == right.store.schemas(two.stage)
    if same_store and one.physical == two.physical and left.store.database.same_as(right.store.database):
        kind = two.kind.value  # one immutable physical table
        return TableDiff(name, Status.equal, kind, one.rows, two.rows, both=one.rows, only_left=0, only_right=0)
    for side, table in ((left, one), (right, two)):
        side.store.reader.refuse_lost(table)
    try:
        with _relations(left, one, right, two) as (connection, relations, note):
            found = compare(connection, name, *relations, key=key, examples=examples, note=note)
            return replace(found, kind=two.kind.value)
    except psycopg.errors.UndefinedTable:
        raise NotMaterialized(f"A version of {name} was dropped meanwhile. Compare again.") from None


@contextmanager
def _relations(
    left: Side, one: TableVersion, right: Side, two: TableVersion
) -> Iterator[tuple[Connection, tuple[Relation, Relation], str]]:
    """Both tables in one READ ONLY transaction. From another database, the left one is streamed into a temporary
    table."""
    relations = _relation(left, one), _relation(right, two)
    if left.store.database.same_as(right.store.database):
        with right.store.database.transaction(read_only=True) as connection:
            yield connection, relations, ""
        return
    with streamed(left.store.database, relations[0], right.store.database) as (connection, copied):
        note = f"{one.rows:,} rows of {left.label} were copied from its database into a temporary table."
        yield connection, (copied, relations[1]), note


def _relation(side: Side, table: TableVersion) -> Relation:
    return Relation(side.store.reader.name_of(table), table.columns, table.rows, table.primary_key)


def _stored_outside(name: str, one: TableVersion, two: TableVersion) -> TableDiff:
    """Blobs and values: the hash of a file, or JSON."""
    equal = (one.kind, one.file, one.value) == (two.kind, two.file, two.value)
    note = "" if one.kind is two.kind else f"It was {one.kind.name} and is {two.kind.name}."
    if not equal and one.kind is OutputKind.blob and two.kind is OutputKind.blob:
        note = "The bytes of the pickle differ."
    return TableDiff(name, Status.equal if equal else Status.different, two.kind.value, note=note)


def _rows(table: TableVersion | None) -> int | None:
    return table.rows if table is not None and table.in_database else None
