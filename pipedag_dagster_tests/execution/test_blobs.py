"""Blobs: any Python object, in files beside the database that are visible, kept and removed with the stage's tables."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import Blob, ConfigContext, Flow, PipedagConfig, Stage, StageLockContext, Table, materialize
from pipedag_dagster.data.blobs import BlobStore
from pipedag_dagster.errors import ConfigError, DiskFull, NotMaterialized, TaskFailed, UnstorableResult
from pipedag_dagster.execution import unpack as results
from pipedag_dagster.versions import history, removal
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.helpers.two_tasks import Line, orders, same


class Model:
    """A user's class."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def config(instances: Instances, base: Path) -> PipedagConfig:
    return instances(any=f"blob_store: {{args: {{base_path: '{base}'}}}}\n")


@pytest.fixture
def full(config: PipedagConfig) -> ConfigContext:
    return config.get("full")


def files(base: Path) -> list[Path]:
    return sorted(path for path in base.rglob("*") if path.is_file())


def test_a_blob_is_the_object_itself_for_other_tasks(full: ConfigContext, base: Path) -> None:
    line = Line(full, lambda: Blob(Model(np.arange(3)), "model"))
    with StageLockContext():
        result = line.run()
        assert result.get(line.made).weights.tolist() == [0, 1, 2]
    assert isinstance(line.seen[0], Model)
    assert len(files(base)) == 1
    table = full.store.table_store.current(["raw"])["raw"].tables["make"]
    assert (table.kind, table.name, table.bytes) == ("blob", "model", files(base)[0].stat().st_size)
    assert differences(full.store.table_store) == []


def test_equal_content_is_one_file_and_nothing_downstream_runs(full: ConfigContext, base: Path) -> None:
    line = Line(full, lambda: Blob({"a", "b", "c", "d"}))
    line.run()
    line.run()
    assert line.ran == []
    assert line.again(lambda: Blob({"d", "c", "b", "a"})) == ["make"]
    assert line.again(lambda: Blob({"a"})) == ["make", "look"]
    assert len(files(base)) <= 2


def test_large_blobs_are_compared_by_their_bytes(full: ConfigContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_HASHED", 0)
    line = Line(full, lambda: Blob([1, 2]))
    line.run()
    assert line.again(lambda: Blob([1, 2])) == ["make"]
    assert line.again(lambda: Blob([1, 3])) == ["make", "look"]


def test_the_same_object_has_the_same_version_in_every_process(tmp_path: Path) -> None:
    script = tmp_path / "version.py"
    script.write_text(
        "from pipedag_dagster import Blob\nfrom pipedag_dagster.execution.unpack import _pickled\n"
        "print(_pickled(Blob({'words': {'a', 'b', 'c'}, 'x': 1.5}), '')[1])"
    )
    run = [
        subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=env).stdout
        for env in (os.environ | {"PYTHONHASHSEED": "1"}, os.environ | {"PYTHONHASHSEED": "2"})
    ]
    assert run[0] == run[1]


def test_what_cannot_be_pickled_is_refused(full: ConfigContext) -> None:
    with pytest.raises(UnstorableResult, match=r"raw\.make: function cannot be pickled, so it cannot be a Blob"):
        Line(full, lambda: Blob(lambda: 1)).run()


def test_of_a_failed_run_nothing_is_visible_and_the_next_run_uses_what_it_made(full: ConfigContext) -> None:
    broken = True

    def flow() -> Flow:
        @materialize(version="1")
        def model() -> Any:
            ran.append("model")
            return Blob("trained")

        @materialize(version="1")
        def after(model: str) -> Any:
            if broken:
                raise ValueError("no")
            return pd.DataFrame({"model": [model]})

        with Flow() as made, Stage("raw"):
            after(model())
        return made

    ran: list[str] = []
    assert not flow().run(full).successful
    assert full.store.table_store.current(["raw"])["raw"].tables == {}
    broken = False
    assert flow().run(full).successful
    assert ran == ["model"]


def test_rollback_brings_an_older_blob_back_and_cleaning_up_removes_the_oldest(full: ConfigContext, base: Path) -> None:
    line = Line(full, lambda: Blob("one"))
    line.run()
    line.again(lambda: Blob("two"))
    store = full.store.table_store
    history.rollback(store, "raw", 1, "back")
    assert store.read(store.current(["raw"])["raw"].tables["make"]) == "one"
    for number in range(4):
        line.again(lambda number=number: Blob(number))
    assert len(files(base)) <= 4  # two versions, and what was staged for them
    removal.gc(store, "gc")
    contents = {pickle.loads(file.read_bytes()) for file in files(base)}
    assert {2, 3} <= contents
    assert "one" not in contents
    assert differences(store) == []


