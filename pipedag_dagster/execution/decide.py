"""Whether a call must run: from its cache key and the catalog to a decision. No code of the user runs here."""

from __future__ import annotations

from dataclasses import dataclass

from pipedag_dagster.catalog.catalog import StageVersion, TableVersion
from pipedag_dagster.catalog.reason import CACHED, Reason, ReasonKind
from pipedag_dagster.config.instances import CacheValidation
from pipedag_dagster.execution import cache_key, observed
from pipedag_dagster.execution.keyed_call import KeyedCall
from pipedag_dagster.fingerprint.code_text import changed
from pipedag_dagster.versions.table_store import TableStore


@dataclass(frozen=True)
class Decision:
    """Whether a call must run. `cached` is what the catalog has for its key; it is empty when the call must run, and
    then `reason` says why."""

    cached: list[TableVersion]
    reason: Reason


class Decider:
    """Decides for the calls of one stage.

    Args:
        store: of the instance.
        base: the committed version of the stage.
        validation: how much of the cache may be used.
    """

    def __init__(self, store: TableStore, base: StageVersion, validation: CacheValidation) -> None:
        self.store = store
        self.base = base
        self.validation = validation

    def decide(self, keyed: KeyedCall) -> Decision:
        """Whether the call must run, and why.

        Raises:
            FreshInput: it would have to run, but the mode asserts that its input did not change.
        """
        cached = self._find(keyed)
        changed_code = observed.changed_code(cached)
        if cached and not changed_code:
            return Decision(cached, CACHED)
        before = self.base.tables.get(keyed.call.assets[0])
        reason = cache_key.why(keyed.key, before, lambda: self._changed_code(keyed, before))
        if changed_code:
            reason = Reason(ReasonKind.code, tuple(changed_code))
        cache_key.assert_not_fresh(keyed.call, self.validation, reads_source=keyed.source is not None, reason=reason)
        return Decision([], reason)

    def _find(self, keyed: KeyedCall) -> list[TableVersion]:
        """What the catalog has for this key; nothing when the mode forces the call to run."""
        call, key = keyed.call, keyed.key
        if cache_key.must_run(call, self.validation, reads_source=keyed.source is not None, is_copied=keyed.is_copied):
            return []
        # Committed tables come first. A later run may have staged others for the same key.
        tables = cache_key.usable(self.base.by_task.get(call.name, ()), key, self.validation)
        if not set(call.assets) <= {table.asset for table in tables}:
            ignore, _ = cache_key.ignores(self.validation)
            wanted = key.task_key if ignore else key.cache_key
            staged = self.store.records.find(call.stage.name, wanted, with_cache_value=not ignore)
            tables = cache_key.usable(staged, key, self.validation)
        tables = [table for table in tables if not self.store.reader.is_lost(table)]
        # The flow may have been wired in another way when they were made, and then an output may be missing.
        return tables if set(call.assets) <= {table.asset for table in tables} else []

    def _changed_code(self, keyed: KeyedCall, before: TableVersion | None) -> list[str]:
        old = self.store.records.text(None if before is None else before.text)
        return changed(old, cache_key.task_code(keyed.call).text) if old.parts else []
