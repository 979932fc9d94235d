"""Database urls: which ones are accepted, and the one form that they all get."""

from __future__ import annotations

from typing import Literal, TypeAlias

import sqlalchemy as sa

DatabaseUrl: TypeAlias = sa.URL | Literal["embedded"]
EXAMPLE = "postgresql://user:password@host:5432/database"


def database_url(text: str) -> DatabaseUrl:
    """`"embedded"`, or the url of a PostgreSQL database, whatever driver it names.

    Raises:
        ValueError: it is not the url of a PostgreSQL database. The message does not show the url.

    >>> database_url("postgres://me:secret@localhost/shop")
    postgresql://me:***@localhost/shop
    """
    if text == "embedded":
        return "embedded"
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):  # ValueError: the port is not a number
        raise ValueError(f"is not a database url. Write one like {EXAMPLE}.") from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError(f"is for {url.get_backend_name()!r}, but only PostgreSQL is supported.")
    if "@" in (url.host or ""):
        raise ValueError("has an @ in the user name or password. Write it as %40.")
    if isinstance(password := url.query.get("password"), str):
        # SQLAlchemy masks a password only in its own place.
        url = url.set(password=password).difference_update_query(["password"])
    return url.set(drivername="postgresql")
