"""A sample of a real schema: Chinook, a music shop. Every foreign key is a relation, one of them to the table itself.

`chinook/chinook.sql.gz` is the script of the Chinook project for PostgreSQL (MIT, see `chinook/LICENSE.md`), without
the statements that make a database.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.sampling.rules import All, ChildrenOf, Keep, Parents, Relation, Rows, SampleSpec
from pipedag_dagster.sampling.selection import Selection
from pipedag_dagster.sampling.source_tables import SourceTable

Handles = dict[str, set[str]]
FOREIGN_KEYS = """
    SELECT c.conrelid::regclass::text, a.attname, c.confrelid::regclass::text, f.attname FROM pg_constraint AS c
    JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
    JOIN pg_attribute AS f ON f.attrelid = c.confrelid AND f.attnum = c.confkey[1]
    WHERE c.contype = 'f' AND c.connamespace = 'chinook'::regnamespace ORDER BY 1, 2
"""
COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), coalesce(a.attnum = ANY (i.indkey), false)
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
    LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary
    WHERE c.relkind = 'r' AND c.relnamespace = 'chinook'::regnamespace ORDER BY c.relname, a.attnum
"""


@pytest.fixture(scope="module")
def connection(server_url: sa.URL) -> Iterator[psycopg.Connection[Any]]:
    """The shop, in a transaction that is rolled back."""
    script = gzip.decompress((Path(__file__).parent / "chinook" / "chinook.sql.gz").read_bytes())
    with psycopg.connect(server_url.render_as_string(hide_password=False)) as connection:
        connection.execute("CREATE SCHEMA chinook; SET LOCAL search_path TO chinook")
        connection.execute(script)
        yield connection
        connection.rollback()


@pytest.fixture(scope="module")
def relations(connection: psycopg.Connection[Any]) -> tuple[Relation, ...]:
    keys = connection.execute(FOREIGN_KEYS).fetchall()
    return tuple(Relation(child, (column,), parent, (key,)) for child, column, parent, key in keys)


@pytest.fixture(scope="module")
def tables(connection: psycopg.Connection[Any]) -> dict[str, SourceTable]:
    found: dict[str, SourceTable] = {}
    for name, column, kind, is_key in connection.execute(COLUMNS).fetchall():
        table = found.get(name) or SourceTable(name, "chinook", name, ())
        key = (*table.primary_key, column) if is_key else table.primary_key
        found[name] = replace(table, columns=(*table.columns, Column(column, kind)), primary_key=key)
    return found


@pytest.fixture
def spec(tables: dict[str, SourceTable], relations: tuple[Relation, ...]) -> SampleSpec:
    """Six customers with their invoices, and tracks of every genre."""
    rules = {name: Parents() for name in tables} | {
        "customer": Rows(6),
        "invoice": ChildrenOf(("customer",)),
        "invoice_line": ChildrenOf(("invoice",)),
        "track": Rows(0, {"genre_id": 1}),
        "playlist_track": ChildrenOf(("track",), per_parent=1),
    }
    return SampleSpec(rules, relations, (Keep("genre", "name = 'Opera'"),))


def select(connection: psycopg.Connection[Any], tables: dict[str, SourceTable], spec: SampleSpec) -> Handles:
    """The handles of a sample, by table."""
    with connection.transaction(force_rollback=True):
        selection = Selection(connection, tables, spec)
        selection.run()
        query = "SELECT handle::text FROM {}"
        return {
            name: {handle for (handle,) in connection.execute(query.format(selection.handles(name)).encode())}
            for name in tables
        }


def test_every_foreign_key_holds_in_the_sample(
    connection: psycopg.Connection[Any], tables: dict[str, SourceTable], spec: SampleSpec
) -> None:
    sample = select(connection, tables, spec)
    assert len(spec.relations) == 11
    for relation in spec.relations:
        (column,), (key,) = relation.columns, relation.parent_columns
        parents = f"SELECT FROM {relation.parent} AS p WHERE p.{key} = c.{column} AND p.ctid::text = ANY (%s)"
        query = f"""
            SELECT count(*) FROM {relation.child} AS c
            WHERE c.ctid::text = ANY (%s) AND c.{column} IS NOT NULL AND NOT EXISTS ({parents})
        """
        handles = [sorted(sample[relation.child]), sorted(sample[relation.parent])]
        broken = connection.execute(query.encode(), handles).fetchone()
        assert broken == (0,), relation


def test_every_genre_is_in_the_sample(
    connection: psycopg.Connection[Any], tables: dict[str, SourceTable], spec: SampleSpec
) -> None:
    assert len(select(connection, tables, spec)["genre"]) == 25


def test_chosen_customers_come_with_all_their_invoices(
    connection: psycopg.Connection[Any], tables: dict[str, SourceTable], spec: SampleSpec
) -> None:
    sample = select(connection, tables, spec)
    assert len(sample["customer"]) == 6
    assert len(sample["invoice"]) == 6 * 7


@pytest.mark.parametrize("name", ["customer", "track", "playlist_track"])
def test_a_larger_sample_has_all_rows_of_a_smaller_one(
    connection: psycopg.Connection[Any], tables: dict[str, SourceTable], spec: SampleSpec, name: str
) -> None:
    more = {"customer": Rows(20), "track": Rows(50, {"genre_id": 2}), "playlist_track": All()}[name]
    small = select(connection, tables, spec)
    large = select(connection, tables, replace(spec, rules={**spec.rules, name: more}))
    assert all(small[table] <= large[table] for table in tables)
    assert small != large
