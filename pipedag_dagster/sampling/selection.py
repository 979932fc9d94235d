"""Which rows of the source tables belong to a sample: computed inside the database, set by set.

The sample is the least set of rows with

1. the rows that the rule of their table, an edge case or a `keep` chooses;
2. the children of chosen rows, where the child's rule says `children_of`; and of any row, where the relation says
   `both`;
3. the parents of every row that is in it.

Each step only adds rows, and adds more when it starts from more: so a sample whose rules ask for less is part of one
whose rules ask for more. Nothing depends on the order in which rows are stored. Rows are told apart by their ctid,
which does not change because physical tables do not.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipedag_dagster.names import literal, quote
from pipedag_dagster.sampling.components import components
from pipedag_dagster.sampling.row_order import share_limit
from pipedag_dagster.sampling.rules import All, ChildrenOf, Fraction, Relation, Rows, SampleSpec, Where
from pipedag_dagster.sampling.source_tables import Connection, SourceTable


class Why(enum.IntEnum):
    """Why a row is in a sample: the first reason that applied. Rows up to `child` are chosen; the others came along."""

    keep = 1
    rule = 2
    edge_case = 3
    child = 4
    reference = 5


@dataclass(frozen=True)
class Edge:
    """Rows of `target` come along with rows of `origin`, by a relation: down to children, or up to parents."""

    relation: Relation
    down: bool

    @property
    def origin(self) -> str:
        return self.relation.parent if self.down else self.relation.child

    @property
    def target(self) -> str:
        return self.relation.child if self.down else self.relation.parent


def _array(ctids: Sequence[str]) -> str:
    """An array of PostgreSQL as text."""
    return "{" + ",".join(f'"{ctid}"' for ctid in ctids) + "}"


SETTINGS = """
    SET LOCAL jit = off; SET LOCAL random_page_cost = 1.1; SET LOCAL work_mem = '256MB';
    SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres';
    SET LOCAL extra_float_digits = 1
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
        self.connection = connection
        self.tables = tables
        self.spec = spec
        self.edge_cases = edge_cases or {}
        self._numbers = {name: number for number, name in enumerate(tables)}

    def run(self) -> None:
        """Compute the sample."""
        self._execute(SETTINGS)
        for name in self.tables:
            self._create(name)
        for kept in self.spec.keep:
            self._add(kept.table, Why.keep, f"({kept.where})")
        for name in self.tables:
            self._choose(name)
        for name, ctids in self.edge_cases.items():
            self._insert(name, Why.edge_case, f"SELECT unnest({literal(_array(ctids))}::tid[])")
        self._follow(list(self._down_edges()), chosen=True)
        up = [Edge(relation, down=False) for relation in self.spec.relations]
        both = [Edge(relation, down=True) for relation in self.spec.relations if relation.follow == "both"]
        self._follow(up + both, chosen=False)

    def handles(self, name: str) -> str:
        """The quoted name of the table that has the handles (`handle`) of the chosen rows of a table, and `why`."""
        return quote("pg_temp", f"sample_{self._numbers[name]}")

    def source(self, name: str) -> str:
        """The quoted name of the table that the handles point into: the physical table; of a view, its copy."""
        if self.tables[name].is_view:
            return quote("pg_temp", f"sample_view_{self._numbers[name]}")
        return self.tables[name].sql

    def counts(self, name: str) -> dict[Why, int]:
        """How many rows of a table are in the sample, by reason."""
        rows = self.connection.execute(f"SELECT why, count(*) FROM {self.handles(name)} GROUP BY why".encode())
        return {Why(why): count for why, count in rows}

    # Work tables

    def _create(self, name: str) -> None:
        """An empty table of handles, with the columns by which other tables are reached from it."""
        if self.tables[name].is_view:
            self._execute(f"CREATE TEMP TABLE {self.source(name)} AS SELECT * FROM {self.tables[name].sql}")
            self._execute(f"ANALYZE {self.source(name)}")
        columns = ", ".join(f"{expression} AS {column}" for column, expression in self._links(name))
        table = f"{self.handles(name)} AS SELECT t.ctid AS handle, 0::smallint AS why{', ' if columns else ''}{columns}"
        self._execute(f"CREATE TEMP TABLE {table} FROM {self.source(name)} AS t LIMIT 0")
        self._execute(f"ALTER TABLE {self.handles(name)} ADD PRIMARY KEY (handle)")

    def _links(self, name: str) -> Iterator[tuple[str, str]]:
        """The columns of a work table that relations need, each with its expression on the source table `t`."""
        for number, relation in enumerate(self.spec.relations):
            if relation.child == name:
                for position, column in enumerate(relation.columns):
                    value = quote("t", column)
                    value = f"CASE WHEN ({relation.when}) THEN {value} END" if relation.when else value
                    yield f"r{number}_{position}", value
            if relation.parent == name:
                for position, column in enumerate(relation.parent_columns):
                    yield f"p{number}_{position}", quote("t", column)

    def _add(self, name: str, why: Why, condition: str = "true", order: str = "") -> None:
        """Add the rows of a table (`t`) for which a condition holds, unless they are in the sample already."""
        self._insert(name, why, f"SELECT t.ctid AS handle FROM {self.source(name)} AS t WHERE {condition} {order}")

    def _insert(self, name: str, why: Why, handles: str) -> None:
        links = "".join(f", {expression}" for _, expression in self._links(name))
        handle_table = self.handles(name)
        self._execute(
            f"INSERT INTO {handle_table} SELECT t.ctid, {int(why)}{links} FROM {self.source(name)} AS t "
            f"WHERE t.ctid IN ({handles}) ON CONFLICT DO NOTHING"
        )
        self._execute(f"ANALYZE {handle_table}")

    def _execute(self, statement: str) -> None:
        self.connection.execute(statement.encode())

    def _scalar(self, query: str) -> int:
        row = self.connection.execute(query.encode()).fetchone()
        return int(row[0] or 0) if row else 0

    # Roots

    def _choose(self, name: str) -> None:
        """Add the rows that the rule of a table chooses by itself."""
        table, rule = self.tables[name], self.spec.rule(name)
        order = table.row_hash("t", self.spec.seed)
        if isinstance(rule, All) or (self.spec.whole_below and self._is_small(table)):
            self._add(name, Why.rule)
        elif isinstance(rule, Rows):
            self._add(name, Why.rule, order=f"ORDER BY {order} LIMIT {rule.count}")
            for column, count in rule.per_value.items():
                self._lowest_of_each(name, Why.rule, (column,), count, "true")
        elif isinstance(rule, Fraction):
            key = rule.key or table.primary_key
            by = table.hash_of(tuple(quote("t", column) for column in key), key, self.spec.seed) if key else order
            self._add(name, Why.rule, f"{by} <= {share_limit(rule.share)}")
        elif isinstance(rule, Where):
            self._add(name, Why.rule, f"({rule.condition})")

    def _is_small(self, table: SourceTable) -> bool:
        limit = self.spec.whole_below
        return self._scalar(f"SELECT count(*) FROM (SELECT FROM {self.source(table.name)} LIMIT {limit}) AS t") < limit

    def _lowest_of_each(self, name: str, why: Why, columns: Sequence[str], count: int, condition: str) -> None:
        """Add, of the rows with equal values in some columns, those with the lowest hashes."""
        table = self.tables[name]
        groups = ", ".join(quote("t", column) for column in columns)
        numbered = (
            f"SELECT t.ctid AS handle, row_number() OVER (PARTITION BY {groups} "
            f"ORDER BY {table.row_hash('t', self.spec.seed)}) AS number FROM {self.source(name)} AS t WHERE {condition}"
        )
        self._insert(name, why, f"SELECT handle FROM ({numbered}) AS numbered WHERE number <= {count}")

    # Relations

    def _down_edges(self) -> Iterator[Edge]:
        for relation in self.spec.relations:
            rule = self.spec.rule(relation.child)
            if relation.follow == "both" or (isinstance(rule, ChildrenOf) and relation.parent in rule.parents):
                yield Edge(relation, down=True)

    def _follow(self, edges: Sequence[Edge], *, chosen: bool) -> None:
        """Add everything that the edges lead to: from chosen rows (which makes it chosen), or from all."""
        graph: dict[str, set[str]] = {name: set() for name in self.tables}
        for edge in edges:
            graph[edge.origin].add(edge.target)
        for component in components(graph):
            for edge in edges:
                if edge.target in component and edge.origin not in component:
                    self._step(edge, chosen=chosen)
            inside = [edge for edge in edges if {edge.origin, edge.target} <= component]
            if inside:
                self._close(sorted(component), inside, chosen=chosen)

    def _step(self, edge: Edge, *, chosen: bool) -> None:
        why = Why.child if chosen else Why.reference
        reached = self._reached(edge, chosen=chosen)
        rule = self.spec.rule(edge.target)
        if not (edge.down and isinstance(rule, ChildrenOf) and edge.relation.parent in rule.parents):
            self._add(edge.target, why, reached)
        elif chosen:
            self._children(edge.relation, rule, reached)

    def _reached(self, edge: Edge, *, chosen: bool) -> str:
        """A condition on rows `t` of the target: a row of the sample leads to them."""
        relation = edge.relation
        number = self.spec.relations.index(relation)
        columns, side = (relation.columns, "p") if edge.down else (relation.parent_columns, "r")
        pairs = [f"o.{side}{number}_{at} = {quote('t', column)}" for at, column in enumerate(columns)]
        pairs += [f"o.why <= {int(Why.child)}"] if chosen else []
        found = f"EXISTS (SELECT FROM {self.handles(edge.origin)} AS o WHERE {' AND '.join(pairs)})"
        return f"({relation.when}) AND {found}" if edge.down and relation.when else found

    def _children(self, relation: Relation, rule: ChildrenOf, reached: str) -> None:
        """Add the children of chosen rows; and orphans and rows without a reference, at the rate of their siblings."""
        child, parent = self.tables[relation.child], self.tables[relation.parent]
        source = self.source(relation.parent)
        limit = share_limit(self._share(relation.parent))
        columns = tuple(quote("t", column) for column in relation.columns)
        given = " AND ".join(f"{column} IS NOT NULL" for column in columns)
        same = zip(relation.parent_columns, columns, strict=True)
        there = " AND ".join(f"{quote('p', theirs)} = {ours}" for theirs, ours in same)
        own_key = parent.hash_of(columns, relation.parent_columns, self.spec.seed)
        orphan = f"{given} AND {own_key} <= {limit} AND NOT EXISTS (SELECT FROM {source} AS p WHERE {there})"
        unset = f"({given}) IS NOT TRUE AND {child.row_hash('t', self.spec.seed)} <= {limit}"
        when = f"({relation.when}) AND " if relation.when else ""
        for condition in (reached, f"{when}{orphan}"):
            if rule.per_parent is None:
                self._add(relation.child, Why.child, condition)
            else:
                self._lowest_of_each(relation.child, Why.child, relation.columns, rule.per_parent, condition)
        self._add(relation.child, Why.child, f"{when}{unset}")

    def _share(self, name: str) -> float:
        """Which share of the rows of a table is chosen."""
        rows = self._scalar(f"SELECT count(*) FROM {self.source(name)}")
        chosen = self._scalar(f"SELECT count(*) FROM {self.handles(name)} WHERE why <= {int(Why.child)}")
        return chosen / rows if rows else 0.0

    def _close(self, names: list[str], edges: Sequence[Edge], *, chosen: bool) -> None:
        """Add what a circle of relations leads to, however long the chains of rows are: in one recursive statement."""
        numbers = {name: number for number, name in enumerate(names)}
        for name in names:
            self._index(name, edges)
        first = f"WHERE why <= {int(Why.child)}" if chosen else ""
        seeds = " UNION ALL ".join(
            f"SELECT {number}, handle FROM {self.handles(name)} {first}" for name, number in numbers.items()
        )
        steps = " UNION ALL ".join(
            f"SELECT {numbers[edge.target]} AS number, b.handle FROM {self._keys(edge.origin)} AS a "
            f"JOIN {self._keys(edge.target)} AS b ON {self._pairs(edge)} "
            f"WHERE r.number = {numbers[edge.origin]} AND a.handle = r.handle"
            for edge in edges
        )
        self._execute("DROP TABLE IF EXISTS pg_temp.sample_reached")
        self._execute(
            f"CREATE TEMP TABLE sample_reached AS WITH RECURSIVE r (number, handle) AS ({seeds} UNION "
            f"SELECT s.number, s.handle FROM r CROSS JOIN LATERAL ({steps}) AS s) SELECT * FROM r"
        )
        for name, number in numbers.items():
            why = Why.child if chosen else Why.reference
            self._insert(name, why, f"SELECT handle FROM pg_temp.sample_reached WHERE number = {number}")
            self._execute(f"DROP TABLE {self._keys(name)}")

    def _keys(self, name: str) -> str:
        return quote("pg_temp", f"sample_keys_{self._numbers[name]}")

    def _index(self, name: str, edges: Sequence[Edge]) -> None:
        """The keys of all rows of a table, indexed: each round of a recursion looks up a few of them."""
        links = "".join(f", {expression} AS {column}" for column, expression in self._links(name))
        keys = self._keys(name)
        self._execute(f"CREATE TEMP TABLE {keys} AS SELECT t.ctid AS handle{links} FROM {self.source(name)} AS t")
        self._execute(f"CREATE INDEX ON {keys} (handle)")
        for edge in edges:
            if edge.target == name:
                self._execute(f"CREATE INDEX ON {keys} ({', '.join(self._side(edge, of_target=True))})")
        self._execute(f"ANALYZE {keys}")

    def _pairs(self, edge: Edge) -> str:
        pairs = zip(self._side(edge, of_target=False), self._side(edge, of_target=True), strict=True)
        return " AND ".join(f"a.{one} = b.{other}" for one, other in pairs)

    def _side(self, edge: Edge, *, of_target: bool) -> list[str]:
        """The columns of a work table by which an edge begins, or ends."""
        number = self.spec.relations.index(edge.relation)
        side = "r" if edge.down == of_target else "p"
        return [f"{side}{number}_{position}" for position in range(len(edge.relation.columns))]
