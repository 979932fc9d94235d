"""A project in a folder of its own, for what needs several processes: a gate in the middle of a run, and input that
changes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import dagster as dg
import pytest

FLOW = """
import os
import shutil
import time
from pathlib import Path

import pandas as pd

from pipedag_dagster import Flow, Stage, build_definitions, materialize

HERE = Path(__file__).parent


def numbers():
    return (HERE / "orders.txt").read_text().split()


@materialize(input=True, outputs=["orders"], version="1", cache=numbers)
def load():
    return pd.DataFrame({"id": [int(number) for number in numbers()]})


@materialize(input_type=pd.DataFrame, outputs=["clean"], version="1")
def clean(orders):
    if (HERE / "gate").exists():
        with (HERE / "reached").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        until = time.monotonic() + 60
        while not (HERE / "go").exists() and time.monotonic() < until:
            time.sleep(0.05)
    return orders.assign(clean=True)


@materialize(input_type=pd.DataFrame, outputs=["report"], version="1")
def report(orders, clean):
    return orders.assign(seen_by_clean=len(clean))


@materialize(input_type=pd.DataFrame, outputs=["other"], version="1")
def other(orders):
    return orders


def build(instance):
    with Flow("shop") as flow:
        with Stage("raw"):
            orders = load()
        with Stage("middle"):
            cleaned = clean(orders)
            other(orders)
        with Stage("report"):
            report(orders, cleaned)
    return flow


full, mini = (build_definitions(build, "instances", instance=name) for name in ("full", "mini"))
"""

DAGSTER_YAML = "telemetry: {enabled: false}\n"


class Project:
    """`folder` is where it is, and DAGSTER_HOME is in it."""

    def __init__(self, folder: Path, dagster_yaml: str = DAGSTER_YAML) -> None:
        self.folder = folder
        (folder / "shop_flow.py").write_text(FLOW)
        self.set_orders(1, 2, 3)
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text(dagster_yaml)
        with dg.DagsterInstance.from_config(str(self.home)):
            pass  # its files are made once, before several processes would do so at the same time

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DAGSTER_HOME": str(self.home),
            "PYTHONPATH": str(self.folder),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
        }

    def set_orders(self, *ids: int) -> None:
        (self.folder / "orders.txt").write_text(" ".join(map(str, ids)))

    def close_gate(self) -> None:
        for name in ("reached", "go"):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / "gate").touch()

    def open_gate(self) -> None:
        (self.folder / "gate").unlink(missing_ok=True)
        (self.folder / "go").touch()

    def reached(self) -> list[int]:
        """The processes that have come to the gate."""
        file = self.folder / "reached"
        return [int(pid) for pid in file.read_text().split()] if file.exists() else []

    def command(self, *command: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        """A program of the environment, in a process group of its own."""
        log = (self.folder / f"{command[0]}.log").open("a")
        return start(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            log,
            cwd or self.folder,
            {
                **self.environment,
                **environment,
            },
        )

    def materialize(self, instance: str = "full", select: str = "*") -> subprocess.Popen[str]:
        return self.command("dagster", "asset", "materialize", "-m", "shop_flow", "-a", instance, "--select", select)

    def log(self, program: str = "dagster") -> str:
        return (self.folder / f"{program}.log").read_text()


def start(command: list[str], log: IO[str], cwd: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=cwd, env=dict(environment), stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@contextmanager
def running(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Kill these processes, and what they have started, at the end."""
    try:
        yield
    finally:
        for process in processes:
            kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """At once, with all its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.1)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis of its own, on a unix socket: its url for Celery. Skips the test where there is no redis-server."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server: apt-get install redis-server")
    with tempfile.TemporaryDirectory(prefix="rd") as short:  # the path of a socket has at most 107 characters
        socket = Path(short) / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
        server = start([program, *options], (folder / "redis.log").open("a"), folder, os.environ)
        with running(server):
            wait_for(socket.exists, "redis-server")
            yield f"redis+socket://{socket}"
