"""The settings of our sessions: the same for every connection, whatever the environment, the role or the database says.

They travel in the packet that opens the connection (libpq's `options`), so they cost no round trip and hold for every
driver. A pooler may drop them; then `prepare` sets them by SQL. The SQL of users runs under the same settings, except
that it sees the search path of its login (`own_search_path`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg
import sqlalchemy as sa

from pipedag_dagster.errors import DatabaseError, PoolerRefused
from pipedag_dagster.names import literal, quote

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

SEARCH_PATH = "pg_catalog,pg_temp"
"""Names without a schema in our SQL are PostgreSQL's own. pg_temp comes last: otherwise it would come first."""

_LIMITS: Mapping[str, str] = {
    # A run may wait for hours between two statements. The url or PGOPTIONS may set limits all the same.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
_SETTINGS: Mapping[str, str] = {
    "search_path": SEARCH_PATH,
    "client_encoding": "UTF8",
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
}
"""What decides how text is read and values are written. Nothing may override it."""


def with_settings(url: sa.URL, role: str | None = None) -> sa.URL:
    """The url whose connections have our settings.

    Args:
        url: its own `options`, or else those of PGOPTIONS, are kept where they do not contradict.
        role: what the connections are SET to, so that it owns what they make.

    >>> with_settings(sa.make_url("postgresql://localhost/shop"), "shop_full").query["options"].split()[-2:]
    ['-c', 'role=shop_full']
    """
    fixed = {**_SETTINGS, **({"role": role} if role is not None else {})}
    options = " ".join(filter(None, (_switches(_LIMITS), _given(url), _switches(fixed))))
    # An argument of its own, because PGCLIENTENCODING would win over `options`.
    return url.update_query_dict({"options": options, "client_encoding": "UTF8"})


def _given(url: sa.URL) -> str:
    """The options that somebody else has chosen. libpq takes those of the url or those of PGOPTIONS, not both."""
    given = url.query.get("options") or os.environ.get("PGOPTIONS", "")
    return given if isinstance(given, str) else " ".join(given)


def _switches(settings: Mapping[str, str]) -> str:
    return " ".join(f"-c {name}={_escaped(value)}" for name, value in settings.items())


def _escaped(value: str) -> str:
    return re.sub(r"([\\\s])", r"\\\1", value)


def prepare(connection: Connection, url: sa.URL, role: str | None) -> bool:
    """Look at a new connection, and set what did not arrive. In autocommit mode.

    Returns whether there is a pooler between us and the server.

    Raises:
        DatabaseError: the database stores another encoding than UTF-8.
    """
    row = connection.execute(_LOOK, (list(_SETTINGS), role)).fetchone()
    assert row is not None
    backend, encoding, version, values, limit, is_role = row
    if encoding != "UTF8":
        raise DatabaseError(
            f"Database {url.database!r} stores text as {encoding}, which cannot hold every character. Use a database "
            f"that stores UTF-8: CREATE DATABASE {quote(str(url.database))} ENCODING 'UTF8' TEMPLATE template0."
        )
    wrong = {
        name: value
        for (name, value), found in zip(_SETTINGS.items(), values, strict=True)
        if _normal(found) != _normal(value)
    }
    if "search_path" in wrong:  # none of them arrived
        wrong |= _LIMITS
    if role is not None and not is_role:
        wrong["role"] = role
    if version >= 170000 and limit not in ("0", None):
        wrong["transaction_timeout"] = "0"
    if wrong:
        connection.execute(_set(wrong).encode())
    return bool(backend != connection.info.backend_pid)


def settings_as_sql(role: str | None) -> str:
    """A statement that sets what a pooler has dropped."""
    return _set({**_LIMITS, **_SETTINGS, **({"role": role} if role is not None else {})})


def settings_of_a_transaction() -> str:
    """A statement that sets, until the transaction ends, what SQL of a user may have changed. Limits stay."""
    return _set(_SETTINGS, local=True)


def _set(settings: Mapping[str, str], *, local: bool = False) -> str:
    scope = "true" if local else "false"
    calls = (f"pg_catalog.set_config({literal(name)}, {literal(value)}, {scope})" for name, value in settings.items())
    return f"SELECT {', '.join(calls)}"


_LOOK = """
    SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_encoding'),
        pg_catalog.current_setting('server_version_num')::pg_catalog.int4,
        ARRAY(SELECT pg_catalog.current_setting(name) FROM pg_catalog.unnest(%s::pg_catalog.text[]) AS name),
        pg_catalog.current_setting('transaction_timeout', true),
        CURRENT_USER OPERATOR(pg_catalog.=) %s::pg_catalog.text
"""


def _normal(value: str) -> str:
    return re.sub(r"\s", "", value).lower()


def own_search_path(url: sa.URL) -> str:
    """The search path that the login has by itself, for the SQL of users.

    A schema that is named after the role counts only when it belongs to the role: anybody who may make schemas could
    have made it, and functions in it would run with the rights of the role.

    Args:
        url: with the settings.
    """
    with psycopg.connect(_without_search_path(url), autocommit=True) as connection:
        path, role, is_own = connection.execute(_OWN_PATH).fetchone() or ("", "", False)
    if is_own:
        return str(path)
    names = [name.strip() for name in str(path).split(",")]
    return ", ".join(name for name in names if name not in ('"$user"', "$user", quote(role), role)) or "pg_catalog"


_OWN_PATH = """
    SELECT pg_catalog.current_setting('search_path'), CURRENT_USER, EXISTS (
        SELECT FROM pg_catalog.pg_namespace AS n
        WHERE n.nspname OPERATOR(pg_catalog.=) CURRENT_USER AND (
            pg_catalog.pg_has_role(CURRENT_USER, n.nspowner, 'MEMBER') OR n.nspowner OPERATOR(pg_catalog.=) 10))
"""


def _without_search_path(url: sa.URL) -> str:
    options = str(url.query["options"]).replace(f"-c search_path={SEARCH_PATH} ", "")
    return libpq(url.update_query_dict({"options": options}))


def set_search_path(path: str) -> str:
    """A statement that sets the search path until the transaction ends."""
    return f"SELECT pg_catalog.set_config('search_path', {literal(path)}, true)"


@contextmanager
def search_path(connection: Connection, path: str) -> Iterator[None]:
    """Within a transaction: SQL of users, which sees what is in `path`. An error leaves the transaction to its end."""
    connection.execute(set_search_path(path).encode())
    yield
    connection.execute(set_search_path(SEARCH_PATH).encode())


def libpq(url: sa.URL) -> str:
    """The url as libpq takes it, password included: for drivers, never for people.

    Raises:
        DatabaseError: libpq cannot read it. What libpq says is not shown, because the password may be in it.
    """
    # SQLAlchemy leaves a space in the password, which libpq refuses (and shows), and writes a + for one in the query,
    # which to libpq is a plus.
    place, mark, query = url.set(drivername="postgresql").render_as_string(hide_password=False).partition("?")
    uri = f"{place.replace(' ', '%20')}{mark}{query.replace('+', '%20')}"
    try:
        psycopg.conninfo.conninfo_to_dict(uri)
    except psycopg.ProgrammingError:
        raise DatabaseError(
            "libpq cannot read the url of the table store. Look at its parts after the ? and at the port: "
            "https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS"
        ) from None
    return uri


def refuse_shared_backends(url: sa.URL) -> None:
    """Behind a pooler: make sure that a session of ours keeps one backend of the server to itself.

    While one client waits, two others open a transaction. In session mode each of them has a backend of its own,
    always the same one. In transaction mode one of them gets the backend that the first one has just used, or the
    first one comes back to another.

    Raises:
        PoolerRefused: it does not.
    """
    pid = "SELECT pg_catalog.pg_backend_pid()"
    uri = libpq(url)
    try:
        with psycopg.connect(uri, autocommit=True) as first, psycopg.connect(uri) as second:
            own = first.execute(pid).fetchone()
            others = [second.execute(pid).fetchone()]
            shared = own in others or first.execute(pid).fetchone() != own
            if not shared:
                with psycopg.connect(uri) as third:
                    shared = third.execute(pid).fetchone() == own
    except psycopg.errors.ProtocolViolation:
        shared = True  # statement mode has no transactions
    if shared:
        raise pooler_refused(url)


def pooler_refused(url: sa.URL) -> PoolerRefused:
    return PoolerRefused(
        f"{url.host or url.query.get('host')} port {url.port or 5432} is a pooler that gives our sessions another "
        "connection of the server for each transaction: no lock would hold. Nothing was done. Connect to PostgreSQL "
        "itself, or set pool_mode = session for this database and user in pgbouncer.ini."
    )
