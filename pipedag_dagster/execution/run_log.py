"""What the catalog keeps of a run, so that people can see later what it did and why."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipedag_dagster.catalog.catalog import OutputKind, RunRecord, TableVersion
from pipedag_dagster.catalog.reason import CACHED, Reason, ReasonKind
from pipedag_dagster.digest import digest
from pipedag_dagster.execution import cache_key
from pipedag_dagster.execution.cache_key import TaskCode
from pipedag_dagster.execution.keyed_call import KeyedCall
from pipedag_dagster.fingerprint.code_text import CodePart, CodeText
from pipedag_dagster.graph.flow import TaskCall

log = logging.getLogger(__name__)

SUSPICIOUS = 3
"""After so many runs in a row with fresh input but the same content, we warn about the cache function."""

SUSPICION = (
    f"its cache function returned another value in each of the last {SUSPICIOUS} runs, but the task loaded the same "
    "content each time. Does the value change by itself, like a time, or like Python's hash() of a text, which differs "
    "in every process? Then write hashlib.sha256(text.encode()).hexdigest() instead."
)


def code_of(keyed: KeyedCall, *, keep_text: bool) -> TaskCode:
    """The code that made a result, as the catalog keeps it. Empty for a copy, because no code of the user has run.

    Args:
        keep_text: whether the text itself is kept, or only the names of the functions (`keep_code` in the YAML).
    """
    if keyed.is_copied:
        return TaskCode()
    code = cache_key.task_code(keyed.call)
    return code if keep_text else TaskCode(code.text.without_text(), code.libraries)


def with_query(code: CodeText, table: str, query: str | None) -> CodeText:
    """The text of the code, with the query of one table."""
    if query is None or not code.parts:
        return code
    return CodeText((*code.parts, CodePart("query", "", f"the query of {table}", query, digest(query))))


def run_record(
    run_id: str, reason: Reason, seconds: float, table: TableVersion, before: TableVersion | None
) -> RunRecord:
    """What a run did about a table, compared with the table before."""
    old_text = new_text = None
    if before is not None and reason.kind in (ReasonKind.code, ReasonKind.version, ReasonKind.query):
        old_text, new_text = before.text, table.text
    same = None if before is None or reason == CACHED else _is_same(before, table)
    return RunRecord(run_id, table.stage, table.asset, reason, seconds, table.id or 0, old_text, new_text, same)


def _is_same(before: TableVersion, table: TableVersion) -> bool | None:
    """Whether a table has the content that it had before; None when the two were not compared."""
    if before.data_version == table.data_version:
        return True
    was_compared = table.content_hash is not None or table.kind is not OutputKind.table or before.rows != table.rows
    return False if was_compared else None


def is_suspicious(runs: Sequence[RunRecord]) -> bool:
    """Whether each of the last runs (the newest first) found fresh input, but the content was the same."""
    last = runs[:SUSPICIOUS]
    return len(last) == SUSPICIOUS and all(run.reason.kind is ReasonKind.fresh_input and run.same for run in last)


def suspect(call: TaskCall) -> str:
    """Warn about a cache function whose value seems to change by itself. Returns the message."""
    log.warning("%s: %s", call, SUSPICION)
    return f"{call}: {SUSPICION}"
