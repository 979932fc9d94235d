"""Whether a call must run: from its cache key and the catalog to a decision. No code of the user runs here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from pipedag_dagster.catalog.catalog import StageVersion, TableVersion
from pipedag_dagster.catalog.reason import CACHED, Reason, ReasonKind
from pipedag_dagster.config.instances import CacheMode, CacheValidation
from pipedag_dagster.execution import cache_key, observed
from pipedag_dagster.execution.cache_key import TABLE_PART, Key
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
        self._loading = threading.Lock()
        self._keys: set[str] | None = None

    def decide(self, keyed: KeyedCall) -> Decision:
        """Whether the call must run, and why.

        Raises:
            FreshInput: it would have to run, but the mode asserts that its input did not change.
        """
        cached = self._find(keyed)
        changed_code = observed.changed_code(cached)
        if cached and not changed_code:
            return Decision(cached, CACHED)
        reason = self._reason(keyed)
        if reason.kind is ReasonKind.input and not self.compares:
            reason = Reason(ReasonKind.forced)  # the input was made again as well, and nobody has compared it
        if changed_code:
            reason = Reason(ReasonKind.code, tuple(changed_code))
        cache_key.assert_not_fresh(keyed.call, self.validation, reads_source=keyed.source is not None, reason=reason)
        return Decision([], reason)

    def _reason(self, keyed: KeyedCall) -> Reason:
        """Why a call runs: for the first table of its own that is new, else for the call as a whole."""
        tables = self.base.by_task.get(keyed.call.name, ())
        for new in keyed.materialized:
            if new.is_new and new.key is not None:
                return cache_key.why(new.key, self.materialized_before(keyed, new.key))
        before = self.base.tables.get(keyed.call.assets[0])
        if before is not None and TABLE_PART in before.parts:
            before = next((one for one in tables if TABLE_PART not in one.parts), before)
        return cache_key.why(keyed.key, before, lambda: self._changed_code(keyed, before))

    def _find(self, keyed: KeyedCall) -> list[TableVersion]:
        """What the catalog has for this key; nothing when the mode forces the call to run."""
        own = {table.version.asset: table for table in keyed.materialized}
        if self._must_run(keyed) or any(table.is_new for table in own.values()):
            return []
        tables = {asset: table.version for asset, table in own.items()}
        if keyed.outputs is None or len(own) < len(keyed.outputs.outputs):
            found = self._with_key(keyed, keyed.key, lambda assets: set(keyed.call.assets) <= {*own, *assets})
            tables = {table.asset: table for table in found} | tables if found else {}
        # The flow may have been wired in another way when they were made, and then an output may be missing.
        return list(tables.values()) if set(keyed.call.assets) <= tables.keys() else []

    def materialized(self, keyed: KeyedCall, key: Key) -> TableVersion | None:
        """The table that a lazy task has written itself before, by the table's own key."""
        return None if self._must_run(keyed) else next(iter(self._with_key(keyed, key, bool)), None)

    def materialized_before(self, keyed: KeyedCall, key: Key) -> TableVersion | None:
        """The committed version of a table that a lazy task writes itself, whatever its query was."""
        tables = self.base.by_task.get(keyed.call.name, ())
        return next((table for table in tables if table.parts.get(TABLE_PART) == key.parts[TABLE_PART]), None)

    @property
    def compares(self) -> bool:
        """Whether new tables are compared with earlier ones. A mode that runs everything does not need it."""
        return self.validation.mode is not CacheMode.force_cache_invalid

    def _must_run(self, keyed: KeyedCall) -> bool:
        reads_source = keyed.source is not None
        return cache_key.must_run(keyed.call, self.validation, reads_source=reads_source, is_copied=keyed.is_copied)

    def _with_key(self, keyed: KeyedCall, key: Key, is_complete: Callable[[set[str]], bool]) -> list[TableVersion]:
        """The tables that the catalog has for a key. Committed ones come first: a later run may have staged others."""
        call = keyed.call
        tables = cache_key.usable(self.base.by_task.get(call.name, ()), key, self.validation)
        if not is_complete({table.asset for table in tables}):
            ignore, _ = cache_key.ignores(self.validation)
            wanted = key.task_key if ignore else key.cache_key
            tables = []
            if wanted in self._known_keys():
                staged = self.store.records.find(call.stage.name, wanted, with_cache_value=not ignore)
                tables = cache_key.usable(staged, key, self.validation)
        return [table for table in tables if not self.store.reader.is_lost(table)]

    def _known_keys(self) -> set[str]:
        """The keys of all results of the stage. What this run adds is for other calls, which have other keys."""
        with self._loading:
            if self._keys is None:
                self._keys = self.store.records.keys(self.base.stage)
            return self._keys

    def _changed_code(self, keyed: KeyedCall, before: TableVersion | None) -> list[str]:
        old = self.store.records.text(None if before is None else before.text)
        return changed(old, cache_key.task_code(keyed.call).text) if old.parts else []
