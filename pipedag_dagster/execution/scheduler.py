"""Running the calls of a stage: independent ones at the same time, each after those that it needs."""

from __future__ import annotations

import contextvars
import graphlib
import heapq
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from pipedag_dagster.errors import PipedagError, SeveralFailed
from pipedag_dagster.execution.stage_result import Outcome
from pipedag_dagster.graph.flow import TaskCall

_Event: TypeAlias = tuple[TaskCall, Outcome | BaseException | None]
Note: TypeAlias = Callable[[], None]

_LISTEN = 0.5  # seconds
_PATIENCE = 0.005
"""Seconds. When no call has ended for so long, another thread helps. Calls that only find their results in the catalog
end sooner: they share one thread, because several would only take turns at Python's lock."""


class Scheduler:
    """Runs calls in threads.

    Args:
        run: runs one call, in one of the threads. When it returns, calls that need this one may start. It is given the
            call, and a function for notes: what it is given is called in the thread that called `run_all`, between
            `started` and `finished` of the call. A call that leaves notes takes a while, so other threads help.
        started, finished, failed: called for each call, in the thread that called `run_all`. They may come late.
        threads: how many calls run at the same time.
        fail_fast: after a failure, no other call starts. Without it, only the calls that need the failed one do not.
    """

    def __init__(
        self,
        run: Callable[[TaskCall, Callable[[Note], None]], Outcome],
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
        if not calls:
            return
        work = _Work(calls, self.run, fail_fast=self.fail_fast)
        failures: list[PipedagError] = []
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix=self.name)
        try:
            for call, result in self._events(work, pool):
                if result is None:
                    self.started(call)
                elif isinstance(result, Outcome):
                    self.finished(result)
                elif isinstance(result, PipedagError):
                    failures.append(result)
                    self.failed(call)
                else:
                    raise result
        finally:
            # Nothing runs any more, unless this thread was interrupted: then nobody waits for the tasks.
            work.stop()
            pool.shutdown(wait=False)
        _raise(failures)

    def _events(self, work: _Work, pool: ThreadPoolExecutor) -> Iterator[_Event]:
        """What happens to the calls, until nothing runs any more."""
        threads = 1
        while True:
            if work.needs_thread(threads):
                pool.submit(work.run_ready)
            # Ctrl-C must reach this thread. Libraries of tasks (polars is one) may install handlers of signals by which
            # only a wait with a time is interrupted.
            try:
                event = work.events.get(timeout=_PATIENCE if work.is_waiting(self.threads) else _LISTEN)
            except queue.Empty:
                threads = self.threads
                continue
            if event is None:
                return
            if isinstance(event, tuple):
                threads = 1
                yield event
            else:
                threads = self.threads
                event()


class _Work:
    """The calls, as the threads share them.

    Attributes:
        events: what happens to a call: it starts (None), leaves a note, has an outcome or an error. At the end, None.
    """

    def __init__(
        self, calls: list[TaskCall], run: Callable[[TaskCall, Callable[[Note], None]], Outcome], *, fail_fast: bool
    ) -> None:
        self.events: queue.SimpleQueue[_Event | Note | None] = queue.SimpleQueue()
        self._run, self._fail_fast = run, fail_fast
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._calls, self._order = calls, _order(calls)
        self._place = {call: number for number, call in enumerate(calls)}
        self._ready: list[int] = []  # a heap: those that come first in the flow start first
        self._threads = 0
        self._is_stopped = False
        self._add_ready()

    def run_ready(self) -> None:
        """Run calls in this thread for as long as one is ready."""
        while (call := self._take()) is not None:
            self.events.put((call, None))
            try:
                result: Outcome | BaseException = self._context.copy().run(self._run, call, self.events.put)
            except BaseException as error:
                result = error
                if self._fail_fast or not isinstance(error, PipedagError):
                    self.stop()
            else:  # what needs a failed call never becomes ready
                with self._lock:
                    self._order.done(call)
                    self._add_ready()
            self.events.put((call, result))

    def needs_thread(self, limit: int) -> bool:
        """Whether a call is ready and fewer than `limit` threads are at work. Then the caller starts one."""
        with self._lock:
            needs = self._needs_thread(limit)
            self._threads += needs
            return needs

    def is_waiting(self, limit: int) -> bool:
        """Whether a call is ready that another thread could run."""
        with self._lock:
            return self._needs_thread(limit)

    def stop(self) -> None:
        """Start nothing more."""
        with self._lock:
            self._is_stopped = True

    def _needs_thread(self, limit: int) -> bool:
        return bool(self._ready) and not self._is_stopped and self._threads < limit

    def _take(self) -> TaskCall | None:
        """The next call; None when none is ready, and then the thread has ended."""
        with self._lock:
            if self._ready and not self._is_stopped:
                return self._calls[heapq.heappop(self._ready)]
            self._threads -= 1
            if not self._threads:
                self.events.put(None)
            return None

    def _add_ready(self) -> None:
        for call in self._order.get_ready():
            heapq.heappush(self._ready, self._place[call])


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
