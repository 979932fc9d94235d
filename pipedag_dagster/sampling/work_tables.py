"""The tables in which a selection is computed: for each source table, the handles of its rows in the sample.

Beside each handle stand the reason, and the values by which relations lead from this row to others. So the source table
is not needed again to follow a relation from the sample. All work tables are temporary and are made before anything
else, so that the transaction can be READ ONLY from then on (PostgreSQL then still writes to temporary tables).
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from pipedag_dagster.names import quote
from pipedag_dagster.sampling.rules import Relation
from pipedag_dagster.sampling.source_tables import Connection, SourceTable

_INDEXES = """
    SELECT (SELECT array_agg(a.attname::text ORDER BY k.position)
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, position)
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
        WHERE k.position <= i.indnkeyatts)
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS m ON m.oid = c.relam
    WHERE i.indrelid = %s::regclass AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND m.amname = 'btree'
"""


class Why(enum.IntEnum):
    """Why a row is in a sample: the first reason that applied. Rows up to `child` are chosen; the others came along."""

    keep = 1
    rule = 2
    edge_case = 3
    child = 4
    reference = 5


class WorkTables:
    """The handles of the rows that were selected so far, and SQL to find more.

    Args:
        connection: in a transaction.
        tables: all input tables, by `stage.table`.
        relations: what leads from one to another.
        seed: of the hashes by which rows are put in order.

    Attributes:
        counts: how many rows were selected, by table and reason.
    """

    def __init__(
        self, connection: Connection, tables: Mapping[str, SourceTable], relations: Sequence[Relation], seed: int
    ) -> None:
        self.connection = connection
        self.tables = tables
        self.relations = relations
        self.seed = seed
        self._numbers = {name: number for number, name in enumerate(tables)}
        self.counts: dict[str, Counter[Why]] = {name: Counter() for name in tables}
        self._sizes: dict[str, int] = {}
        self._indexes: dict[str, list[list[str]]] = {}
        self._changed: set[str] = set()

    def create(self, name: str) -> None:
        """Make the empty table of handles of a source table, and copy the source if it is a view."""
        source = self.tables[name]
        if source.is_view:
            self.execute(f"CREATE TEMP TABLE {self.source(name)} ON COMMIT DROP AS SELECT * FROM {source.sql}")
            self.execute(f"ANALYZE {self.source(name)}")
        query = f"SELECT s.*, 0::smallint AS why FROM ({self.scan(name, 'false')}) AS s"
        self.execute(f"CREATE TEMP TABLE {self.handles(name)} ON COMMIT DROP AS {query}")
        self.execute(f"ALTER TABLE {self.handles(name)} ADD PRIMARY KEY (handle)")

    def handles(self, name: str) -> str:
        """The quoted name of the table of the handles of a source table: `handle`, `why`, and the link columns."""
        return quote("pg_temp", f"sample_{self._numbers[name]}")

    def source(self, name: str) -> str:
        """The quoted name of the table that the handles point into: the physical table; of a view, its copy."""
        if self.tables[name].is_view:
            return quote("pg_temp", f"sample_view_{self._numbers[name]}")
        return self.tables[name].sql

    def child_keys(self, relation: Relation) -> list[str]:
        """The link columns with which the child of a relation refers. All NULL where `when` is not true."""
        return [f"r{self.relations.index(relation)}_{position}" for position in range(len(relation.columns))]

    def parent_keys(self, relation: Relation) -> list[str]:
        """The link columns of the parent to which the child keys are compared."""
        return [f"p{self.relations.index(relation)}_{position}" for position in range(len(relation.columns))]

    def _links(self, name: str) -> Iterator[tuple[str, str]]:
        """The link columns of a table, each with its expression on the source table `t`."""
        for relation in self.relations:
            if relation.child == name:
                for link, column in zip(self.child_keys(relation), relation.columns, strict=True):
                    value = quote("t", column)
                    yield link, f"CASE WHEN ({relation.when}) THEN {value} END" if relation.when else value
            if relation.parent == name:
                for link, column in zip(self.parent_keys(relation), relation.parent_columns, strict=True):
                    yield link, quote("t", column)

    def columns(self, name: str) -> list[str]:
        """The columns that `scan` always has: `handle` and the link columns."""
        return ["handle", *dict(self._links(name))]

    def scan(self, name: str, condition: str = "true", **more: str) -> str:
        """A query for rows of a source table: `handle`, the link columns, and more expressions on the table `t`.

        Users' expressions see the columns of their table and nothing else.
        """
        columns = {"handle": "t.ctid", **dict(self._links(name)), **more}
        listed = ", ".join(f"{expression} AS {column}" for column, expression in columns.items())
        return f"SELECT {listed} FROM {self.source(name)} AS t WHERE {condition}"

    def insert(self, name: str, why: Why, query: str, suffix: str = "") -> int:
        """Add the rows of a query that has the columns of `scan`, unless they are there. Returns how many were added.

        Args:
            suffix: clauses that follow the query, such as ORDER BY.
        """
        columns = ", ".join(self.columns(name))
        added = self.execute(
            f"INSERT INTO {self.handles(name)} ({columns}, why) "
            f"SELECT {columns}, {int(why)} FROM ({query}) AS s {suffix} ON CONFLICT DO NOTHING"
        )
        if added:
            self.counts[name][why] += added
            self._changed.add(name)
        return added

    def has_index(self, name: str, columns: Sequence[str]) -> bool:
        """Whether the database finds rows of a source table by these columns without reading all of it."""
        if name not in self._indexes:
            rows = self.connection.execute(_INDEXES, [self.source(name)])
            self._indexes[name] = [columns for (columns,) in rows]
        return any(set(index[: len(columns)]) == set(columns) for index in self._indexes[name])

    def analyze(self, name: str) -> None:
        """Tell the planner about the handles of a table, if rows were added since it was told."""
        if name in self._changed:
            self.execute(f"ANALYZE {self.handles(name)}")
            self._changed.discard(name)

    def size(self, name: str) -> int:
        """How many rows a source table has."""
        if name not in self._sizes:
            known = self.tables[name].rows
            count = f"SELECT count(*) FROM {self.source(name)}"
            self._sizes[name] = self.scalar(count) if known is None else known
        return self._sizes[name]

    def all_selected(self, name: str) -> None:
        """Note that every row of a table was selected: then its size need not be counted."""
        self._sizes[name] = self.counts[name].total()

    def is_complete(self, name: str) -> bool:
        """Whether every row of a table is known to be selected."""
        return self._sizes.get(name) == self.counts[name].total()

    def share(self, name: str) -> float:
        """Which share of the rows of a table is chosen. The table is not empty."""
        chosen = sum(count for why, count in self.counts[name].items() if why <= Why.child)
        return chosen / self.size(name)

    def execute(self, statement: str) -> int:
        """Execute a statement. Returns how many rows it concerned."""
        return self.connection.execute(statement.encode()).rowcount

    def scalar(self, query: str) -> int:
        """The integer that a query returns; 0 for NULL."""
        row = self.connection.execute(query.encode()).fetchone()
        return int(row[0] or 0) if row else 0


def equal(left: str, left_columns: Sequence[str], right: str, right_columns: Sequence[str]) -> str:
    """An SQL condition: the columns of two tables are equal.

    >>> equal("o", ["p0_0"], "t", ["r0_0"])
    'o.p0_0 = t.r0_0'
    """
    pairs = zip(left_columns, right_columns, strict=True)
    return " AND ".join(f"{left}.{one} = {right}.{other}" for one, other in pairs)


def given(table: str, columns: Sequence[str]) -> str:
    """An SQL condition: none of the columns is NULL.

    >>> given("o", ["r0_0", "r0_1"])
    '(o.r0_0 IS NOT NULL AND o.r0_1 IS NOT NULL)'
    """
    return "(" + " AND ".join(f"{table}.{column} IS NOT NULL" for column in columns) + ")"
