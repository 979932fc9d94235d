"""A cluster of Dask on this machine, in a process of its own: `python -m pipedag_dagster.workers.local_cluster`.

It ends when the process ends that has started it, however that ends, and Ctrl-C in a terminal does not reach it. In the
process of the run itself, Dask's workers would import the program of the user again, and run it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import IO

from pipedag_dagster.config.tasks import Tasks
from pipedag_dagster.errors import WorkerLost
from pipedag_dagster.workers.workers import importable


class LocalCluster:
    """The host's end of it.

    Raises:
        WorkerLost: it does not start.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **importable()},
            start_new_session=True,
            text=True,
        )
        wanted = {"workers": tasks.count, "minimum": tasks.minimum, "resources": tasks.resources}
        print(json.dumps(wanted), file=self._input, flush=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise WorkerLost("The cluster of Dask on this machine does not start: see its output above.")

    def close(self) -> None:
        """End it at once, with what its workers do."""
        self._input.close()
        self._process.wait()

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin


def main() -> None:
    """Start a cluster as standard input says, print its address, and end when standard input does."""
    from distributed import LocalCluster as DaskCluster  # noqa: PLC0415

    wanted = json.loads(sys.stdin.readline())
    minimum = wanted["minimum"]
    with os.fdopen(os.dup(1), "w") as host:
        os.dup2(2, 1)  # what workers print must not fill the pipe, which nobody reads any more
        cluster = DaskCluster(  # type: ignore[no-untyped-call]
            n_workers=wanted["workers"] if minimum is None else minimum,
            threads_per_worker=1,
            dashboard_address=":0",
            resources=wanted["resources"],
        )
        if minimum is not None:
            cluster.adapt(minimum=minimum, maximum=wanted["workers"])
        print(cluster.scheduler_address, file=host)
    sys.stdin.read()
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    cluster.close()


if __name__ == "__main__":
    main()
