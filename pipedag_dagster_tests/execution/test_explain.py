"""What is kept of the runs of a table, and how it is shown."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from pipedag_dagster import ConfigContext, Flow, Result, Stage, materialize
from pipedag_dagster.catalog import forgetting
from pipedag_dagster.cli.main import cli
from pipedag_dagster.fingerprint.code_text import difference, masked
from pipedag_dagster_tests.helpers import Instances

CODE = '''
import pandas as pd
from pipedag_dagster import Flow, Stage, build_definitions, materialize

LIMIT = 3

def helper(x):
    return x + 1

class Rule:
    def holds(self, x):
        return x < LIMIT

@materialize
def clean():
    """What it does."""
    password = "hush"
    return pd.DataFrame({"x": [helper(1)], "y": [Rule().holds(2)]})

def build(instance):
    with Flow("shop") as flow, Stage("raw"):
        clean()
    return flow
'''


@dataclass
class Project:
    """The user's module, which a test can change between runs."""

    folder: Path
    config: ConfigContext

    def run(self, code: str = CODE, **options: Any) -> Result:
        sys.modules.pop("shop_code", None)
        (self.folder / "shop_code.py").write_text(code)
        importlib.invalidate_caches()
        flow: Flow = importlib.import_module("shop_code").build(None)
        return flow.run(self.config, fail_fast=True, **options)

    def reason(self, code: str = CODE, **options: Any) -> str:
        ((run, _),) = self.run(code, **options).tables
        return str(run.reason)

    @property
    def texts(self) -> list[str]:
        """The keys of all texts that the catalog has."""
        store = self.config.store.table_store
        with store.database.read() as connection:
            return list(connection.scalars(sa.select(store.catalog.text.c.key)))


@pytest.fixture
def project(instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files change within a second here
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Project(tmp_path, instances().get("full"))
    sys.modules.pop("shop_code", None)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("x + 1", "x + 2", "helper()"),
        ("LIMIT = 3", "LIMIT = 4", "LIMIT"),
        ("x < LIMIT", "x <= LIMIT", "Rule"),
        ('"x":', '"z":', "clean()"),
        ("return x + 1", "return other(x)\n\ndef other(x):\n    return x", "helper(), other()"),
    ],
)
def test_a_changed_fingerprint_says_what_of_the_code_has_changed(
    project: Project, old: str, new: str, says: str
) -> None:
    project.run()
    assert project.reason(CODE.replace(old, new)) == f"code changed ({says})"


def test_but_not_what_has_only_another_comment(project: Project) -> None:
    project.run()
    code = CODE.replace("What it does", "Something else").replace("x + 1", "x + 2")
    assert project.reason(code) == "code changed (helper())"


def test_a_version_says_from_which_to_which(project: Project) -> None:
    version = project.run().tables[0][1].code_version
    pinned = CODE.replace("@materialize\n", '@materialize(version="1.0")\n')
    assert project.reason(pinned) == f"code changed ({version} → 1.0)"
    assert project.reason(pinned.replace("1.0", "1.1")) == "code changed (1.0 → 1.1)"


def test_without_kept_code_there_are_names_only(project: Project, instances: Instances) -> None:
    project.config = instances(any="keep_code: false\n").get("full")
    ((_, table),) = project.run().tables
    store = project.config.store.table_store
    assert str(store.records.text(table.text)).strip() == ""
    assert project.reason(CODE.replace("x + 1", "x + 2")) == "code changed (helper())"


