"""A real PgBouncer in front of the server of the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

_CONFIG = """\
[databases]
* = host={host} port={port} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
client_login_timeout = 10
{more}
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def pgbouncer(server: sa.URL, folder: Path, mode: str, more: str = "", size: int = 20) -> Iterator[sa.URL]:
    """Start PgBouncer for this server, and stop it. Yields its url, which names no database.

    Skips the test where PgBouncer is not installed (Debian: `apt-get install pgbouncer`).
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    listen = _free_port()
    host = server.query.get("host") or server.host
    text = _CONFIG.format(host=host, port=server.port or 5432, listen=listen, mode=mode, more=more, size=size)
    (folder / "pgbouncer.ini").write_text(text)
    command = [program, str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:  # which PgBouncer refuses
        for path in (folder, *folder.parents):
            with suppress(PermissionError):
                path.chmod(path.stat().st_mode | 0o055)
        # Whoever runs the server may enter the folder of its socket.
        user = Path(str(host)).owner() if str(host).startswith("/") else "nobody"
        command[1:1] = ["-u", user]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = sa.URL.create("postgresql", "postgres", None, "127.0.0.1", listen)
    try:
        until = time.monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", listen), 1):
                break
            assert process.poll() is None, "PgBouncer ended"
            assert time.monotonic() < until, "PgBouncer does not listen"
            time.sleep(0.02)
        yield url
    finally:
        process.kill()
        process.wait()


IGNORE = "ignore_startup_parameters = options,extra_float_digits"


def direct(url: sa.URL) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)
