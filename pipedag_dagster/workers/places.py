"""Where the tasks of a stage run."""

from __future__ import annotations

import os
import threading

from pipedag_dagster.config.tasks import Tasks
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.workers.workers import Workers


class Places:
    """The workers that the tasks of a stage run use. They are started when the first task needs them, and ended with
    `close`.

    Args:
        tasks: the section `tasks` of the instance.
    """

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = tasks
        self._started: dict[str, Workers] = {}
        self._starting = threading.Lock()

    def workers(self, place: str | None) -> Workers | None:
        """The workers of a place.

        Args:
            place: one of `config.tasks.PLACES`, as the task says; None for that of the instance.

        Returns:
            None for threads of this process.

        Raises:
            ConfigError: it cannot be had here.
            WorkerLost: the cluster cannot be reached.
        """
        place = place or self.tasks.on
        if place == "threads":
            return None
        with self._starting:
            if place not in self._started:
                self._started[place] = self._dask() if place == "dask" else self._of_this_machine()
            return self._started[place]

    def close(self) -> None:
        """End what the tasks do, also in the middle."""
        for workers in self._started.values():
            workers.close()

    def _of_this_machine(self) -> Workers:
        if not hasattr(os, "fork"):
            raise ConfigError("tasks: processes needs fork, which Windows does not have. Write tasks: dask.")
        from pipedag_dagster.workers.processes import ProcessWorkers  # noqa: PLC0415

        return ProcessWorkers(self.tasks.count)

    def _dask(self) -> Workers:
        from pipedag_dagster.workers.dask_workers import DaskWorkers  # noqa: PLC0415

        return DaskWorkers(self.tasks)
