"""What tests of several folders share. Fixtures are in the conftest.py of the tests; this folder has what they give."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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


_numbers = itertools.count()


@contextmanager
def new_database(server_url: sa.URL, template: str | None = None) -> Iterator[sa.URL]:
    """A database on the server, dropped at the end: an empty one, or a copy of another one to which nobody is
    connected."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    admin = server_url.render_as_string(hide_password=False)
    with psycopg.connect(admin, autocommit=True) as connection:
        copied = "" if template is None else f' TEMPLATE "{template}"'
        connection.execute(f'CREATE DATABASE "{name}"{copied}'.encode())
    yield server_url.set(database=name)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


_ANY = """\
name: shop
table_store:
  args:
    url: "{url}"
    schema_prefix: "{{instance_id}}_"
"""


def write_instances(folder: Path, database_url: sa.URL, any: str = "", **files: str) -> PipedagConfig:
    """Write `instances/` into the folder, for this database: full, midi (2 rows) and mini (1 row).

    Args:
        any: what all instances share, added to the name and the database.
        files: the text of an instance, in place of its own or for a new one.
    """
    instances = folder / "instances"
    instances.mkdir(exist_ok=True)
    url = database_url.set(password=SECRET).render_as_string(hide_password=False)
    (instances / "__any__.yaml").write_text(_ANY.format(url=url) + any)
    for name, text in (SIZES | files).items():
        (instances / f"{name}.yaml").write_text(text)
    return PipedagConfig(instances)


def visible(connection: Connection, schema: str) -> list[str]:
    """The names of what people can query in a schema."""
    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s ORDER BY 1"
    return [row[0] for row in connection.execute(query, [schema])]
