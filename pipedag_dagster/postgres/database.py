"""Connections to one PostgreSQL database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from pipedag_dagster.data import adbc
from pipedag_dagster.errors import DatabaseError, DatabaseMissing
from pipedag_dagster.postgres import embedded, session
from pipedag_dagster.postgres.failures import explained, is_missing_database, mapped
from pipedag_dagster.postgres.pool import engine_of

STAGING = "SET LOCAL synchronous_commit = off"
_MINIMUM = 14  # hash_record_extended(): content versions are computed in the database


class Database:
    """One PostgreSQL database: a pool of connections.

    Nothing connects before the first use. Safe to use from several threads.

    Args:
        url: where it is, or "embedded".
        project: the folder in which the embedded server keeps its data.
        create: create the database when it does not exist.
        role: what every connection of any driver is SET to, so that it owns what is made.
    """

    def __init__(self, url: sa.URL | str, project: Path, *, create: bool = False, role: str | None = None) -> None:
        self._given = url
        self._project = project
        self._role = role
        self._create = create or url == "embedded"
        self._engine: sa.Engine | None = None
        self._users_engine: sa.Engine | None = None
        self._own_path: str | None = None
        self._lock = threading.Lock()

    @property
    def engine(self) -> sa.Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self._open()
            return self._engine

    @property
    def users_engine(self) -> sa.Engine:
        """The engine for queries of users: parameters are written into the statement (see `users_engine`)."""
        url, path = self.engine.url, self.own_search_path
        with self._lock:
            if self._users_engine is None:
                self._users_engine = engine_of(url, self._role, path)
            return self._users_engine

    @property
    def uri(self) -> str:
        """The libpq uri, password included: for drivers, never for people."""
        return session.libpq(self.engine.url)

    @property
    def url(self) -> sa.URL:
        """Where the database is, with the password and without our settings: for people and their tools. The embedded
        server is started."""
        return embedded.start(self._project) if isinstance(self._given, str) else self._given

    def _open(self) -> sa.Engine:
        url = self.url
        engine = engine_of(session.with_settings(url, self._role).set(drivername="postgresql+psycopg"), self._role)
        with explained(url):
            try:
                version = _version(engine)
            except sa.exc.OperationalError as error:
                if not (self._create and is_missing_database(error)):
                    raise
                _create_database(url)
                version = _version(engine)
        if version < _MINIMUM * 10_000:
            raise DatabaseError(
                f"{url.host or url.query.get('host')} runs PostgreSQL {version // 10_000}; "
                f"{_MINIMUM} or newer is needed."
            )
        return engine

    @contextmanager
    def begin(self, *, staging: bool = False) -> Iterator[sa.Connection]:
        """A connection in a transaction: committed at the end, rolled back on an exception.

        Args:
            staging: what it writes is visible to nobody yet, so its commit need not wait for the disk: the commit that
                makes it visible comes later in the database's log, and waits for all before it.

        Raises:
            ConnectionLost, DiskFull, DatabaseUnreachable: every method that uses a connection may raise these.
        """
        with self.told(), self.engine.begin() as connection:
            if staging:
                execute(connection, STAGING)
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection in a READ ONLY transaction that sees one state of the database throughout."""
        options = {"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"}
        with mapped(self.engine.url, read_only=True), self.engine.connect() as connection:
            yield connection.execution_options(**options)

    @contextmanager
    def look(self) -> Iterator[sa.Connection]:
        """A connection on which each statement is a transaction of its own: for statements that do not need to see one
        state of the database together. It saves BEGIN and COMMIT."""
        with self.told(), self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def told(self, *, read_only: bool = False) -> AbstractContextManager[None]:
        """Turn failures of a connection into errors that say what to do (see `failures.mapped`)."""
        return mapped(self.engine.url, read_only=read_only)

    @contextmanager
    def transaction(
        self, *, staging: bool = False, read_only: bool = False
    ) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Like `begin`, but yields the driver's own connection: for COPY, for statements without parameters (`%` means
        nothing in them), and for the driver's own errors."""
        with mapped(self.engine.url, read_only=read_only), self.engine.begin() as connection:
            if staging:
                execute(connection, STAGING)
            driver = driver_of(connection)
            if read_only:
                driver.execute("SET TRANSACTION READ ONLY")
            yield driver

    def connect(self, application_name: str) -> psycopg.Connection[tuple[Any, ...]]:
        """A new connection outside of the pool, in autocommit mode: for session locks."""
        uri = self.uri
        with explained(self.engine.url):
            # It is idle while a stage runs, for hours maybe: a firewall must not take it for dead.
            connection = psycopg.connect(uri, autocommit=True, application_name=application_name, keepalives_idle=60)
            session.prepare(connection, self.engine.url, self._role)
            return connection

    @contextmanager
    def users_sql(self, connection: session.Connection) -> Iterator[None]:
        """Run SQL of users within a transaction. It sees the search path of its login."""
        with session.search_path(connection, self.own_search_path):
            yield

    @property
    def own_search_path(self) -> str:
        """The search path of the login (see `session.own_search_path`), looked up once."""
        if self._own_path is None:
            url = self.engine.url
            with explained(url):
                self._own_path = session.own_search_path(url)
        return self._own_path

    def same_as(self, other: Database) -> bool:
        """Whether both are one database, so that one statement can read from both."""
        # A copy of a server has its identifier, but was not started at the same instant.
        query = "SELECT concat(system_identifier, current_database(), pg_postmaster_start_time()) "
        query += "FROM pg_control_system()"
        mine, theirs = self.engine.url, other.engine.url
        if (mine.host, mine.port, mine.query, mine.database) == (
            theirs.host,
            theirs.port,
            theirs.query,
            theirs.database,
        ):
            return True
        if mine.database != theirs.database:
            return False
        # The same server may be known by two host names.
        with self.read() as one, other.read() as two:
            return bool(one.scalar(sa.text(query)) == two.scalar(sa.text(query)))

    def close(self) -> None:
        """Close all pooled connections; the next use opens new ones."""
        with self._lock:
            if self._engine is not None:
                adbc.disconnect(session.libpq(self._engine.url))
                self._engine.dispose()
                self._engine = None
            if self._users_engine is not None:
                self._users_engine.dispose()
                self._users_engine = None


def driver_of(connection: sa.Connection) -> psycopg.Connection[tuple[Any, ...]]:
    """The driver's own connection, in the same transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def execute(connection: sa.Connection, statement: str) -> None:
    """Run a statement without parameters: `%` and `:` mean nothing in it."""
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _version(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(sa.text("SHOW server_version_num")) or 0)


def _create_database(url: sa.URL) -> None:
    """CREATE DATABASE, from a database that every server has. Two processes may do so at the same time."""
    for maintenance in ("postgres", "template1"):
        uri = session.libpq(url.set(database=maintenance))
        try:
            with psycopg.connect(uri, autocommit=True) as connection:
                name = psycopg.sql.Identifier(str(url.database))
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(name))
            return
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            return
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseMissing(
                f"Database {url.database!r} does not exist, and user {url.username!r} may not create it: {error}"
            ) from None
        except psycopg.OperationalError as error:
            if not is_missing_database(error):
                raise
    raise DatabaseMissing(f"Database {url.database!r} does not exist, and there is no database to create it from.")
