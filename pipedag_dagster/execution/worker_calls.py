"""Running a call in a worker: what the host does, and what the worker does.

The host keeps everything that decides: the key, the decision, the lock, the records and the commit. The worker calls
the task and writes its tables, where nobody sees them, and returns what is to be recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cloudpickle
from tblib import pickling_support

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.data import sent_rows
from pipedag_dagster.errors import WorkerLost
from pipedag_dagster.execution import cache_key, sent_call
from pipedag_dagster.execution.inputs import Inputs
from pipedag_dagster.execution.keyed_call import KeyedCall
from pipedag_dagster.execution.progress import Progress
from pipedag_dagster.execution.run_task import TaskRunner
from pipedag_dagster.execution.scheduler import Note
from pipedag_dagster.execution.sent_call import SentCall, SentInputs
from pipedag_dagster.execution.store_outputs import OutputWriter
from pipedag_dagster.fingerprint.code_text import CodeText, changed
from pipedag_dagster.fingerprint.module_origin import forget_user_modules
from pipedag_dagster.graph.flow import TaskCall
from pipedag_dagster.sampling.copies import source_of
from pipedag_dagster.versions.borrowed_stage import BorrowedStage
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.workers import output
from pipedag_dagster.workers.workers import DIED, Event, Job, Tell, Workers

ENTRY = f"{__name__}:run_in_worker"
_ROWS = "rows"


@dataclass(frozen=True)
class _Written:
    """What a call has written: what is to be recorded, and the blobs to be written."""

    tables: list[TableVersion]
    texts: list[CodeText]
    files: list[bytes]


# In the host


def run_elsewhere(
    workers: Workers,
    inputs: Inputs,
    held: LockedStage,
    keyed: KeyedCall,
    *,
    compare: bool,
    progress: Progress,
    note: Callable[[Note], None],
) -> list[TableVersion]:
    """Run a call in a worker, and record what it has written.

    Args:
        compare: see `OutputWriter`.
        note: see `Scheduler`.

    Returns:
        The tables, with their ids.

    Raises:
        WorkerLost: no worker could do it.
        Exception: whatever the task has raised.
    """
    call = keyed.call
    job = Job(ENTRY, sent_call.dumped(_sent(inputs, keyed, compare=compare)), str(call), call.task.resources)
    try:
        result = cloudpickle.loads(workers.run(job, partial(_heard, call, progress, note)))
        if isinstance(result, BaseException):
            raise result
    except Exception:
        held.check()  # a server that crashed is the error, and not what followed from it
        raise
    for data in result.files:
        held.write_blob(data)
    return held.add(result.tables, result.texts)


def _sent(inputs: Inputs, keyed: KeyedCall, *, compare: bool) -> SentCall:
    call = keyed.call
    versions = inputs.stage_versions(call) if call.task.from_source else None
    return SentCall(
        instance=inputs.instance,
        call=call,
        run_id=inputs.run_id,
        key=keyed.key,
        inputs=keyed.inputs,
        covered=keyed.covered,
        tables={str(each.call): inputs.tables_of(each.call) for each in call.inputs},
        versions=versions,
        compare=compare,
        code_version=cache_key.task_code_version(call),
        code=cache_key.task_code(call),
        is_importable=sent_call.is_importable(call.task),
        levels=output.levels(),
    )


def _heard(call: TaskCall, progress: Progress, note: Callable[[Note], None], event: Event) -> None:
    """Something happens in the worker: show it, in the thread that shows everything."""
    match event:
        case (output.LINE, line):
            note(lambda: print(f"{call}: {line}"))
        case (output.RECORD, fields):
            note(partial(output.handle, {**fields, "msg": f"{call}: {fields['msg']}"}))
        case (kind, rows) if kind == _ROWS:
            note(partial(progress.sent, call, rows))
        case (kind, text) if kind == DIED:
            note(partial(progress.warning, f"{call}: {text}"))


# In the worker


_running: list[None] = []  # an entry for each call that runs in this worker


def run_in_worker(data: bytes, tell: Tell) -> bytes:
    """Run a call that was sent here. The result, or the exception that it has raised, as bytes."""
    _running.append(None)
    try:
        result: Any = _run(_with_own_code(data), tell)
    except (Exception, SystemExit) as error:
        return _failure(error)
    finally:
        _running.pop()
    return _dumped(result)


def _run(sent: SentCall, tell: Tell) -> _Written:
    started = time.monotonic()
    call, instance = sent.call, sent.instance
    cache_key.know(call, sent.code_version, sent.code)
    source = source_of(instance, call)
    store = None if source is None else source.store.table_store
    keyed = KeyedCall(call, sent.key, sent.inputs, store, covered=sent.covered)
    held = BorrowedStage(call.stage.name, sent.run_id, instance.store.table_store)
    runner = TaskRunner(SentInputs(sent), instance.config.cache_validation, held)
    token = sent_rows.follower.set(lambda rows: tell((_ROWS, rows)))
    try:
        with instance, output.sent(tell, sent.levels), runner.run(keyed) as outputs:
            OutputWriter(instance, keyed, held, started, sent.compare).write(outputs)
    finally:
        sent_rows.follower.reset(token)
    return _Written(list(held.tables), list(held.texts), held.files)


def _with_own_code(data: bytes) -> SentCall:
    """The call that was sent here. Its function, when this worker imports it, is the one of the host.

    Raises:
        WorkerLost: it is another one, because the code of the worker is older or newer.
    """
    try:
        sent = sent_call.loaded(data)
        _refuse_other_code(sent)
    except WorkerLost:
        if len(_running) > 1:
            raise
        forget_user_modules()  # this worker may have imported them before they were changed
        sent = sent_call.loaded(data)
        _refuse_other_code(sent)
    return sent


def _refuse_other_code(sent: SentCall) -> None:
    call = sent.call
    if not sent.is_importable:
        return
    own = cache_key.task_code_version(call)
    if own != sent.code_version:
        different = changed(sent.code.text, cache_key.task_code(call).text)
        names = f" ({', '.join(different)})" if different else ""
        raise WorkerLost(
            f"The code of {call} is another one in the worker than in the run{names}. If it was changed since the run "
            "began, run it again, in a new process. Workers on other machines need the same code."
        )


def _dumped(value: Any) -> bytes:
    data: bytes = cloudpickle.dumps(value)
    return data


def _failure(error: BaseException) -> bytes:
    """An exception with its traceback and causes. One that cannot be pickled becomes one that looks like it."""
    pickling_support.install(error)
    try:
        data = _dumped(error)
        cloudpickle.loads(data)
    except Exception:
        looks_like_it = type(type(error).__name__, (Exception,), {"__module__": type(error).__module__})
        return _failure(looks_like_it(str(error)).with_traceback(error.__traceback__))
    return data
