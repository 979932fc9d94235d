"""Tables that are too wide for PostgreSQL: the error says what the limits are and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster.errors import UnstorableResult
from pipedag_dagster.names import TableRef
from pipedag_dagster.postgres.database import Database
from pipedag_dagster.versions import write_table
from pipedag_dagster.versions.write_table import Constraints

WIDE = TableRef("raw", "wide")
LONG = "x" * 300


@pytest.fixture
def database(database_url: sa.URL, tmp_path: Path) -> Iterator[Database]:
    database = Database(database_url, tmp_path)
    yield database
    database.close()


@pytest.mark.parametrize("columns", [1600, 1601])
def test_a_frame(database: Database, columns: int) -> None:
    frame = pd.DataFrame({f"c{number}": [LONG] for number in range(columns)})
    with pytest.raises(UnstorableResult, match=r"^raw\.wide.* at most 1600.* Store one row for each value") as error:
        write_table.from_frame(database, "public", "wide", frame, Constraints(), WIDE)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("columns", [1600, 1601])
def test_a_query(database: Database, columns: int) -> None:
    query = "SELECT " + ", ".join(f"repeat('x', 300) AS c{number}" for number in range(columns))
    with (
        pytest.raises(UnstorableResult, match=r"^raw\.wide: .* Store one row for each value") as error,
        database.transaction() as connection,
    ):
        write_table.from_query(connection, database, "public", "wide", query, Constraints(), WIDE)
    assert len(str(error.value)) < 500