def test_the_file_of_a_run_that_was_killed_before_its_commit_is_removed_and_nothing_else(
    full: ConfigContext, base: Path
) -> None:
    Line(full, lambda: Blob("model")).run()
    store = full.store.table_store
    store.blobs.write("raw", b"of a run that was killed")
    theirs = files(base)[0].parent / "notes.txt"
    theirs.write_text("somebody else's")
    assert [one.harmless for one in differences(store)] == [True]
    assert removal.gc(store, "gc").blobs == 1
    assert differences(store) == []
    assert theirs.exists()
    assert len(files(base)) == 2
    removal.drop(store)
    assert files(base) == [theirs]


def test_a_killed_process_leaves_the_old_blob_visible(config: PipedagConfig, base: Path, tmp_path: Path) -> None:
    full = config.get("full")
    Line(full, lambda: Blob("old")).run()
    script = tmp_path / "victim.py"
    script.write_text(
        "import os, signal, sys\n"
        "from pipedag_dagster import *\n"
        "from pipedag_dagster.versions import commit\n"
        "commit.commit = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from pipedag_dagster_tests.helpers.two_tasks import Line\n"
        "line = Line(PipedagConfig(sys.argv[1]).get('full'), lambda: Blob('new'), generation=2)\n"
        "line.run()\n"
    )
    done = subprocess.run([sys.executable, script, str(config.path)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()
    store = full.store.table_store
    assert store.read(store.current(["raw"])["raw"].tables["make"]) == "old"
    assert len(files(base)) == 2
    line = Line(full, lambda: Blob("other"), generation=2)
    line.run()
    assert (line.ran, line.seen) == (["look"], ["new"])  # the next run uses what it has recorded


def test_dropping_an_instance_removes_its_blobs_and_no_other_ones(config: PipedagConfig, base: Path) -> None:
    for name in ("full", "other"):
        (config.path / f"{name}.yaml").write_text("")
    full, other = (PipedagConfig(config.path).get(name) for name in ("full", "other"))
    for instance in (full, other):
        Line(instance, lambda: Blob("the same")).run()
    assert len(files(base)) == 2
    removal.drop(full.store.table_store)
    assert [file.relative_to(base).parts[0][:6] for file in files(base)] == ["other-"]
    assert other.store.table_store.read(other.store.table_store.current(["raw"])["raw"].tables["make"]) == "the same"
    assert [folder.name[:6] for folder in base.iterdir()] == ["other-"]
    Line(full, lambda: Blob("again")).run()
    assert len(files(base)) == 2


def test_one_instance_id_in_two_databases_has_two_folders(
    instances: Instances, base: Path, database_url: sa.URL, tmp_path: Path
) -> None:
    full = instances(any=f"blob_store: {{args: {{base_path: '{base}'}}}}\n").get("full")
    Line(full, lambda: Blob("one")).run()
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    url = database_url.set(database=f"{database_url.database}_2").render_as_string(hide_password=False)
    (folder / "__any__.yaml").write_text(
        f"name: shop\ntable_store: {{args: {{url: '{url}', schema_prefix: '{{instance_id}}_', "
        f"create_database_if_not_exists: true}}}}\nblob_store: {{args: {{base_path: '{base}'}}}}\n"
    )
    (folder / "full.yaml").write_text("")
    other = PipedagConfig(folder).get("full")
    try:
        Line(other, lambda: Blob("two")).run()
        assert len({file.relative_to(base).parts[0] for file in files(base)}) == 2
        removal.drop(other.store.table_store)
        assert len(files(base)) == 1
    finally:
        other.store.table_store.close()
        with full.store.table_store.database.connect("test") as connection:
            connection.execute(f'DROP DATABASE "{database_url.database}_2" WITH (FORCE)'.encode())


class Boom:
    def __reduce__(self) -> Any:
        return os.abort, ()


def test_a_file_that_was_tampered_with_is_refused_and_made_anew_when_forced(full: ConfigContext, base: Path) -> None:
    line = Line(full, lambda: Blob("model"))
    line.run()
    files(base)[0].write_bytes(pickle.dumps(Boom()))
    other = Line(full, lambda: Blob("model"), take=lambda made: [made])
    with pytest.raises(TaskFailed, match=r"raw\.make: its file .* was changed since it was written, .*not unpickled"):
        other.run()
    assert [one.harmless for one in differences(full.store.table_store)] == [False]
    other.run(cache_validation_mode="force_cache_invalid")
    assert other.seen == [["model"]]
    assert differences(full.store.table_store) == []


def test_a_file_that_is_gone_is_named_with_what_to_do(full: ConfigContext, base: Path) -> None:
    Line(full, lambda: Blob("model")).run()
    files(base)[0].unlink()
    other = Line(full, lambda: Blob("model"), take=lambda made: [made])
    with pytest.raises(NotMaterialized, match=r"its file .* is not there\. Is blob_store\.args\.base_path another"):
        other.run()


def test_a_small_instance_gets_blobs_values_and_shapes_as_they_are(config: PipedagConfig, base: Path) -> None:
    def value() -> Any:
        return {"model": Blob({1, 2}), "n": 3, "tables": [Table(orders(1, 2, 3), "sales"), orders(4)]}

    full, midi = config.get("full"), config.get("midi")
    line = Line(full, value, {"input": True})
    line.run()
    small = Line(midi, None, {"input": True})
    with StageLockContext():
        result = small.run()
        expected = {"model": {1, 2}, "n": 3, "tables": [result.get(small.made)["tables"][0], orders(4)]}
        assert same(result.get(small.made), expected)
        assert len(expected["tables"][0]) == 2
    assert small.ran == ["look"]
    assert same(small.seen, [expected])
    small.run()
    assert small.ran == []
    line.again(value)
    small.run()
    assert small.ran == []
    line.again(lambda: value() | {"n": 4})
    small.run()
    assert small.ran == ["look"]
    assert small.seen[-1]["n"] == 4
    assert len({file.relative_to(base).parts[0] for file in files(base)}) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "{project}/.pipedag/blobs"),
        ("blob_store: {args: {base_path: blobs}}", "{folder}/blobs"),
        ("blob_store: {args: {base_path: 'memory://here/{instance_id}/{name}'}}", "memory://here/full/shop"),
        ("blob_store: {args: {base_path: 's3://{$BUCKET}/blobs'}}", "s3://b/blobs"),
        ("blob_store_connections: {c: {args: {base_path: /c}}}\nblob_store: {blob_store_connection: c}", "/c"),
    ],
)
def test_where_blobs_are_is_configured(
    instances: Instances, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    monkeypatch.setenv("BUCKET", "b")
    files = instances(any=f"{given}\n")
    config = files.get("full").config
    assert config.base_path == expected.format(project=config.project, folder=files.path)
    assert files.notes == ()


def test_any_file_system_of_fsspec_will_do(instances: Instances) -> None:
    full = instances(any="blob_store: {args: {base_path: 'memory://blobs'}}\n").get("full")
    line = Line(full, lambda: Blob("model"))
    line.run()
    line.again(lambda: Blob("other"))
    assert line.seen == ["model", "other"]
    memory = fsspec.filesystem("memory")
    assert len(memory.glob("/blobs/*/raw/*.pickle")) == 2
    assert differences(full.store.table_store) == []
    removal.drop(full.store.table_store)
    assert not memory.exists("/blobs") or memory.find("/blobs") == []


def test_a_file_system_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigError, match=r"base_path: no files under nosuch:// can be used"):
        BlobStore("nosuch://bucket/blobs", "full")


