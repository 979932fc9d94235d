"""What tests of several folders share. Fixtures are in the conftest.py of the tests; this folder has what they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import sqlalchemy as sa

from pipedag_dagster import PipedagConfig

Instances = Callable[..., PipedagConfig]
"""The fixture `instances`: writes the YAML of full, midi and mini, and reads it."""

Query = Callable[[str], list[Any]]
"""The fixture `query`: the rows that SQL returns to somebody else."""

Connection = psycopg.Connection[tuple[Any, ...]]
"""The fixture `connection`: somebody else who works on the test's database."""

SECRET = "hush-hush"
"""The password of every test's database, which trusts everybody. It must not be in any message."""

SIZES = {
    "full": "",
    "midi": "attrs: {copy_filtered_input: true, copy_source: full, copy_filter_cnt: 2}\n",
    "mini": "attrs: {copy_filtered_input: true, copy_source: full, copy_filter_cnt: 1}\n",
}
"""The YAML of each instance."""


def libpq(url: sa.URL) -> str:
    """The url as psycopg and PostgreSQL's own tools read it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def visible(connection: Connection, schema: str) -> list[str]:
    """The names of what people can query in a schema."""
    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s ORDER BY 1"
    return [row[0] for row in connection.execute(query, [schema])]
