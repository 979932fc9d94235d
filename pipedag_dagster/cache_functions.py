"""Cache functions that are ready to use: they tell whether files, environment variables or foreign tables have changed.

@materialize(cache=[file_content("rates.csv"), environment("REGION")])
def load(): ...
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.names import quote
from pipedag_dagster.postgres.database import Database

_MISSING = "missing"


@dataclass(frozen=True)
class FileContent:
    """See `file_content`. `paths` has the path of each file by the name that was given for it."""

    paths: Mapping[str, Path]

    def __call__(self) -> dict[str, str]:
        return {name: _hash(path) for name, path in self.paths.items()}


@dataclass(frozen=True)
class EnvironmentContent:
    """See `environment`."""

    names: tuple[str, ...]

    def __call__(self) -> dict[str, str]:
        values = {name: os.environ.get(name) for name in self.names}
        return {name: _MISSING if value is None else _digest(value.encode()) for name, value in values.items()}


@dataclass(frozen=True)
class TableContent:
    """See `table_content`."""

    names: tuple[str, ...]

    def __call__(self) -> dict[str, str]:
        database = ConfigContext.get().store.table_store.database
        return {name: rows_hash(database, quote(*name.split("."))) for name in self.names}


# Rows have no order: their hashes are added up.
_CONTENT = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {} AS t"


def rows_hash(database: Database, table: str) -> str:
    """What changes when the rows of a table change. `table` is its quoted name."""
    with database.transaction(read_only=True) as connection, database.users_sql(connection):
        return str(connection.execute(_CONTENT.format(table).encode()).fetchone())


def file_content(*paths: str | Path) -> FileContent:
    """A cache function: the input is fresh when the content of one of these files is another one.

    Args:
        paths: of files; those of a folder are looked at one by one. A relative path starts at the folder of the module
            that calls this. A file that is missing is no error: it counts as a content of its own.

    Example:
        >>> sorted(file_content("/nowhere/rates.csv")().items())
        [('/nowhere/rates.csv', 'missing')]
    """
    file = sys._getframe(1).f_globals.get("__file__")
    folder = Path.cwd() if file is None else Path(file).resolve().parent
    return FileContent({str(path): folder / Path(path).expanduser() for path in paths})


def environment(*names: str) -> EnvironmentContent:
    """A cache function: the input is fresh when one of these environment variables has another value. Only hashes of
    the values are kept, so the values may be secret.

    Example:
        >>> environment("NO_SUCH_VARIABLE")()
        {'NO_SUCH_VARIABLE': 'missing'}
    """
    return EnvironmentContent(names)


def table_content(*names: str) -> TableContent:
    """A cache function: the input is fresh when one of these tables, which no flow makes, has other rows. Each call
    reads the tables once, inside the database.

    Args:
        names: as `schema.table`, in the database of the instance.

    Example:
        @materialize(lazy=True, cache=table_content("erp.orders"))
        def orders(): return sa.text("SELECT * FROM erp.orders")
    """
    return TableContent(names)


def _hash(path: Path) -> str:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return _digest(
            *(part for file in files for part in (str(file.relative_to(path)).encode(), _hash(file).encode()))
        )
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return _MISSING


def _digest(*parts: bytes) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.hexdigest()
