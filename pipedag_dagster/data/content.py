"""The rows of a DataFrame or of a stream, as canonical batches of Arrow: each is hashed while it passes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

BATCH_ROWS = 16_384
"""Rows that are sent at once: PostgreSQL works on one batch while the next is prepared."""


class Content:
    """Rows on their way into a table.

    Args:
        schema: the canonical types (see `columns`).
        batches: the rows. Those of a stream can be taken only once.

    Attributes:
        rows: how many have passed.
        failure: what the stream raised instead of its next batch.
    """

    def __init__(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, is_stream: bool = False) -> None:
        self.schema = schema
        self.is_stream = is_stream
        self.rows = 0
        self.failure: BaseException | None = None
        self._batches = batches
        self._version: str | None = None

    @classmethod
    def of(cls, table: pa.Table) -> Content:
        """The rows of a canonical table."""
        return cls(table.schema, table.to_batches())

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self.rows, hashed = 0, _ContentHash(self.schema)
        try:
            for large in self._batches:
                for batch in _slices(large):
                    hashed.add(batch)
                    self.rows += len(batch)
                    yield batch
        except GeneratorExit:
            raise
        except BaseException as error:
            self.failure = error
            raise
        self._version = hashed.version

    @property
    def version(self) -> str:
        """What the rows are (see `content_version`). A stream has it when all rows have passed."""
        if self._version is None:
            assert not self.is_stream, "a stream is hashed when it is written"
            for _ in self:
                pass
        assert self._version is not None
        return self._version


def content_version(table: pa.Table) -> str:
    """What a canonical table holds, as 32 hexadecimal digits: names, types, values, and the order of the rows.

    How the table is chunked or sliced, and what memory happens to hold under a NULL, makes no difference.

    >>> content_version(pa.table({"id": [1, 2]})) == content_version(pa.table({"id": [2, 1]}))
    False
    """
    return Content.of(table).version


class _ContentHash:
    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        # Three for each column, one for each kind of bytes: then batches leave no trace.
        self._columns = [[xxhash.xxh3_128() for _ in range(3)] for _ in schema]
        self._rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._rows += len(batch)
        for hashes, column in zip(self._columns, batch.columns, strict=True):
            for each, content in zip(hashes, _bytes(column), strict=False):
                each.update(content)

    @property
    def version(self) -> str:
        version = xxhash.xxh3_128()
        for field, hashes in zip(self._schema, self._columns, strict=True):
            digests = [each.hexdigest() for each in hashes]
            version.update(json.dumps([field.name, str(field.type), self._rows, *digests]).encode())
        return str(version.hexdigest())


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(batch), BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)


def _bytes(chunk: pa.Array) -> Iterator[Any]:
    """Which rows are valid; the values of those rows; the lengths of texts.

    Each of the three, joined over all chunks, is the same however a column is chunked.
    """
    chunk = getattr(chunk, "storage", chunk)
    yield chunk.is_valid().to_numpy(zero_copy_only=False).view(np.uint8)
    kept = chunk.drop_null()  # what is under a NULL may be anything
    kept = kept.cast(pa.uint8()) if pa.types.is_boolean(kept.type) else kept
    rows, start = len(kept), kept.offset
    if not rows:
        return
    if pa.types.is_floating(kept.type):
        floats = kept.to_numpy(zero_copy_only=False)
        yield np.where(np.isnan(floats), np.nan, floats)  # NaN has many bit patterns
    elif len(kept.buffers()) == 2:
        width = kept.type.bit_width // 8
        yield memoryview(kept.buffers()[1])[start * width : (start + rows) * width]
    else:
        _, offsets, data = kept.buffers()
        size = np.dtype(np.int64 if kept.type in (pa.large_string(), pa.large_binary()) else np.int32)
        ends = np.frombuffer(offsets, size, rows + 1, start * size.itemsize)
        yield memoryview(data or b"")[ends[0] : ends[-1]]
        yield np.diff(ends)
