"""Workers of a cluster of Dask. What Dask does itself (resources, retries, adaptive scaling, TLS) is left to it."""

from __future__ import annotations

import asyncio
import atexit
import secrets
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipedag_dagster.config.tasks import Tasks
from pipedag_dagster.errors import ConfigError, WorkerLost
from pipedag_dagster.workers.local_cluster import LocalCluster
from pipedag_dagster.workers.workers import DIED, Event, Job, Tell, import_path, run_entry

if TYPE_CHECKING:
    import distributed


class DaskWorkers:
    """The workers of one cluster.

    Raises:
        ConfigError: Dask is not installed.
        WorkerLost: the cluster cannot be reached; (by `run`) or workers die, or the scheduler is gone.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._is_local = tasks.address is None
        self.place = tasks.address or "the cluster of Dask on this machine"
        self._connection = _connection(tasks)
        self._futures: set[distributed.Future[bytes]] = set()
        self._is_closed = False

    def run(self, job: Job, tell: Tell) -> bytes:
        """See `Workers.run`."""
        import distributed  # noqa: PLC0415

        topic = f"pipedag-{secrets.token_hex(8)}"
        client = self._connection.client

        def heard(event: tuple[Any, Event]) -> None:
            tell(event[1])

        with self._connection.free:
            self._tell_of_missing(job, tell)
            client.subscribe_topic(topic, heard)
            future = client.submit(
                _run, job.entry, job.data, topic, import_path() if self._is_local else [],
                key=f"{job.name}-{topic}", resources=dict(job.resources) or None, pure=False,
            )  # fmt: skip
            self._futures.add(future)
            try:
                result: bytes = future.result()
            except distributed.KilledWorker as error:
                raise WorkerLost(
                    f"{job.name}: workers of {self.place} died while they ran it, {error.allowed_failures + 1} times. "
                    "Look at their logs; if they had too little memory, start workers with more, or ask for it by "
                    "@materialize(resources={…})."
                ) from error
            except (OSError, TimeoutError, asyncio.CancelledError, distributed.client.FutureCancelledError) as error:
                if self._is_closed:
                    raise WorkerLost(f"{job.name}: the run has ended it.") from None
                self._connection.close()  # else it tries to connect again and again
                raise WorkerLost(f"{job.name}: the scheduler of {self.place} is gone. Start it again.") from error
            finally:
                self._futures.discard(future)
                if client.status == "running":
                    client.unsubscribe_topic(topic)
            return result

    def close(self) -> None:
        """Let the cluster forget the jobs that have not ended. It cannot interrupt those that a worker does: what they
        write does not count."""
        self._is_closed = True
        client = self._connection.client
        if self._futures and client.status == "running":
            client.cancel(list(self._futures))

    def _tell_of_missing(self, job: Job, tell: Tell) -> None:
        """Dask waits for a worker that has the resources. Say so when there is none now."""
        if not job.resources:
            return
        workers = self._connection.client.scheduler_info(n_workers=-1)["workers"].values()
        if not any(_has(worker["resources"], job) for worker in workers):
            wanted = " ".join(f"{name}={amount:g}" for name, amount in job.resources.items())
            tell((DIED, f"it waits: none of the {len(workers)} workers of {self.place} has {wanted}. Start one: "
                          f"dask worker ADDRESS --resources '{wanted}'"))  # fmt: skip


def _has(resources: dict[str, float], job: Job) -> bool:
    return all(resources.get(name, 0) >= amount for name, amount in job.resources.items())


def _run(entry: str, data: bytes, topic: str, path: list[str]) -> bytes:
    """On the worker: do a job. A worker of this machine imports what the host can import now."""
    import distributed  # noqa: PLC0415

    sys.path[:] = path or sys.path
    worker = distributed.get_worker()
    return run_entry(entry, data, lambda event: worker.log_event(topic, event))


_connections: dict[tuple[Any, ...], _Connection] = {}
_connecting = threading.Lock()


class _Connection:
    """A client of a cluster. All stages that this process runs share it."""

    def __init__(self, tasks: Tasks) -> None:
        try:
            from distributed import Client  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(f"tasks: dask needs Dask: pip install 'pipedag_dagster[dask]' ({error}).") from None
        self.free = threading.Semaphore(tasks.count)
        self._cluster = LocalCluster(tasks) if tasks.address is None else None
        address = tasks.address if self._cluster is None else self._cluster.address
        try:
            self.client: Any = Client(address, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise WorkerLost(
                f"The scheduler of Dask at {address} cannot be reached: {error}. Start it (dask scheduler), or "
                "fix tasks.address."
            ) from error

    def close(self) -> None:
        """Close it, and end the cluster, if it is one of our own."""
        with suppress(TimeoutError, OSError):
            self.client.close(timeout=1)
        if self._cluster is not None:
            self._cluster.close()


def _connection(tasks: Tasks) -> _Connection:
    key = (tasks.address, tasks.count, tasks.minimum, tuple(sorted(tasks.resources.items())))
    with _connecting:
        if key in _connections and _connections[key].client.status != "running":
            _connections.pop(key).close()
        if key not in _connections:
            _connections[key] = _Connection(tasks)
        return _connections[key]


@atexit.register
def _close() -> None:
    while _connections:
        _connections.popitem()[1].close()
