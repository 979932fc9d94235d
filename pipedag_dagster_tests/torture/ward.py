"""Looks after a pipeline whose runs are killed: kills, looks at what is left, and lets a run finish."""

from __future__ import annotations

import itertools
import signal
import time
from collections import Counter

import sqlalchemy as sa

from pipedag_dagster import PipedagConfig
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.torture import Count, victim


class Ward:
    """Looks after one pipeline whose runs are killed."""

    def __init__(self, files: PipedagConfig, counted: Count) -> None:
        self.path = str(files.path)
        self.store: TableStore = files.get("full").store.table_store
        self.counted = counted
        self.left: Counter[str] = Counter()
        self.generations = itertools.count(1)
        self.visible = self.finish(next(self.generations))

    def finish(self, generation: int) -> int:
        assert victim.run(self.path, generation).successful
        assert self.shown() == {generation}
        return generation

    def shown(self) -> set[int]:
        """The generations that people see, over all tables of the stage."""
        with self.store.database.read() as connection:
            views = connection.scalars(
                sa.text("SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('full_work')")
            ).all()
            assert len(views) == victim.TABLES
            rows = (connection.scalars(sa.text(f'SELECT generation FROM full_work."{view}"')) for view in views)
            return set(itertools.chain.from_iterable(rows))

    def kill(self, step: str | None, delay: float | None = None) -> bool:
        """Kill a run of the next generation, look at what it has left, and let a run finish. False when it was too
        late: the run had ended."""
        generation = next(self.generations)
        process = victim.start(self.path, generation, step)
        if delay is not None:
            time.sleep(delay)
            process.kill()
        process.join(victim.SECONDS)
        assert process.exitcode in (0, -signal.SIGKILL)
        killed = process.exitcode != 0
        self.counted.tries += killed
        try:
            self.wait_for_locks()
            found = self.shown()
            assert found in ({self.visible}, {generation})
            assert [one.message for one in differences(self.store) if not one.harmless] == []
            self.visible = self.finish(generation)
            assert differences(self.store) == []
        except AssertionError:
            self.counted.violations += 1
            raise
        self.left["new" if found == {generation} else "old"] += killed
        return killed

    def seconds(self) -> float:
        """How long a whole run in a process of its own takes."""
        self.visible = next(self.generations)
        started = time.monotonic()
        process = victim.start(self.path, self.visible)
        process.join(victim.SECONDS)
        assert process.exitcode == 0
        return time.monotonic() - started

    def wait_for_locks(self) -> None:
        """The database notices by itself that a process is gone; a statement that runs is finished first."""
        until = time.monotonic() + 10
        query = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'pipedag run%'"
        )
        while time.monotonic() < until:
            with self.store.database.read() as connection:
                if not connection.scalar(sa.text(query)):
                    return
            time.sleep(0.02)
        raise AssertionError("a lock is left")
