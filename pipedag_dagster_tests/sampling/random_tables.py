"""Random tables that refer to each other, and random rules for samples of them."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from hypothesis import strategies as st

from pipedag_dagster.catalog.catalog import Column
from pipedag_dagster.sampling.rules import (
    All,
    ChildrenOf,
    Fraction,
    Keep,
    Nothing,
    Parents,
    Relation,
    Rows,
    Rule,
    SampleSpec,
    Where,
)
from pipedag_dagster.sampling.selection import Selection
from pipedag_dagster.sampling.source_tables import SourceTable

COLUMNS = ("id", "kind", "a", "b")
Row = tuple[int | None, ...]


@dataclass(frozen=True)
class Data:
    """Tables `raw.t0`, `raw.t1`, …: rows of (id, kind, a, b), where a and b may refer to other tables.

    Attributes:
        keyed: whether a table has the primary key `id`. Without it, rows may be equal.
    """

    rows: Mapping[str, Sequence[Row]]
    keyed: Mapping[str, bool]
    relations: tuple[Relation, ...]

    def shuffled(self) -> Data:
        """The same rows, stored in another order."""
        rows = {name: random.Random(1).sample(rows, len(rows)) for name, rows in self.rows.items()}
        return replace(self, rows=rows)


@st.composite
def data(draw: st.DrawFn) -> Data:
    names = [f"raw.t{number}" for number in range(draw(st.integers(2, 6)))]
    random_ = draw(st.randoms(use_true_random=False))
    keyed = {name: draw(st.booleans()) for name in names}
    relations = [relation for name in names for relation in draw(_relations(name, names))]
    rows = {}
    for name in names:
        size = draw(st.integers(0, 25))
        ids = random_.sample(range(25), size) if keyed[name] else [random_.randrange(12) for _ in range(size)]
        values = [[None if random_.random() < 0.15 else random_.randrange(30) for _ in range(3)] for _ in ids]
        rows[name] = [
            (number, None if kind is None else kind % 3, a, b) for number, (kind, a, b) in zip(ids, values, strict=True)
        ]
        if not keyed[name]:
            rows[name] += rows[name][: draw(st.integers(0, 4))]
    return Data(rows, keyed, tuple(dict.fromkeys(relations)))


@st.composite
def _relations(draw: st.DrawFn, child: str, names: Sequence[str]) -> list[Relation]:
    """What a table refers to: with one column or two, always or for rows of one kind, one column in several ways."""
    relations = []
    for column in "ab":
        shape = draw(st.sampled_from(["none", "none", "simple", "simple", "composite", "conditional", "polymorphic"]))
        target, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        follow = draw(st.sampled_from(["parents", "parents", "parents", "both"]))
        if shape == "composite":
            relations.append(Relation(child, (column, "kind"), target, ("id", "kind"), None, follow))
        elif shape == "polymorphic":
            relations.append(Relation(child, (column,), target, ("id",), "kind = 1", follow))
            relations.append(Relation(child, (column,), other, ("id",), "kind = 2", follow))
        elif shape != "none":
            when = "kind = 1" if shape == "conditional" else None
            relations.append(Relation(child, (column,), target, ("id",), when, follow))
    return relations


EdgeRows = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class Asked:
    """What a sample is asked to contain. Of a row in `edge_cases`, it is to have one."""

    spec: SampleSpec
    edge_cases: EdgeRows


@st.composite
def two_sizes(draw: st.DrawFn, source: Data) -> tuple[Asked, Asked]:
    """Two samples: the first asks for no more than the second does."""
    small: dict[str, Rule] = {}
    large: dict[str, Rule] = {}
    for name in source.rows:
        parents = sorted({relation.parent for relation in source.relations if relation.child == name})
        small[name], large[name] = draw(_rules(parents))
    keep = tuple(Keep(name, "id = 7") for name in source.rows if draw(st.integers(0, 3)) == 0)
    edges = {name: draw(_some(rows)) for name, rows in source.rows.items()}
    fewer = {name: draw(_some(rows)) for name, rows in edges.items()}
    spec = SampleSpec(small, source.relations, keep, seed=draw(st.integers(0, 3)))
    spec, below = replace(spec, whole_below=draw(st.sampled_from([0, 0, 3]))), draw(st.sampled_from([3, 6]))
    return Asked(spec, fewer), Asked(replace(spec, rules=large, whole_below=below), edges)


@st.composite
def _rules(draw: st.DrawFn, parents: Sequence[str]) -> tuple[Rule, Rule]:
    low, high = sorted(draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
    shares = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    kinds = ["all", "rows", "fraction", "where", "parents", "none"] + (["children"] * 4 if parents else [])
    small: Rule
    large: Rule
    match draw(st.sampled_from(kinds)):
        case "all":
            large = All()
            small = draw(st.sampled_from([All(), Rows(3), Fraction(0.5), ChildrenOf(tuple(parents)), Parents()]))
        case "rows":
            per_value = {draw(st.sampled_from(COLUMNS)): draw(st.integers(1, 2))} if draw(st.booleans()) else {}
            small, large = Rows(low, per_value), Rows(high, per_value)
        case "fraction":
            key = draw(st.sampled_from([(), ("a",), ("kind", "b")]))
            small, large = Fraction(shares[0], key), Fraction(shares[1], key)
        case "where":
            small, large = Where("id < 3"), Where("id < 6")
        case "children":
            fewer = tuple(parents) if draw(st.booleans()) else (draw(st.sampled_from(parents)),)
            cap = draw(st.sampled_from([None, max(high, 1)]))
            small = ChildrenOf(fewer, max(low, 1) if cap or draw(st.booleans()) else None)
            large = ChildrenOf(tuple(parents), cap)
        case "parents":
            small = large = Parents()
        case _:
            small = large = Nothing()
    if draw(st.integers(0, 5)) == 0:
        small = draw(st.sampled_from([Nothing(), Parents()])) if not isinstance(large, Nothing) else Nothing()
    return small, large


def _some(rows: Sequence[Row]) -> st.SearchStrategy[list[Row]]:
    return st.lists(st.sampled_from(sorted(set(rows), key=repr)), max_size=2) if rows else st.just([])


_numbers = itertools.count()


def load(connection: psycopg.Connection[Any], source: Data) -> dict[str, SourceTable]:
    """Make the tables, in a schema of their own."""
    schema = f"source_{os.getpid()}_{next(_numbers)}"
    connection.execute(f"CREATE SCHEMA {schema}".encode())
    columns = tuple(Column(name, "integer") for name in COLUMNS)
    tables = {}
    for name, rows in source.rows.items():
        physical = name.removeprefix("raw.")
        key = ", PRIMARY KEY (id)" if source.keyed[name] else ""
        connection.execute(f"CREATE TABLE {schema}.{physical} (id int, kind int, a int, b int{key})".encode())
        with connection.cursor() as cursor, cursor.copy(f"COPY {schema}.{physical} FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row(row)
        tables[name] = SourceTable(name, schema, physical, columns, ("id",) if source.keyed[name] else ())
    return tables


def sample(connection: psycopg.Connection[Any], source: Data, asked: Asked | SampleSpec) -> dict[str, Counter[Row]]:
    """The rows of a sample, by table. Nothing stays in the database."""
    spec, edges = (asked.spec, asked.edge_cases) if isinstance(asked, Asked) else (asked, {})
    with connection.transaction(force_rollback=True):
        tables = load(connection, source)
        # Of equal rows the first one, as a selection takes them. So few rows lie on one page.
        ctids = {name: [f"(0,{source.rows[name].index(row) + 1})" for row in rows] for name, rows in edges.items()}
        selection = Selection(connection, tables, spec, ctids)
        selection.create()
        connection.execute("SET TRANSACTION READ ONLY")
        selection.run()
        return {name: Counter(connection.execute(_rows(selection, name)).fetchall()) for name in tables}


def _rows(selection: Selection, name: str) -> bytes:
    handles = f"SELECT handle FROM {selection.handles(name)}"
    return f"SELECT id, kind, a, b FROM {selection.source(name)} WHERE ctid IN ({handles})".encode()
