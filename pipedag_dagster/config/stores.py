"""The stores that a section may name by their class, and how a section is recognized that is about another one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

TABLE_STORES = (
    "pipedag_dagster.PostgresStore",
    "pydiverse.pipedag.backend.table.SQLTableStore",
    "pydiverse.pipedag.backend.table.PostgresTableStore",
    "pydiverse.pipedag.backend.table.sql.SQLTableStore",
    "pydiverse.pipedag.backend.table.sql.dialects.PostgresTableStore",
    "pydiverse.pipedag.backend.table.sql.dialects.postgres.PostgresTableStore",
)
BLOB_STORES = (
    "pipedag_dagster.FileBlobStore",
    "pydiverse.pipedag.backend.blob.FileBlobStore",
    "pydiverse.pipedag.backend.blob.NoBlobStore",
    "pydiverse.pipedag.backend.FileBlobStore",
    "pydiverse.pipedag.backend.NoBlobStore",
)


def unknown_store(name: str, known: tuple[str, ...]) -> str | None:
    """Why a class is not a store of this package; None if it is one. Classes are never imported by their names, so a
    configuration file cannot run code."""
    if name in known:
        return None
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.95)
    advice = f"Did you mean {close[0]!r}?" if close else f"It has {known[0]!r}, also called {known[1]!r}."
    return f"this package has no store {name!r}. {advice}"


def is_foreign(section: Mapping[Any, Any]) -> bool:
    """Whether a section is about a store that this package does not have: by its class, or by its url.

    >>> is_foreign({"args": {"url": "duckdb:////tmp/db.duckdb", "anything": 1}}), is_foreign({"args": {"url": "{$DB}"}})
    (True, False)
    """
    name, args = section.get("class"), section.get("args")
    if isinstance(name, str) and name not in TABLE_STORES + BLOB_STORES:
        return True
    url = args.get("url") if isinstance(args, dict) else None
    scheme = url.partition("://")[0] if isinstance(url, str) and "://" in url else "postgresql"
    return "{" not in scheme and not scheme.startswith("postgres")
