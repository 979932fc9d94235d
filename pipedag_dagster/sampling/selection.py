"""Which rows of the source tables belong to a sample: computed inside the database, set by set.

The sample is the least set of rows with

1. the rows that the rule of their table, an edge case or a `keep` chooses;
2. the children of chosen rows, where the child's rule says `children_of`; and of any row, where the relation says
   `both`;
3. the parents of every row that is in it.

A table with the rule `none` stays out of 2 and 3.

Each step only adds rows, and adds more when it starts from more: so a sample whose rules ask for less is part of one
whose rules ask for more (the proof is in docs/sampling.md). Nothing depends on the order in which rows are stored: rows
are ordered by a hash, and of equal rows the first ones are taken, wherever some of them are. Rows are told apart by
their ctid, which does not change because physical tables do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pipedag_dagster.names import literal, quote
from pipedag_dagster.sampling.circles import Circles
from pipedag_dagster.sampling.components import components
from pipedag_dagster.sampling.edges import Edge
from pipedag_dagster.sampling.loose_rows import add_loose_rows
from pipedag_dagster.sampling.row_order import share_limit
from pipedag_dagster.sampling.rules import All, Fraction, Nothing, Rows, SampleSpec, Where
from pipedag_dagster.sampling.source_tables import Connection, SourceTable
from pipedag_dagster.sampling.work_tables import Why, WorkTables, equal, given

__all__ = ["SETTINGS", "Selection", "Why"]

SETTINGS = """
    SET LOCAL jit = off; SET LOCAL random_page_cost = 1.1; SET LOCAL work_mem = '256MB';
    SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres';
    SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'
