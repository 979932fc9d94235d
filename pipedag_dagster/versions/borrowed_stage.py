"""A stage in a worker, while the run that holds its lock waits in another process."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.data.blobs import content_of
from pipedag_dagster.fingerprint.code_text import CodeText
from pipedag_dagster.versions.locked_stage import LockedStage
from pipedag_dagster.versions.table_store import TableStore


class BorrowedStage(LockedStage):
    """Writes tables where nobody sees them, and keeps what is to be recorded: only the holder of the lock may record
    it. What is never recorded, the next commit of the stage drops.

    Attributes:
        tables, texts: what `add` got.
        files: the blobs, for the holder of the lock to write. A folder of this machine may not be one of the other.
    """

    tables: Sequence[TableVersion] = ()
    texts: Collection[CodeText] = ()

    def __init__(self, stage: str, run_id: str, store: TableStore) -> None:
        super().__init__(
            stage, run_id, store.database, store.catalog, store.instance_schemas, lambda: store.blobs, lambda: None
        )
        self.files: list[bytes] = []

    def write_blob(self, data: bytes) -> str:
        """Keep a blob for the holder of the lock. Returns the name that its file will have."""
        self.files.append(data)
        return content_of(data)

    def add(self, tables: Sequence[TableVersion], texts: Collection[CodeText] = ()) -> list[TableVersion]:
        """Keep the records for the holder of the lock, and commit what was written."""
        with self._together.until_committed():
            self.tables, self.texts = tables, tuple(texts)
        return list(tables)
