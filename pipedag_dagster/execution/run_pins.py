"""Removing what a run has pinned, at its end."""

from __future__ import annotations

import logging

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import DatabaseError
from pipedag_dagster.versions.table_store import pinned_by

log = logging.getLogger(__name__)


def release(instance: ConfigContext, run_id: str) -> None:
    """Remove the pins of a run: in its own instance, in the one that it copies from, and in every other store that it
    has read in this process."""
    known = [each.store.table_store for each in (instance, instance.source) if each is not None]
    for store in dict.fromkeys([*known, *pinned_by(run_id)]):
        try:
            store.unpin(run_id)
        except DatabaseError as error:  # the run has already failed for the same reason; pins expire by themselves
            log.debug("pins of run %s stay: %s", run_id, error)
