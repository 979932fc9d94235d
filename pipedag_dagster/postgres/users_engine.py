"""The engine that users get for queries of their own.

psycopg sends parameters apart from the statement, each with a type. Then `where created > :day` fails for a text, and
several statements may have no parameters. Here parameters are written into the statement, as psycopg2 does: PostgreSQL
reads a text as the type that it is compared with.
"""

from __future__ import annotations

from typing import Any, Self

import psycopg
import sqlalchemy as sa
from psycopg.adapt import Dumper, Transformer
from sqlalchemy.engine.interfaces import BindTyping


class _Cursor(psycopg.ClientCursor[Any]):
    """Of several statements, the result is that of the last one."""

    def execute(self, *args: Any, **options: Any) -> Self:
        super().execute(*args, **options)
        while self.nextset():
            pass
        return self


class _Values(Dumper):
    """Several values, as psycopg2 writes them."""

    def _joined(self, values: Any) -> bytes:
        transformer = Transformer(self.connection)
        return b", ".join(transformer.as_literal(value) for value in values)

    def dump(self, obj: Any) -> bytes:
        return bytes(self.quote(obj))


class _Listed(_Values):
    """A tuple as the list that IN takes: `where id in :ids`."""

    def quote(self, obj: Any) -> bytes:
        return b"(" + self._joined(obj) + b")"


class _Array(_Values):
    """A list as an array: `where id = any(:ids)`, `unnest(:names)`."""

    def quote(self, obj: Any) -> bytes:
        return b"ARRAY[" + self._joined(obj) + b"]" if obj else b"'{}'"


def prepare_for_users(engine: sa.Engine, search_path: str) -> None:
    """Make an engine, which has no connection yet, write parameters into its statements, and see what its login sees by
    itself."""
    engine.dialect.bind_typing = BindTyping.NONE

    def prepare(connection: psycopg.Connection[Any], record: object) -> None:
        connection.execute("SELECT pg_catalog.set_config('search_path', %s, false)", (search_path,))
        connection.commit()
        connection.cursor_factory = _Cursor
        connection.adapters.register_dumper(tuple, _Listed)
        connection.adapters.register_dumper(list, _Array)

    sa.event.listen(engine, "connect", prepare)
