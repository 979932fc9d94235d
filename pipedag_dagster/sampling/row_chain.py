"""Why a row is in a sample: the chain from the row to the rule that chose it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from pipedag_dagster.errors import SampleError
from pipedag_dagster.names import literal, quote
from pipedag_dagster.sampling.chosen import Chosen
from pipedag_dagster.sampling.edges import Edge
from pipedag_dagster.sampling.rules import SampleSpec, rule_text
from pipedag_dagster.sampling.work_tables import Why

_SHOWN_COLUMNS = 4
_MOST_ROWS = 10_000


@dataclass(frozen=True)
class Link:
    """A row of a chain, and how it came into the sample.

    Attributes:
        row: for people: `raw.flights id=1234`.
        because: how; for the last row of a chain, what chose it.
    """

    row: str
    because: str


@dataclass(frozen=True)
class _Row:
    table: str
    handle: str
    why: Why


def chains(chosen: Chosen, table: str, condition: str, limit: int) -> list[list[Link]]:
    """For each row of a table for which a condition holds: the chain of rows that brought it, beginning with this row.
    The chain of a row that is not in the sample is empty.

    Args:
        table: `stage.asset`.
        limit: so many rows are looked at, those in the sample first.

    Raises:
        SampleError: the database refuses the condition.
    """
    selection = chosen.selection
    query = (
        f"SELECT t.ctid::text, h.why FROM {selection.source(table)} AS t "
        f"LEFT JOIN {selection.handles(table)} AS h ON h.handle = t.ctid WHERE ({condition}) "
        f"ORDER BY h.handle IS NULL, t.ctid LIMIT {limit}"
    )
    try:
        rows = chosen.connection.execute(query.encode()).fetchall()
    except (psycopg.ProgrammingError, psycopg.DataError) as error:
        raise SampleError(f"The database refuses {condition!r}: {error.diag.message_primary}.") from None
    return [[] if why is None else _chain(chosen, _Row(table, handle, Why(why))) for handle, why in rows]


def _chain(chosen: Chosen, row: _Row) -> list[Link]:
    """The shortest chain from a row to one that was chosen by itself."""
    came_from: dict[_Row, tuple[_Row, Edge] | None] = {row: None}
    todo = deque([row])
    while todo and len(came_from) < _MOST_ROWS:
        current = todo.popleft()
        root = _root(chosen, current)
        if root is not None:
            return list(_links(chosen, current, root, came_from))
        for edge, other in _before(chosen, current):
            if other not in came_from:
                came_from[other] = (current, edge)
                todo.append(other)
    return [Link(_text(chosen, row), f"more than {_MOST_ROWS:,} rows lead to it")]


def _links(chosen: Chosen, row: _Row, root: str, came_from: dict[_Row, tuple[_Row, Edge] | None]) -> Iterator[Link]:
    """The chain that ends with `row`, the row that was asked for first."""
    links = [Link(_text(chosen, row), root)]
    while (step := came_from[row]) is not None:
        row, edge = step
        relation = edge.relation
        how = f"comes with its parent, by {relation}" if edge.down else f"is referred to, by {relation}"
        links.append(Link(_text(chosen, row), how))
    return reversed(links)


def _before(chosen: Chosen, row: _Row) -> Iterator[tuple[Edge, _Row]]:
    for edge in chosen.selection.edges_to(row.table, row.why):
        query = f"{chosen.selection.leading_to(edge, row.handle)} LIMIT 5"
        for handle, why in chosen.connection.execute(query.encode()).fetchall():
            if why <= row.why:
                yield edge, _Row(edge.origin, handle, Why(why))


def _root(chosen: Chosen, row: _Row) -> str | None:
    """What chose a row by itself; None when other rows brought it."""
    spec = chosen.spec
    if row.why is Why.keep:
        return next(_kept(chosen, spec, row), "is kept")
    if row.why is Why.rule:
        return f"the rule of the table chose it: {rule_text(spec.rule(row.table))}"
    if row.why is Why.edge_case:
        cases = [case.reason for case in chosen.edge_cases.get(row.table, ()) if case.handle == row.handle]
        return f"is an edge case: {', '.join(cases)}"
    if row.why is Why.child and next(_before(chosen, row), None) is None:
        return "refers to no row, and comes at the rate of its siblings"
    return None


def _kept(chosen: Chosen, spec: SampleSpec, row: _Row) -> Iterator[str]:
    source = chosen.selection.source(row.table)
    for kept in spec.keep:
        if kept.table == row.table:
            query = f"SELECT FROM {source} AS t WHERE t.ctid = {literal(row.handle)}::tid AND ({kept.where})"
            if chosen.connection.execute(query.encode()).fetchone() is not None:
                yield f"is kept, by {kept.where}" + (f", because: {kept.because}" if kept.because else "")


def _text(chosen: Chosen, row: _Row) -> str:
    table = chosen.selection.tables[row.table]
    columns = table.primary_key or tuple(column.name for column in table.columns[:_SHOWN_COLUMNS])
    listed = ", ".join(f"{quote('t', column)}::text" for column in columns)
    query = f"SELECT {listed} FROM {chosen.selection.source(row.table)} AS t WHERE t.ctid = {literal(row.handle)}::tid"
    values = chosen.connection.execute(query.encode()).fetchone() or ()
    shown = (f"{name}={'NULL' if value is None else value}" for name, value in zip(columns, values, strict=False))
    return f"{row.table} {' '.join(shown)}"
