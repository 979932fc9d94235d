"""Which code is the user's, wherever it is installed, and how large the share of coarse fingerprints is."""

from __future__ import annotations

import importlib
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

import pytest

from pipedag_dagster.examples.flights import flow as flights
from pipedag_dagster.examples.fresh_and_stable import flow as fresh_and_stable
from pipedag_dagster.examples.quickstart import explicit
from pipedag_dagster.examples.quickstart import flow as quickstart
from pipedag_dagster.fingerprint import installed, module_origin
from pipedag_dagster.fingerprint.fingerprint import UserCode, class_code, content_hash, fingerprint
from pipedag_dagster.graph.task import Task
from pipedag_dagster_tests.helpers.program_pairs import KINDS, pairs

TASKS = [
    pytest.param(value, id=f"{module.__name__}.{name}")
    for module in (flights, fresh_and_stable, quickstart, explicit)
    for name, value in vars(module).items()
    if isinstance(value, Task)
]


@pytest.mark.parametrize("task", TASKS)
def test_no_task_of_the_examples_has_a_coarse_fingerprint(task: Task) -> None:
    found = fingerprint(task.fn)
    assert not found.coarse
    assert not found.unstable


def forget_distributions() -> None:
    """Or what one test has installed is known in the next one."""
    installed.forget()
    module_origin._known_use.clear()


class Site:
    """A folder `site-packages` with installed distributions."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder / "site-packages"
        self.folder.mkdir()

    def install(self, name: str, code: str, metadata: str = "", direct_url: str = "") -> None:
        (self.folder / name).mkdir()
        (self.folder / name / "__init__.py").write_text(code)
        info = self.folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n")
        if direct_url:
            (info / "direct_url.json").write_text(direct_url)

    def version(self, *options: str) -> str:
        """The fingerprint of shop.task, as in a new process."""
        forget_distributions()
        sys.modules.pop("shop", None)
        importlib.invalidate_caches()
        found = fingerprint(importlib.import_module("shop").task, user_code=UserCode(options))
        del sys.modules["shop"]
        return found.version


@pytest.fixture
def site(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(site.folder)
    yield site
    forget_distributions()


TASK = "def task(): return 1\n"


@pytest.mark.parametrize(
    ("code", "metadata", "direct_url", "options"),
    [
        pytest.param(TASK, "Requires-Dist: pipedag-dagster>=1\n", "", (), id="its distribution needs pipedag-dagster"),
        pytest.param(f"import pipedag_dagster\n{TASK}", "", "", (), id="it imports pipedag_dagster"),
        pytest.param(TASK, "", '{"url": "file:///src", "dir_info": {}}', (), id="it was installed from a folder"),
        pytest.param(TASK, "", "", ("shop",), id="its name is given"),
    ],
)
def test_code_of_an_installed_package_of_the_user_counts(
    site: Site, code: str, metadata: str, direct_url: str, options: tuple[str, ...]
) -> None:
    site.install("shop", code, metadata, direct_url)
    before = site.version(*options)
    (site.folder / "shop/__init__.py").write_text(code.replace("return 1", "return 2"))
    assert site.version(*options) != before


def test_code_of_an_installed_library_does_not_count(site: Site) -> None:
    site.install("shop", TASK)
    before = site.version()
    (site.folder / "shop/__init__.py").write_text("def task(): return 2\n")
    assert site.version() == before


def test_the_owners_of_a_package_are_those_that_the_standard_library_finds() -> None:
    """It is slow, and takes its names from `top_level.txt` where there is one."""
    expected = {top: set(names) for top, names in metadata.packages_distributions().items()}
    found = {top: set(installed.owners(top)) for top in expected}
    assert {top: names for top, names in found.items() if names and names != expected[top]} == {}
    assert found["pandas"] == {"pandas"}
    assert found["yaml"] == {"PyYAML"}


def test_a_package_that_was_not_installed_by_pip_has_an_owner(site: Site) -> None:
    site.install("shop", TASK)
    info = site.folder / "shop-1.0.dist-info"
    (info / "RECORD").unlink()
    info.rename(site.folder / "shop-1.0.egg-info")
    (site.folder / "shop-1.0.egg-info/METADATA").rename(site.folder / "shop-1.0.egg-info/PKG-INFO")
    (site.folder / "shop-1.0.egg-info/SOURCES.txt").write_text("shop/__init__.py\n")
    installed.forget()
    assert installed.owners("shop") == ("shop",)


def runs(python: str) -> bool:
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


FOUND = [shutil.which(f"python{version}") for version in ("3.11", "3.12", "3.13")]
PYTHONS = [python for python in FOUND if python and runs(python)]
PROGRAM = """
import hashlib, sys, types
for name in ("pipedag_dagster", "pipedag_dagster.fingerprint"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["pipedag_dagster.fingerprint"].__path__ = [sys.argv[1]]
from pipedag_dagster.fingerprint.code_source import code_file
for name in sys.argv[2:]:
    file = code_file(name, {})
    source = file.read(file.tree)
    print(hashlib.sha256(repr((source.plain, source.chains, sorted(source.opaque))).encode()).hexdigest())
"""


@pytest.mark.skipif(not PYTHONS, reason="python3.11, python3.12 or python3.13 must be on PATH")
def test_code_is_read_the_same_way_by_every_version_of_python(tmp_path: pathlib.Path) -> None:
    """All programs of the pairs, and the files of this package."""
    files = []
    for kind in KINDS:
        for number, pair in enumerate(pairs(kind)):
            file = tmp_path / f"{kind}_{number}.py"
            file.write_text(pair.values[0].files["shop.py"])
            files.append(str(file))
    code = pathlib.Path(importlib.import_module("pipedag_dagster.fingerprint.code_source").__file__ or "").parent
    files += [str(file) for file in sorted(code.glob("*.py"))]
    outputs = {
        subprocess.run([one, "-c", PROGRAM, str(code), *files], capture_output=True, check=True).stdout
        for one in (sys.executable, *PYTHONS)
    }
    assert len(outputs) == 1


class Basket:
    def total(self) -> int:
        return 1


def test_the_code_of_the_classes_of_a_value_has_a_hash_of_its_own() -> None:
    assert class_code({"a": [Basket()]}) == class_code([Basket()]) != ""
    assert class_code([1, {"a": 2.0}]) == ""


def test_the_name_of_an_installed_package_can_be_given() -> None:
    assert UserCode().is_library_module("pytest")
    assert not UserCode(["pytest"]).is_library_module("pytest")
    assert content_hash(Basket()) == content_hash(Basket(), user_code=UserCode(["pytest"]))