def test_without_blobs_nothing_is_made(full: ConfigContext, base: Path) -> None:
    Line(full, lambda: orders()).run()
    assert not base.exists()


# How a file is written


@pytest.fixture
def store(base: Path) -> BlobStore:
    return BlobStore(str(base), "full-1")


def test_a_link_in_the_place_of_a_blob_is_replaced_and_never_written_through(store: BlobStore, tmp_path: Path) -> None:
    name = store.write("raw", b"data")
    path, other = Path(store.path("raw", name)), tmp_path / "precious"
    for content in (b"precious", b"data"):
        other.write_bytes(content)
        path.unlink()
        path.symlink_to(other)
        store.write("raw", b"data")
        assert not path.is_symlink()
        assert path.read_bytes() == b"data"
        assert other.read_bytes() == content


@pytest.mark.parametrize("folder", ["full-1", "full-1/raw"])
def test_a_link_in_the_place_of_a_folder_is_refused(store: BlobStore, base: Path, tmp_path: Path, folder: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (base / folder).parent.mkdir(parents=True)
    (base / folder).symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="is a symbolic link"):
        store.write("raw", b"data")
    assert not files(elsewhere)


def test_blobs_belong_to_their_user_alone(store: BlobStore) -> None:
    path = Path(store.path("raw", store.write("raw", b"data")))
    assert path.stat().st_mode & 0o777 == 0o600
    assert [folder.stat().st_mode & 0o777 for folder in (path.parent, path.parent.parent)] == [0o700, 0o700]


def test_a_full_disk_leaves_no_file(store: BlobStore, base: Path) -> None:
    base.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(base)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        with pytest.raises(DiskFull, match=r"200,000 bytes does not fit.*Make room"):
            store.write("raw", b"x" * 200_000)
        assert files(base) == []
        store.write("raw", b"small")
        assert len(files(base)) == 1
    finally:
        subprocess.run(["umount", "-l", str(base)], check=True)


def test_what_a_killed_process_has_left_unfinished_is_removed(full: ConfigContext, base: Path) -> None:
    line = Line(full, lambda: Blob(Model(1), "model"))
    line.run()
    [blob] = files(base)
    (blob.parent / "tmpx.unfinished").write_bytes(b"half")
    removal.gc(full.store.table_store, "gc")
    assert files(base) == [blob]
