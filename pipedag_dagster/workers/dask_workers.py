"""Workers of a cluster of Dask. What Dask does itself (resources, retries, adaptive scaling, TLS) is left to it."""

from __future__ import annotations

import asyncio
import atexit
import secrets
import sys
import threading
from typing import TYPE_CHECKING, Any

from pipedag_dagster.config.tasks import Tasks
from pipedag_dagster.errors import ConfigError, WorkerLost
from pipedag_dagster.workers.workers import DIED, Event, Job, Tell, import_path, importable, run_entry

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
        self._client, self._free = _client(tasks)

    def run(self, job: Job, tell: Tell) -> bytes:
        """See `Workers.run`."""
        import distributed  # noqa: PLC0415

        topic = f"pipedag-{secrets.token_hex(8)}"
        client: Any = self._client

        def heard(event: tuple[Any, Event]) -> None:
            tell(event[1])

        with self._free:
            self._tell_of_missing(job, tell)
            client.subscribe_topic(topic, heard)
            try:
                future = client.submit(
                    _run, job.entry, job.data, topic, import_path() if self._is_local else [],
                    key=f"{job.name}-{topic}", resources=dict(job.resources) or None, pure=False,
                )  # fmt: skip
                result: bytes = future.result()
            except distributed.KilledWorker as error:
                raise WorkerLost(
                    f"{job.name}: workers of {self.place} died while they ran it, {error.allowed_failures + 1} times. "
                    "Look at their logs; if they had too little memory, start workers with more, or ask for it by "
                    "@materialize(resources={…})."
                ) from error
            except (OSError, TimeoutError, asyncio.CancelledError, distributed.client.FutureCancelledError) as error:
                if client.status == "running" and isinstance(error, OSError):
                    raise
                raise WorkerLost(
                    f"{job.name}: the scheduler of {self.place} is gone: {error}. Start it again."
                ) from error
            finally:
                client.unsubscribe_topic(topic)
            return result

    def close(self) -> None:
        """Nothing: the cluster is used by the next stage, too. Tasks that are going on write nothing that counts."""

    def _tell_of_missing(self, job: Job, tell: Tell) -> None:
        """Dask waits for a worker that has the resources. Say so when there is none now."""
        if not job.resources:
            return
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
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


_clients: dict[tuple[Any, ...], tuple[Any, threading.Semaphore]] = {}
_connecting = threading.Lock()


def _client(tasks: Tasks) -> tuple[distributed.Client, threading.Semaphore]:
    """The client of a cluster, and how many of its tasks may run. All stages that this process runs share them."""
    try:
        import distributed  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"tasks: dask needs Dask: pip install 'pipedag_dagster[dask]' ({error}).") from None
    key = (tasks.address, tasks.count, tasks.minimum, tuple(sorted(tasks.resources.items())))
    with _connecting:
        if key not in _clients or _clients[key][0].status != "running":
            _clients[key] = _connected(distributed, tasks), threading.Semaphore(tasks.count)
        return _clients[key]


def _connected(distributed: Any, tasks: Tasks) -> Any:
    if tasks.address is not None:
        try:
            return distributed.Client(tasks.address, set_as_default=False)
        except (OSError, ValueError) as error:
            raise WorkerLost(
                f"The scheduler of Dask at {tasks.address} cannot be reached: {error}. Start it (dask scheduler), or "
                "fix tasks.address."
            ) from error
    # Not LocalCluster: its workers would import the program of the user again, and run it.
    cluster = distributed.SubprocessCluster(
        n_workers=tasks.count if tasks.minimum is None else tasks.minimum,
        threads_per_worker=1,
        dashboard_address=":0",
        worker_kwargs={"resources": tasks.resources, "env": importable()},
    )
    if tasks.minimum is not None:
        cluster.adapt(minimum=tasks.minimum, maximum=tasks.count)
    return distributed.Client(cluster, set_as_default=False)


@atexit.register
def _close() -> None:
    for client, _ in _clients.values():
        client.close()
        if client.cluster is not None:
            client.cluster.close()
    _clients.clear()
