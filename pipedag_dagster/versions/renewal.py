"""A live run renews its pins, so that a version that it reads stays for as long as the run takes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import sqlalchemy as sa

from pipedag_dagster.catalog.functions import LEASE_MINUTES
from pipedag_dagster.errors import PipedagError
from pipedag_dagster.versions.table_store import pinned_by

log = logging.getLogger(__name__)

INTERVAL = LEASE_MINUTES * 60 / 3
"""Seconds between two renewals."""


@contextmanager
def renewed(run_id: str) -> Iterator[None]:
    """Renew everything that the run has pinned in this process, until the block ends. When the process dies, so does
    the thread that renews, and the pins end by themselves."""
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(run_id, ended), name=f"pins of run {run_id[:8]}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _renew(run_id: str, ended: threading.Event) -> None:
    while not ended.wait(INTERVAL):
        for store in pinned_by(run_id):
            try:
                with store.database.begin() as connection:
                    store.catalog.renew_pins(connection, run_id)
            except (PipedagError, sa.exc.SQLAlchemyError, psycopg.Error) as error:
                log.warning("The pins of run %s could not be renewed, which is tried again: %s", run_id, error)
