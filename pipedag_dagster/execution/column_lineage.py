"""From which columns of which tables a column of a query's result comes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.lineage import Node, lineage
from sqlglot.schema import MappingSchema

from pipedag_dagster.catalog.catalog import Origin, TableVersion

LONGEST = 100_000
"""Longer queries, in characters, have no lineage: parsing takes some 0.1 s for each 10,000."""

log = logging.getLogger(__name__)
logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of queries that it does not fully understand


def column_origins(query: str, tables: Iterable[tuple[str, str, TableVersion]]) -> dict[str, tuple[Origin, ...]]:
    """The origins of each column of a query, as far as they can be found. Never an error.

    Args:
        query: in terms of physical tables.
        tables: the tables that it may read: instance id, schema, table.
    """
    if len(query) > LONGEST:
        return {}
    known = {(schema, table.physical): (instance, table) for instance, schema, table in tables}
    schema: dict[str, Any] = {}
    for (name, physical), (_, table) in known.items():
        schema.setdefault(name, {})[physical] = {column.name: "text" for column in table.columns}
    try:
        nodes = lineage(
            None,
            query,
            MappingSchema(schema, dialect="postgres", normalize=False),
            dialect="postgres",
            trim_selects=False,
        )
        return {column: tuple(sorted({*_origins(node, known)})) for column, node in nodes.items()}
    except Exception as error:  # sqlglot does not know all of PostgreSQL, and its ways to fail are many
        log.debug("no column lineage: %s", error)
        return {}


def _origins(node: Node, known: Mapping[tuple[str, str], tuple[str, TableVersion]]) -> Iterator[Origin]:
    for leaf in node.walk():
        source = leaf.expression
        if leaf.downstream or not isinstance(source, exp.Table) or (source.db, source.name) not in known:
            continue
        instance, table = known[source.db, source.name]
        column = sqlglot.to_column(leaf.name, dialect="postgres").name
        if any(one.name == column for one in table.columns):
            yield instance, table.stage, table.asset, column
