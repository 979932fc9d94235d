"""The types of columns as SQLAlchemy knows them, made from the names that PostgreSQL gives them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.types import TypeEngine

SqlType: TypeAlias = TypeEngine[Any]

_PLAIN: dict[str, Callable[[], SqlType]] = {
    "smallint": pg.SMALLINT,
    "integer": pg.INTEGER,
    "bigint": pg.BIGINT,
    "boolean": pg.BOOLEAN,
    "real": pg.REAL,
    "double precision": lambda: pg.DOUBLE_PRECISION(53),
    "text": pg.TEXT,
    "bytea": pg.BYTEA,
    "date": pg.DATE,
    "uuid": pg.UUID,
    "json": pg.JSON,
    "jsonb": pg.JSONB,
    "interval": pg.INTERVAL,
    "numeric": pg.NUMERIC,
    "character varying": pg.VARCHAR,
    "timestamp without time zone": lambda: pg.TIMESTAMP(timezone=False),
    "timestamp with time zone": lambda: pg.TIMESTAMP(timezone=True),
    "time without time zone": lambda: pg.TIME(timezone=False),
    "time with time zone": lambda: pg.TIME(timezone=True),
}
_WITH_NUMBERS: dict[str, Callable[..., SqlType]] = {
    "numeric": lambda precision, scale: pg.NUMERIC(precision, scale),
    "character varying": lambda length: pg.VARCHAR(length),
    "character": lambda length: pg.CHAR(length),
    "timestamp without time zone": lambda precision: pg.TIMESTAMP(timezone=False, precision=precision),
    "timestamp with time zone": lambda precision: pg.TIMESTAMP(timezone=True, precision=precision),
    "time without time zone": lambda precision: pg.TIME(timezone=False, precision=precision),
    "time with time zone": lambda precision: pg.TIME(timezone=True, precision=precision),
}
_NAME = re.compile(r"(?P<start>[a-z ]+)(?:\((?P<numbers>\d+(?:,\d+)?)\))?(?P<end>[a-z ]*)(?P<array>(?:\[\])*)")


def sql_type(name: str) -> SqlType | None:
    """The type that SQLAlchemy would find in the database; None for a type whose name does not tell all, like an enum.

    Args:
        name: as PostgreSQL's `format_type` prints it.

    >>> sql_type("numeric(10,2)"), sql_type("integer[]"), sql_type("mood")
    (NUMERIC(precision=10, scale=2), ARRAY(INTEGER()), None)
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    base = match["start"] + match["end"]
    if match["numbers"] is None:
        made = _PLAIN[base]() if base in _PLAIN else None
    else:
        made = _WITH_NUMBERS[base](*map(int, match["numbers"].split(","))) if base in _WITH_NUMBERS else None
    return pg.ARRAY(made) if made is not None and match["array"] else made
