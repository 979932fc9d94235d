"""What is seen of a task while it runs."""

from __future__ import annotations

import importlib
import linecache
import os
import sys
import threading
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from pipedag_dagster.fingerprint.observation import observe

CODE = """
import os
from pathlib import Path

def helper():
    return 1

class Shop:
    def clean(self):
        return helper()

def read(path):
    return Path(path).read_text()

def variable(name):
    return os.getenv(name), os.environ.get(name), name in os.environ
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user."""
    (tmp_path / "observed_shop.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "observed_shop", raising=False)
    return importlib.import_module("observed_shop")


watched = pytest.mark.skipif(sys.version_info < (3, 12), reason="code is watched from Python 3.12 on")


@watched
def test_code_of_the_user_that_runs_is_seen(user: ModuleType) -> None:
    with observe() as seen:
        user.Shop().clean()
    assert {code.co_qualname for code in seen.code} == {"Shop.clean", "helper"}


@watched
def test_each_observation_sees_what_ran_in_it(user: ModuleType) -> None:
    for _ in range(2):
        with observe() as seen:
            user.helper()
        assert {code.co_qualname for code in seen.code} == {"helper"}


@watched
def test_threads_that_a_task_starts_belong_to_it(user: ModuleType) -> None:
    with observe() as seen:
        thread = threading.Thread(target=user.helper)
        thread.start()
        thread.join()
    assert {code.co_qualname for code in seen.code} == {"helper"}


@watched
def test_tasks_that_run_at_the_same_time_are_told_apart(user: ModuleType) -> None:
    names: dict[str, set[str]] = {}
    both = threading.Barrier(2)

    def task(name: str) -> None:
        with observe() as seen:
            both.wait()
            getattr(user, name)() if name == "helper" else user.Shop()
            both.wait()
        names[name] = {code.co_qualname for code in seen.code}

    threads = [threading.Thread(target=task, args=(name,)) for name in ("helper", "Shop")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "helper" in names["helper"]
    assert "helper" not in names["Shop"]


def test_modules_that_are_imported_meanwhile_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "observed_plugin.py").write_text("RATE = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with observe() as seen:
        importlib.import_module("observed_plugin")
        importlib.import_module("wave")
    assert seen.modules == {"observed_plugin"}
    monkeypatch.delitem(sys.modules, "observed_plugin")


def test_files_that_are_read_are_seen(user: ModuleType, tmp_path: Path) -> None:
    config, table = tmp_path / "config.json", tmp_path / "rates.csv"
    config.write_text("{}")
    table.write_text("rate\n1\n")
    with observe() as seen:
        user.read(config)
        pd.read_csv(table)
    assert seen.files == {str(config.resolve()), str(table.resolve())}


def test_files_that_a_task_writes_itself_are_not_its_inputs(user: ModuleType, tmp_path: Path) -> None:
    with observe() as seen:
        (tmp_path / "own.txt").write_text("own")
        user.read(tmp_path / "own.txt")
    assert seen.files == set()


def test_source_that_is_read_to_show_it_is_not_an_input(user: ModuleType, tmp_path: Path) -> None:
    """Tracebacks read it, and the profiler of a worker of Dask, in a thread of its own."""
    file = tmp_path / "program.py"
    file.write_text("1 / 0\n")
    with observe() as seen:
        linecache.getline(str(file), 1)
    assert str(file) not in seen.files


def test_variables_that_code_of_the_user_reads_are_seen(user: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_REGION", "north")
    with observe() as seen:
        assert user.variable("SHOP_REGION") == ("north", "north", True)
        assert user.variable("SHOP_MISSING") == (None, None, False)
        pd.DataFrame({"a": [1]}).to_csv()  # libraries read theirs
    assert seen.variables == {"SHOP_REGION", "SHOP_MISSING"}


def test_a_variable_can_be_read_while_another_thread_ends_its_observation() -> None:
    """The thread has found the method of the class that watches, and then the class is taken away."""
    with observe():
        read = type(os.environ).__getitem__
    assert read(os.environ, "PATH") == os.environ["PATH"]


def test_nothing_is_left_behind(user: ModuleType) -> None:
    before = type(os.environ)
    with observe() as seen:
        pass
    user.variable("SHOP_REGION")
    assert type(os.environ) is before
    assert not seen.variables