def test_each_text_is_kept_once_and_as_long_as_somebody_needs_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "KEPT_RUNS", 2)
    monkeypatch.setattr(forgetting, "_MANY_RUNS", 1)
    project.run()
    project.run(cache_validation_mode="force_cache_invalid")
    assert len(project.texts) == 1
    for number in range(2, 6):
        project.run(CODE.replace("x + 1", f"x + {number - 1}"))
        project.run(CODE.replace("x + 1", f"x + {number}"))
    store = project.config.store.table_store
    runs = store.records.runs("raw", "clean", 10)
    assert [str(run.reason) for run in runs] == ["code changed (helper())", "cached"] * 2
    assert sorted(project.texts) == sorted({key for run in runs for key in (run.old_text, run.new_text) if key})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password = 'hush'", "password = '***'"),
        ('{"api_key": "hush", "user": "me"}', '{"api_key": \'***\', "user": "me"}'),
        ("connect(db_password=f'hush{x}')", "connect(db_password='***')"),
        ('TOKEN: str = """hu\nsh"""', "TOKEN: str = '***'"),
        ('("secret", "hush")', "(\"secret\", '***')"),
        ("'postgresql://me:hush@host/db'", "'postgresql://me:***@host/db'"),
        ("if token == 'x': return y", "if token == 'x': return y"),
        ("x = tokens[0] + 'text'", "x = tokens[0] + 'text'"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_nor_is_it_in_the_catalog(project: Project) -> None:
    ((_, table),) = project.run().tables
    text = str(project.config.store.table_store.records.text(table.text))
    assert "password = '***'" in text
    assert "hush" not in text


def test_the_libraries_of_a_table_are_recorded(project: Project) -> None:
    ((_, table),) = project.run().tables
    assert table.libraries == {"pandas": pd.__version__}


FIRST_FORMAT = {
    "meta": "format",
    "pin": "run_id stage number until",
    "run_table": "run_id stage asset reason seconds table_version at",
    "stage_table": "stage number table_version",
    "stage_version": "stage number run_id committed_at sources note",
    "table_version": "id stage asset name physical flow task execution slot task_key cache_key parts code_version "
    "data_version columns primary_key indexes rows bytes query run_id seconds created_at",
}


def test_a_catalog_of_the_first_format_learns_to_explain(project: Project) -> None:
    project.run()
    store = project.config.store.table_store
    with store.database.begin() as connection:
        for table in reversed(store.catalog.metadata.sorted_tables):
            place, columns = f"{table.schema}.{table.name}", FIRST_FORMAT.get(table.name, "").split()
            if not columns:
                connection.execute(sa.text(f"DROP TABLE {place}"))
            for column in table.columns if columns else ():
                if column.name not in columns:
                    connection.execute(sa.text(f'ALTER TABLE {place} DROP "{column.name}"'))
        connection.execute(sa.text("ALTER TABLE full_pipedag.stage_version ADD COLUMN note text"))
        connection.execute(sa.text("DROP INDEX IF EXISTS full_pipedag.run_table_stage"))
        connection.execute(sa.text("UPDATE full_pipedag.meta SET format = 1"))
    assert project.reason() == "cached"
    version = project.config.store.table_store.current(["raw"])["raw"].tables["clean"].code_version
    reason = project.reason(changed := CODE.replace("x + 1", "x + 2"))
    assert reason.startswith(f"code changed ({version} → ")  # its text was not kept then
    assert project.reason(changed.replace("x + 2", "x + 3")) == "code changed (helper())"


def test_explain_shows_the_runs_with_reasons_and_diffs(
    project: Project, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(project.folder)

    def explain(table: str, *options: str) -> str:
        full = f"full = build_definitions(build, {str(project.config.files.path)!r}, instance='full')\n"
        (project.folder / "shop_code.py").write_text(f"{CODE}\n{full}")
        sys.modules.pop("shop_code", None)
        done = CliRunner().invoke(cli, ["explain", "full", table, "-m", "shop_code", *options])
        return done.output if done.exception is None else str(done.exception)

    assert explain("raw.clean") == "Instance 'full' was never run."
    first = project.run()
    second = project.run(CODE.replace("x + 1", "x + 2").replace("LIMIT = 3", "LIMIT = 4"))
    project.run(CODE.replace("x + 1", "x + 2").replace("LIMIT = 3", "LIMIT = 4"))
    heading, *lines = explain("raw.clean").splitlines()
    assert heading.startswith("full raw.clean  1 row, code version ")
    assert heading.endswith(f"with pandas {pd.__version__}")
    runs = [line for line in lines if "  run " in line]
    assert [line.partition("  run ")[2].split(" (")[0].strip() for line in runs] == [
        f"{runs[0].partition('  run ')[2][:8]}  cached",
        f"{second.run_id[:8]}  ran: code changed",
        f"{first.run_id[:8]}  ran: new",
    ]
    diff = [line.strip() for line in lines if line.startswith("    ")]
    assert [line for line in diff if line[:1] in "+-" and line[:3] not in ("+++", "---")] == [
        "-    return x + 1",
        "+    return x + 2",
        "-shop_code.LIMIT = 3",
        "+shop_code.LIMIT = 4",
    ]
    assert len([line for line in explain("raw.clean", "-n", "1").splitlines() if "  run " in line]) == 1
    assert explain("raw.claen") == "No run of 'full' has made 'raw.claen'. Did you mean 'raw.clean'?"


def test_the_difference_of_a_query_is_that_of_its_sql(instances: Instances) -> None:
    def flow(least: int) -> Flow:
        @materialize(lazy=True)
        def numbers() -> Any:
            return sa.text(f"SELECT x FROM generate_series(1, 3) AS x WHERE x > {least}")

        with Flow("f") as made, Stage("raw"):
            numbers()
        return made

    config = instances().get("full")
    for least in (1, 2):
        flow(least).run(config, fail_fast=True)
    store = config.store.table_store
    (run, _) = store.records.runs("raw", "numbers", 5)
    diff = difference(store.records.text(run.old_text), store.records.text(run.new_text))
    assert str(run.reason) == "query changed"
    assert "-SELECT x FROM generate_series(1, 3) AS x WHERE x > 1" in diff.splitlines()
    assert "+SELECT x FROM generate_series(1, 3) AS x WHERE x > 2" in diff.splitlines()


def salted(value: Callable[[], int]) -> Flow:
    @materialize(cache=value, version="1")
    def load() -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    with Flow("f") as flow, Stage("raw"):
        load()
    return flow


def test_a_cache_function_whose_value_changes_by_itself_is_noticed(
    instances: Instances, caplog: pytest.LogCaptureFixture
) -> None:
    config, seen = instances().get("full"), iter(range(100))
    flow = salted(lambda: next(seen))
    for _ in range(3):
        flow.run(config, fail_fast=True)
    assert "Does the value change by itself" not in caplog.text
    flow.run(config, fail_fast=True)
    assert "raw.load: its cache function returned another value in each of the last 3 runs" in caplog.text
