"""Where the tasks of a stage run."""

from __future__ import annotations

import os
import threading

from pipedag_dagster.config.tasks import Tasks
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.workers.processes import ProcessWorkers
from pipedag_dagster.workers.workers import Workers


class Places:
    """The workers that the tasks of a stage run use. They are started when the first task needs them, and ended with
    `close`.

    Args:
        tasks: the section `tasks` of the instance.
    """

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = tasks
        self._processes: ProcessWorkers | None = None
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
            return self._dask() if place == "dask" else self._of_this_machine()

    def close(self) -> None:
        """End the processes, also in the middle of a task."""
        if self._processes is not None:
            self._processes.close()

    def _of_this_machine(self) -> ProcessWorkers:
        if self._processes is None:
            if not hasattr(os, "fork"):
                raise ConfigError("tasks: processes needs fork, which Windows does not have. Write tasks: dask.")
            self._processes = ProcessWorkers(self.tasks.count)
        return self._processes

    def _dask(self) -> Workers:
        from pipedag_dagster.workers.dask_workers import DaskWorkers  # noqa: PLC0415

        return DaskWorkers(self.tasks)