"""
"""For the transaction of a selection. A semi-join of line items took eight times as long without the first three; the
others make texts, and so hashes of keys that are neither integers nor texts, the same everywhere."""


class Selection:
    """The rows of one sample, as tables of handles that live as long as the transaction of `connection`.

    Args:
        connection: in a transaction. Nothing but temporary tables is written.
        tables: all input tables, by `stage.table`.
        spec: what the sample is asked to contain.
        edge_cases: by table, the ctids (as text, `"(0,1)"`) of rows that stand for a rare case.
    """

    def __init__(
        self,
        connection: Connection,
        tables: Mapping[str, SourceTable],
        spec: SampleSpec,
        edge_cases: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.tables = tables
        self.spec = spec
        self.edge_cases = edge_cases or {}
        self._work = WorkTables(connection, tables, spec.relations, spec.seed)
        relations = [one for one in spec.relations if not isinstance(spec.rule(one.parent), Nothing)]
        down = [Edge(one, True) for one in spec.relations if not isinstance(spec.rule(one.child), Nothing)]
        both = [edge for edge in down if edge.relation.follow == "both"]
        self._choosing = [edge for edge in down if edge.is_chosen_by(spec) or edge in both]
        self._closing = [Edge(one, down=False) for one in relations] + both
        inside = [edge for edges in (self._choosing, self._closing) for _, _, one in self._parts(edges) for edge in one]
        self._circles = Circles(self._work, spec, inside)
        self._created = False
        self.brought: Counter[str] = Counter()
        """How many rows came along by each relation. Those of a circle are counted for all relations in it together."""

    def create(self) -> None:
        """Make the work tables, and copy views. After this, the transaction may be set READ ONLY."""
        self._work.execute(SETTINGS)
        for name in self.tables:
            self._work.create(name)
        self._circles.create()
        self._created = True

    def run(self) -> None:
        """Compute the sample."""
        if not self._created:
            self.create()
        for kept in self.spec.keep:
            self._add(kept.table, Why.keep, f"({kept.where})")
        for name in self.tables:
            self._choose(name)
        for name, ctids in self.edge_cases.items():
            array = "{" + ",".join(f'"{ctid}"' for ctid in ctids) + "}"
            self._add(name, Why.edge_case, f"t.ctid = ANY ({literal(array)}::tid[])")
        self._follow(self._choosing, Why.child)
        self._follow(self._closing, Why.reference)

    def handles(self, name: str) -> str:
        """The quoted name of the table that has the handles (`handle`) of the chosen rows of a table, and `why`."""
        return self._work.handles(name)

    def source(self, name: str) -> str:
        """The quoted name of the table that the handles point into: the physical table; of a view, its copy."""
        return self._work.source(name)

    def leading_to(self, edge: Edge, handle: str) -> str:
        """A query for the rows of the sample by which an edge leads to a row: handle and reason, chosen rows first.

        Args:
            handle: the ctid of the row, as text.
        """
        work, relation = self._work, edge.relation
        ours, theirs = work.parent_keys(relation), work.child_keys(relation)
        if not edge.down:
            ours, theirs = theirs, ours
        return (
            f"SELECT o.handle::text, o.why FROM {work.handles(edge.origin)} AS o JOIN {work.handles(edge.target)} AS t "
            f"ON {equal('o', ours, 't', theirs)} WHERE t.handle = {literal(handle)}::tid ORDER BY o.why, o.handle"
        )

    def edges_to(self, name: str, why: Why) -> list[Edge]:
        """The edges by which a row of a table may have come into the sample for this reason."""
        edges = self._choosing if why is Why.child else self._closing if why is Why.reference else []
        return [edge for edge in edges if edge.target == name]

    def counts(self, name: str) -> dict[Why, int]:
        """How many rows of a table are in the sample, by reason."""
        return dict(self._work.counts[name])

    # Roots

    def _choose(self, name: str) -> None:
        """Add the rows that the rule of a table chooses by itself."""
        table, rule, seed = self.tables[name], self.spec.rule(name), self.spec.seed
        small = bool(self.spec.whole_below) and self._work.size(name) < self.spec.whole_below
        if isinstance(rule, All) or (small and not isinstance(rule, Nothing)):
            self._add(name, Why.rule, "true")
            self._work.all_selected(name)
        elif isinstance(rule, Rows):
            rows = self._work.scan(name, hash=table.row_hash("t", seed))
            if rule.count:
                self._work.insert(name, Why.rule, rows, f"ORDER BY hash, handle LIMIT {rule.count}")
            for column, count in rule.per_value.items():
                self._lowest_of_each(name, column, count)
        elif isinstance(rule, Fraction):
            own = table.row_hash("t", seed)
            if rule.key:  # rows without a key are as good as others
                key = table.hash_of(tuple(quote("t", column) for column in rule.key), rule.key, seed)
                own = f"coalesce({key}, {own})"
            self._add(name, Why.rule, f"{own} <= {share_limit(rule.share)}")
        elif isinstance(rule, Where):
            self._add(name, Why.rule, f"({rule.condition})")

    def _add(self, name: str, why: Why, condition: str) -> None:
        """Add the rows of a table (`t`) for which a condition holds, unless they are in the sample already."""
        self._work.insert(name, why, self._work.scan(name, condition))

    def _lowest_of_each(self, name: str, column: str, count: int) -> None:
        """Add, of the rows with equal values in a column, those with the lowest hashes."""
        rows = self._work.scan(name, hash=self.tables[name].row_hash("t", self.spec.seed), value=quote("t", column))
        numbered = (
            f"SELECT s.*, row_number() OVER (PARTITION BY value ORDER BY hash, handle) AS number FROM ({rows}) AS s"
        )
        self._work.insert(name, Why.rule, f"SELECT * FROM ({numbered}) AS n WHERE number <= {count}")

    # Relations

    def _parts(self, edges: Sequence[Edge]) -> list[tuple[list[str], list[Edge], list[Edge]]]:
        """The tables in an order in which edges lead: components, with the edges into each and those inside of it."""
        graph: dict[str, set[str]] = {name: set() for name in self.tables}
        for edge in edges:
            graph[edge.origin].add(edge.target)
        parts = []
        for component in components(graph):
            into = [edge for edge in edges if edge.target in component and edge.origin not in component]
            inside = [edge for edge in edges if {edge.origin, edge.target} <= component]
            parts.append((sorted(component), into, inside))
        return parts

    def _follow(self, edges: Sequence[Edge], why: Why) -> None:
        """Add everything that the edges lead to: from chosen rows (which makes it chosen), or from all."""
        for names, into, inside in self._parts(edges):
            for edge in into:
                self.brought[str(edge.relation)] += self._step(edge, why)
                if why is Why.child and edge.is_chosen_by(self.spec):
                    add_loose_rows(self._work, self.spec, edge)
            if inside:
                circle = ", ".join(dict.fromkeys(str(edge.relation) for edge in inside))
                before = self._size_of(names)
                self._circle(names, inside, why)
                self.brought[circle] += self._size_of(names) - before

    def _size_of(self, names: Sequence[str]) -> int:
        return sum(self._work.counts[name].total() for name in names)

    def _circle(self, names: list[str], edges: list[Edge], why: Why) -> None:
        """Add what a circle leads to.

        Rows that refer to nothing come at the share of chosen parents, and bring rows that raise this share. So there
        are rounds: as many as a way through any tables of the circle, with circles inside of it, could need.
        """
        self._circles.close(names, edges, why)
        chosen = [edge for edge in edges if edge.is_chosen_by(self.spec)]
        if why is Why.reference or not chosen:
            return
        for _ in range(2 * len(names) - 1):
            if not sum([add_loose_rows(self._work, self.spec, edge) for edge in chosen]):
                break
            self._circles.close(names, edges, why)

    def _step(self, edge: Edge, why: Why) -> int:
        """Add the rows to which an edge leads. Returns how many they are."""
        work, relation = self._work, edge.relation
        if work.is_complete(edge.target):
            return 0
        work.analyze(edge.origin)
        ours, theirs = work.parent_keys(relation), work.child_keys(relation)
        if not edge.down:
            if self._has_all_parents(edge):
                return 0
            ours, theirs = theirs, ours
        rows = f"SELECT * FROM ({work.scan(edge.target)}) AS t"
        if (cap := edge.cap(self.spec)) is not None:
            by_row = self.tables[edge.target].row_hash("t", self.spec.seed)
            rows = (
                f"SELECT t.*, row_number() OVER (PARTITION BY {', '.join(theirs)} ORDER BY by_row, handle) AS number "
                f"FROM ({work.scan(edge.target, by_row=by_row)}) AS t"
            )
        reached = (
            f"SELECT FROM {work.handles(edge.origin)} AS o WHERE {equal('o', ours, 't', theirs)} AND why <= {why:d}"
        )
        capped = f"number <= {cap} AND " if cap is not None else ""
        return work.insert(edge.target, why, f"SELECT * FROM ({rows}) AS t WHERE {capped}EXISTS ({reached})")

    def _has_all_parents(self, edge: Edge) -> bool:
        """Whether nothing more can be reached by a relation: each reference leads to a row that is in the sample.

        Where several rows may have one key, that is not known.
        """
        work, relation = self._work, edge.relation
        children, parents = work.child_keys(relation), work.parent_keys(relation)
        if set(relation.parent_columns) != set(self.tables[edge.target].primary_key):
            return False
        work.analyze(edge.target)
        missing = (
            f"SELECT FROM {work.handles(edge.origin)} AS o WHERE {given('o', children)} AND NOT EXISTS "
            f"(SELECT FROM {work.handles(edge.target)} AS p WHERE {equal('o', children, 'p', parents)})"
        )
        return not work.scalar(f"SELECT EXISTS ({missing})::int")
