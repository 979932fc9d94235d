"""The program and the YAML of the document that the project comes from run as they stand there.

`seed/` holds them: copied out, with only the import lines of the program changed. The one thing that the tests
change is the `url` of the YAML, which says host and port where the test database has a socket.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster import PipedagConfig, StageLockContext

SEED = Path(__file__).parent / "seed"
SIZES = {"full": 4, "midi": 2, "mini": 1}


@pytest.fixture
def project(tmp_path: Path, server_url: sa.URL) -> Iterator[Path]:
    """The seed in a folder of its own. Its database does not exist yet: the YAML asks for it to be created."""
    url = "postgresql://{username}:{password}@{host}:{port}/pipedag"
    text = (SEED / "pipedag.yaml").read_text()
    assert url in text
    socket = server_url.query["host"]
    text = text.replace(url, f"postgresql://{{username}}:{{password}}@/{tmp_path.name}?host={socket}")
    (tmp_path / "pipedag.yaml").write_text(text)
    (tmp_path / "program.py").write_text((SEED / "multi_instance_pipeline.py").read_text())
    (tmp_path / "postgres_password.yaml").write_text("username: postgres\npassword: 'p@ss:word/%'\n")
    yield tmp_path
    admin = server_url.render_as_string(hide_password=False)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{tmp_path.name}" WITH (FORCE)')


@pytest.fixture
def program(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program as a module: its main part does not run."""
    monkeypatch.setenv("POSTGRES_PASSWORD_CFG", str(project / "postgres_password.yaml"))
    spec = importlib.util.spec_from_file_location("seed_program", project / "program.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "seed_program", module)
    spec.loader.exec_module(module)
    return module


def run(program: ModuleType, project: Path, instance: str) -> tuple[Any, Any, Any]:
    config = PipedagConfig(project / "pipedag.yaml")
    cfg = config.get(instance)
    flow, out1, out2 = program.get_flow(cfg.attrs, config)
    return flow.run(config=cfg), out1, out2


def test_the_program_runs_from_the_shell_with_no_other_variable_than_it_sets_itself(project: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SEED.parents[1]), "HOME": str(project)}
    done = subprocess.run([sys.executable, "program.py"], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_full_gives_4_rows_midi_2_mini_1_each_in_its_own_schemas(program: ModuleType, project: Path) -> None:
    for instance, rows in SIZES.items():
        with StageLockContext():
            result, out1, out2 = run(program, project, instance)
            program.check_result(result, out1, out2, head=rows)
        with PipedagConfig(project / "pipedag.yaml").get(instance).store.table_store.database.read() as connection:
            for table in ("stage_1.dfa", "stage_1.dfb", "stage_2.double_values"):
                count = connection.scalar(sa.text(f"SELECT count(*) FROM {instance}_{table}"))
                assert count == rows, table


def test_a_second_run_runs_no_task(program: ModuleType, project: Path) -> None:
    for instance in SIZES:
        run(program, project, instance)
        again, _, _ = run(program, project, instance)
        assert {str(record.reason) for record, _ in again.tables} == {"cached"}


def test_a_change_of_the_source_reaches_the_small_instances(program: ModuleType, project: Path) -> None:
    for instance in SIZES:
        run(program, project, instance)
    program.dfA = program.dfA_source = pd.DataFrame({"a": [5, 6, 7], "b": [1, 2, 3]})
    program.input_hash = "changed"
    for instance, rows in (("full", 3), ("midi", 2), ("mini", 1)):
        with StageLockContext():
            result, out1, out2 = run(program, project, instance)
            program.check_result(result, out1, out2, head=rows)
        with PipedagConfig(project / "pipedag.yaml").get(instance).store.table_store.database.read() as connection:
            values = connection.scalars(sa.text(f"SELECT a FROM {instance}_stage_1.dfa ORDER BY a")).all()
            assert values == [5, 6, 7][:rows]


def test_the_password_is_in_no_log_and_no_error(project: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SEED.parents[1]), "HOME": str(project)}
    (project / "postgres_password.yaml").write_text("username: nobody\npassword: hush-hush\n")
    done = subprocess.run([sys.executable, "program.py"], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "nobody" in done.stderr
    assert "hush-hush" not in done.stdout + done.stderr
