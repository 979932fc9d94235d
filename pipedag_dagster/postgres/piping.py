"""From one connection into another by COPY, block by block: the client never holds more than one."""

from __future__ import annotations

from typing import Any

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]


def pipe(reader: Connection, query: str, writer: Connection, target: str, *, binary: bool) -> int:
    """Insert the rows of a query into a table on another connection. Returns how many they are.

    Args:
        target: the table, quoted.
        binary: send the bytes of the values. The columns must have the same types on both sides.
    """
    form = " (FORMAT binary)" if binary else ""
    with reader.cursor() as read, writer.cursor() as write:
        with (
            read.copy(f"COPY ({query}\n) TO STDOUT{form}".encode()) as out,
            write.copy(f"COPY {target} FROM STDIN{form}".encode()) as into,
        ):
            for block in out:
                into.write(block)
        return write.rowcount
