"""Running the calls of a stage: independent ones at the same time, each after those that it needs."""

from __future__ import annotations

import contextvars
import graphlib
import heapq
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from pipedag_dagster.errors import PipedagError, SeveralFailed
from pipedag_dagster.execution.stage_result import Outcome
from pipedag_dagster.graph.flow import TaskCall

_LISTEN = 0.5  # seconds


class Scheduler:
    """Runs calls in threads.

    Args:
        run: runs one call.
        started, finished, failed: called for each call, in the thread that called `run_all`.
        threads: how many calls run at the same time.
        fail_fast: after a failure, no other call starts. Without it, only the calls that need the failed one do not.
    """

    def __init__(
        self,
        run: Callable[[TaskCall], Outcome],
        started: Callable[[TaskCall], None],
        finished: Callable[[Outcome], None],
        failed: Callable[[TaskCall], None],
        *,
        threads: int,
        fail_fast: bool,
        name: str = "",
    ) -> None:
        self.run, self.started, self.finished, self.failed = run, started, finished, failed
        self.threads, self.fail_fast, self.name = threads, fail_fast, name

    def run_all(self, calls: Iterable[TaskCall]) -> None:
        """Run the calls. A call needs those whose outputs it takes, as far as they are among `calls`.

        Raises:
            PipedagError: a call failed.
            SeveralFailed: several did.
        """
        calls = list(dict.fromkeys(calls))
        order, place = _order(calls), {call: number for number, call in enumerate(calls)}
        ready = [place[call] for call in order.get_ready()]  # a heap: those that come first in the flow start first
        heapq.heapify(ready)
        running: dict[Future[Outcome], TaskCall] = {}
        failures: list[PipedagError] = []
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix=self.name)
        try:
            while running or ready:
                # No more are submitted than can run: those that wait in the pool would start after a failure.
                while ready and len(running) < self.threads:
                    call = calls[heapq.heappop(ready)]
                    self.started(call)
                    running[pool.submit(contextvars.copy_context().run, self.run, call)] = call
                # Ctrl-C must reach this thread. Libraries of tasks (polars is one) may install handlers of signals by
                # which only a wait with a time is interrupted.
                done, _ = wait(running, timeout=_LISTEN, return_when=FIRST_COMPLETED)
                for future in done:
                    call = running.pop(future)
                    try:
                        outcome = future.result()
                    except PipedagError as failure:
                        failures.append(failure)  # what needs the call never becomes ready
                        self.failed(call)
                    else:
                        self.finished(outcome)
                        order.done(call)
                        for other in order.get_ready():
                            heapq.heappush(ready, place[other])
                if failures and self.fail_fast:
                    ready.clear()
        finally:
            # Nothing runs any more, unless this thread was interrupted: then nobody waits for the tasks.
            pool.shutdown(wait=False)
        _raise(failures)


def _order(calls: list[TaskCall]) -> graphlib.TopologicalSorter[TaskCall]:
    order: graphlib.TopologicalSorter[TaskCall] = graphlib.TopologicalSorter()
    chosen = set(calls)
    for call in calls:
        order.add(call, *({*(output.call for output in call.inputs), *call.after} & chosen))
    order.prepare()
    return order


def _raise(failures: list[PipedagError]) -> None:
    different = list({str(failure): failure for failure in failures}.values())
    if len(different) == 1:
        raise different[0]
    if different:
        raise SeveralFailed(different) from different[0]
