"""Following rows on their way into the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar

import pyarrow as pa

follower: ContextVar[Callable[[int], None] | None] = ContextVar("follower", default=None)
"""Set around a task that somebody follows: is told how many rows of a table were sent so far."""


def followed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, unchanged. The follower is told about each one when the next one is asked for."""
    tell = follower.get()  # now: the database may ask for the batches in a thread of its own
    return iter(batches) if tell is None else _told(batches, tell)


def _told(batches: Iterable[pa.RecordBatch], tell: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in batches:
        yield batch
        rows += batch.num_rows
        tell(rows)
