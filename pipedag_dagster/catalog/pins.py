"""Pins: which run reads which stage version. A version stays as long as a pin on it is renewed.

Runs of other instances pin here too, under database roles of their own that may not write to this catalog. So pins are
written by functions with the rights of the catalog's owner. They note the role that called them, and touch only the
pins of that role.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from pipedag_dagster.catalog.functions import CALLER, LEASE_MINUTES
from pipedag_dagster.catalog.schema import CatalogTables
from pipedag_dagster.errors import PinLost
from pipedag_dagster.names import quote
from pipedag_dagster.postgres.advisory_lock import TransactionLock

_REMEMBERED = datetime.timedelta(days=7)
"""How long a pin that has ended is remembered, so that its run is refused instead of being given another version."""


class Pins(CatalogTables):
    """Statements on the pins in the catalog. Each takes the connection, and so the transaction, to run in."""

    def pin(self, connection: sa.Connection, run_id: str, stages: Collection[str]) -> dict[str, int]:
        """Pin the newest version of each stage for a run, except those that it has pinned before. Returns its pins.

        Raises:
            PinLost: a version that the run has pinned before is gone.
        """
        self.pins_lock(shared=True).take(connection)
        rows = self._call(connection, "SELECT * FROM {}(%s, %s)", "pin_stages", run_id, sorted(stages)).all()
        return _numbers(run_id, rows)

    def pin_now(self, connection: sa.Connection, run_id: str, stages: Collection[str]) -> dict[str, int] | None:
        """Like `pin`, in one statement; None when something is being forgotten, and `pin` would have to wait."""
        rows = self._call(connection, _PIN_NOW, "pin_stages", self._pin_lock, run_id, sorted(stages)).all()
        return _numbers(run_id, (pin for _, *pin in rows if pin[0] is not None)) if rows[0][0] else None

    def renew_pins(self, connection: sa.Connection, run_id: str) -> bool:
        """Let the pins of a run last for another lease. False: it has none."""
        return bool(self._call(connection, "SELECT {}(%s)", "renew_pins", run_id).scalar())

    def unpin(self, connection: sa.Connection, run_id: str) -> None:
        """Release the pins of a run."""
        self._call(connection, "SELECT {}(%s)", "release_pins", run_id)

    def move_pin(self, connection: sa.Connection, run_id: str, stage: str, number: int) -> None:
        """Let a run see the version that it has just committed. Only the owner of the catalog may."""
        until = sa.func.now() + datetime.timedelta(minutes=LEASE_MINUTES)
        statement = insert(self.pins).values(role=sa.literal_column(CALLER), until=until)
        update = {"number": statement.excluded.number, "until": statement.excluded.until}
        statement = statement.on_conflict_do_update(index_elements=["role", "run_id", "stage"], set_=update)
        connection.execute(statement, {"run_id": run_id, "stage": stage, "number": number})

    def pinned(self, connection: sa.Connection, stage: str | None = None) -> list[tuple[str, str, int]]:
        """Which run pins which version of which stage, without the pins that have ended."""
        pin = self.pins
        query = sa.select(pin.c.run_id, pin.c.stage, pin.c.number).where(pin.c.until >= sa.func.now(), pin.c.number > 0)
        query = query if stage is None else query.where(pin.c.stage == stage)
        return [(row.run_id, row.stage, row.number) for row in connection.execute(query.order_by(pin.c.run_id))]

    def _forget_pins(self, connection: sa.Connection) -> None:
        connection.execute(self.pins.delete().where(self._has_ended()))

    def _has_ended(self) -> sa.ColumnElement[bool]:
        """Whether a pin has ended so long ago that it can be forgotten."""
        return self.pins.c.until < sa.func.now() - _REMEMBERED

    @property
    def _pin_lock(self) -> str:
        return f"pipedag:{self.schema}:pin"

    def pins_lock(self, *, shared: bool) -> TransactionLock:
        """Nothing is forgotten while somebody pins (shared), and nothing is pinned while somebody forgets."""
        return TransactionLock(self._pin_lock, f"the pins in {self.schema}", shared)

    def _call(
        self, connection: sa.Connection, query: str, function: str, *arguments: str | list[str]
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        name = quote(self.schema, function).replace("%", "%%")  # which means something to the driver
        return connection.exec_driver_sql(query.format(name), arguments)


# The function takes its own snapshot, after the lock was taken: its argument depends on that. It pins nothing when the
# lock is not free.
_PIN_NOW = """
    SELECT l.is_free, p.*
    FROM (SELECT pg_try_advisory_xact_lock_shared(hashtextextended(%s, 0)) AS is_free OFFSET 0) AS l
    LEFT JOIN LATERAL {}(%s, CASE WHEN l.is_free THEN %s::text[] ELSE ARRAY[]::text[] END) AS p ON true
"""


def _numbers(run_id: str, pins: Iterable[Sequence[Any]]) -> dict[str, int]:
    """The numbers of the versions that a run has pinned, by stage.

    Raises:
        PinLost: one of them is gone.
    """
    pins = list(pins)
    gone = [f"version {number} of stage {stage!r}" for stage, number, is_there in pins if not is_there]
    if gone:
        raise PinLost(
            f"Run {run_id} reads {', '.join(gone)}, which was dropped meanwhile: nothing renewed the pins of the "
            f"run for {LEASE_MINUTES} minutes, and newer versions were committed. Start a new run."
        )
    return {stage: number for stage, number, _ in pins}
