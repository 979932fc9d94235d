"""Relations that lead back to where they come from: tables that refer to themselves, and circles of tables.

Chains of rows may be as long as the table. One recursive statement follows them to their ends, and looks up each row in
an index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipedag_dagster.names import quote
from pipedag_dagster.sampling.edges import Edge
from pipedag_dagster.sampling.rules import SampleSpec
from pipedag_dagster.sampling.work_tables import Why, WorkTables, equal, given


class Circles:
    """What leads from rows to rows of the same strongly connected component of tables.

    Args:
        edges: all edges inside of components, of every phase.
    """

    def __init__(self, work: WorkTables, spec: SampleSpec, edges: Iterable[Edge]) -> None:
        self.work = work
        self.spec = spec
        self.edges = list(dict.fromkeys(edges))
        self._filled: set[Edge] = set()

    def create(self) -> None:
        """Make the work tables: one in which a recursion leaves its rows, and an index for each edge."""
        if self.edges:
            self.work.execute("CREATE TEMP TABLE sample_reached (number int, handle tid) ON COMMIT DROP")
        for edge in self.edges:
            if not self._has_index(edge):
                table, keys = self._table(edge), ", ".join(self._keys(edge, of_target=True))
                query = f"SELECT handle, {keys} FROM ({self.work.scan(edge.target, 'false')}) AS t"
                self.work.execute(f"CREATE TEMP TABLE {table} ON COMMIT DROP AS {query}")
                self.work.execute(f"CREATE INDEX ON {table} ({keys})")

    def close(self, names: Sequence[str], edges: Sequence[Edge], why: Why) -> int:
        """Add everything that chosen rows (or, to find references, any rows) of the tables lead to, however far.

        Returns how many rows were added.
        """
        for edge in edges:
            self._fill(edge)
        numbers = {name: number for number, name in enumerate(names)}
        first = f"WHERE why <= {int(why)}"
        seeds = " UNION ALL ".join(
            f"SELECT {number}, handle FROM {self.work.handles(name)} {first}" for name, number in numbers.items()
        )
        steps = " UNION ALL ".join(
            f"SELECT {numbers[edge.target]} AS number, b.handle "
            f"FROM ({self.work.scan(edge.origin, 't.ctid = r.handle')}) AS a JOIN ({self._rows(edge)}) AS b "
            f"ON {equal('a', self._keys(edge, of_target=False), 'b', self._keys(edge, of_target=True))} "
            f"WHERE r.number = {numbers[edge.origin]}"
            for edge in edges
        )
        self.work.execute("DELETE FROM pg_temp.sample_reached")
        self.work.execute(
            f"INSERT INTO pg_temp.sample_reached WITH RECURSIVE r (number, handle) AS ({seeds} UNION "
            f"SELECT s.number, s.handle FROM r CROSS JOIN LATERAL ({steps}) AS s) SELECT * FROM r"
        )
        return sum(self._add(name, number, why) for name, number in numbers.items())

    def _add(self, name: str, number: int, why: Why) -> int:
        reached = (
            f"SELECT r.handle FROM pg_temp.sample_reached AS r WHERE r.number = {number} "
            f"AND NOT EXISTS (SELECT FROM {self.work.handles(name)} AS h WHERE h.handle = r.handle)"
        )
        return self.work.insert(name, why, self.work.scan(name, f"t.ctid = ANY (ARRAY({reached}))"))

    def _has_index(self, edge: Edge) -> bool:
        """Whether the target is found by an index of its own."""
        relation = edge.relation
        parent, child = self.work.tables[relation.parent], self.work.tables[relation.child]
        types = zip(relation.columns, relation.parent_columns, strict=True)
        alike = all(child.types[one] == parent.types[other] for one, other in types)
        return not edge.down and alike and self.work.has_index(relation.parent, relation.parent_columns)

    def _table(self, edge: Edge) -> str:
        number = self.spec.relations.index(edge.relation)
        return quote("pg_temp", f"sample_edge_{number}_{'down' if edge.down else 'up'}")

    def _rows(self, edge: Edge) -> str:
        """A query for the rows of the target, by handle and keys."""
        keys = ", ".join(self._keys(edge, of_target=True))
        if self._has_index(edge):
            return self.work.scan(edge.target)
        return f"SELECT handle, {keys} FROM {self._table(edge)}"

    def _fill(self, edge: Edge) -> None:
        """Fill the index of an edge, once. Of the children of one parent it has as many as the rule admits."""
        if edge in self._filled or self._has_index(edge):
            return
        self._filled.add(edge)
        keys, cap = self._keys(edge, of_target=True), edge.cap(self.spec)
        listed = ", ".join(keys)
        query = f"SELECT handle, {listed} FROM ({self.work.scan(edge.target)}) AS t WHERE {given('t', keys)}"
        if cap is not None:
            by_row = self.work.tables[edge.target].row_hash("t", self.work.seed)
            query = (
                f"SELECT handle, {listed} FROM (SELECT handle, {listed}, row_number() OVER (PARTITION BY {listed} "
                f"ORDER BY by_row, handle) AS number FROM ({self.work.scan(edge.target, by_row=by_row)}) AS t "
                f"WHERE {given('t', keys)}) AS t WHERE number <= {cap}"
            )
        self.work.execute(f"INSERT INTO {self._table(edge)} {query} ORDER BY {listed}")
        self.work.execute(f"ANALYZE {self._table(edge)}")

    def _keys(self, edge: Edge, *, of_target: bool) -> list[str]:
        """The link columns by which an edge begins, or ends."""
        is_child = edge.down == of_target
        return self.work.child_keys(edge.relation) if is_child else self.work.parent_keys(edge.relation)
