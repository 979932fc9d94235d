"""From what a task returns to tables: which output each value is, and what is to be stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from pipedag_dagster.errors import InvalidName, UnstorableResult, did_you_mean
from pipedag_dagster.flow import Slot, TaskCall
from pipedag_dagster.names import table_name
from pipedag_dagster.store import physical
from pipedag_dagster.store.physical import Constraints
from pipedag_dagster.tables import Table

# What `auto_table` calls the classes that need no Table(...) around them.
_AUTO_TABLE: dict[str, type] = {
    "pandas.DataFrame": pd.DataFrame,
    "pyarrow.Table": pa.Table,
    "sqlalchemy.Table": sa.Table,
    "sqlalchemy.sql.expression.TextClause": sa.TextClause,
    "sqlalchemy.sql.expression.Selectable": sa.Selectable,
}
_POLARS = {"polars.DataFrame", "polars.LazyFrame"}  # optional: known by name


@dataclass(frozen=True)
class Returned:
    """One table that a task has returned. `query` is set for SQL, `frame` for data."""

    slot: Slot
    name: str
    constraints: Constraints
    query: str | None
    frame: Any


def unpack(call: TaskCall, value: Any, auto_table: tuple[str, ...]) -> list[Returned]:
    """The tables in what `call` returned.

    Raises:
        UnstorableResult: they are not as many as declared, not named as declared, or not storable; or two of them
            have the same name.
    """
    try:
        returned = [_returned(call, slot, part, auto_table) for slot, part in _slots(call, value)]
    except InvalidName as error:
        raise UnstorableResult(f"{call} returned a table that cannot be stored. {error}") from None
    for names in ([item.name for item in returned], [item.slot.asset for item in returned]):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UnstorableResult(f"{call} returned two tables {twice[0]!r}. Give one of them another name.")
    missing = [slot.asset for slot in call.slots if slot not in {item.slot for item in returned}]
    if missing:
        given = [item.name for item in returned]
        advice = f"Declare what it returns: outputs={given}." if given and call.task.outputs is None else ""
        raise UnstorableResult(f"{call} did not return {', '.join(map(repr, missing))}. {advice}".strip())
    return returned


def _slots(call: TaskCall, value: Any) -> Iterator[tuple[Slot, Any]]:
    if isinstance(value, dict):
        declared = {slot.asset: slot for slot in call.slots}
        for key, part in value.items():
            asset = table_name(key)
            if call.task.outputs is not None and asset not in declared:
                raise UnstorableResult(
                    f"{call} returned {key!r}, which is not in its outputs=[…].{did_you_mean(asset, declared)}"
                )
            yield declared.get(asset, Slot(asset, asset)), part
    elif isinstance(value, tuple | list):
        expected = call.count or 1
        if len(value) != expected or (call.count is None and call.slots[0].key is not None):
            advice = f"Write @materialize(nout={len(value)}), or better outputs=[…] with their names."
            if call.task.outputs is not None or not value:
                advice = "Return each of them, without rows if there are none."
            raise UnstorableResult(
                f"{call} returned a {type(value).__name__} of {len(value)}, but its tables are: "
                f"{', '.join(call.assets)}. {advice}"
            )
        yield from zip(call.slots, value, strict=True)
    elif len(call.slots) == 1 and call.slots[0].key is None:
        yield call.slots[0], value
    else:
        names = ", ".join(call.assets)
        raise UnstorableResult(f"{call} returned one {type(value).__name__}, but several tables are declared: {names}.")


def _returned(call: TaskCall, slot: Slot, value: Any, auto_table: tuple[str, ...]) -> Returned:
    what = f"{call.stage.name}.{slot.asset}"
    if not isinstance(value, Table) and _is_data(value) and not _is_auto_table(value, auto_table):
        raise UnstorableResult(
            f"{call} returned a {type(value).__name__} for {what}, which auto_table in the configuration leaves out "
            f"({', '.join(auto_table)}). Return Table(…) of it."
        )
    table = storable(value, what, f"{call} returned")
    name = slot.asset if table.name is None else table_name(table.name)
    if call.task.outputs is not None and name != slot.asset:
        raise UnstorableResult(
            f"{call} declares the output {slot.asset!r}, but returned a Table named {table.name!r} for it. "
            "Leave the name out of Table(…), or mend outputs=[…]."
        )
    constraints = Constraints(table.primary_key, table.indexes, table.non_nullable)
    if isinstance(table.obj, sa.ClauseElement):
        return Returned(slot, name, constraints, physical.render(table.obj), None)
    return Returned(slot, name, constraints, None, table.obj)


def storable(value: Any, what: str, origin: str = "got") -> Table:
    """`value` as a Table of data or of a query.

    Raises:
        UnstorableResult: it is something else.
    """
    table = value if isinstance(value, Table) else Table(value)
    if not _is_data(table.obj):
        kind = "None" if table.obj is None else type(table.obj).__name__
        given = f"Table({kind})" if isinstance(value, Table) else kind
        raise UnstorableResult(
            f"{origin} {given} for {what}, which a table cannot hold. "
            "Return a DataFrame or a query, or a Table(…) of one."
        )
    return table


def _is_data(value: Any) -> bool:
    return isinstance(value, tuple(_AUTO_TABLE.values())) or _polars_name(value) in _POLARS


def _is_auto_table(value: Any, allowed: tuple[str, ...]) -> bool:
    kinds = tuple(_AUTO_TABLE[name] for name in allowed if name in _AUTO_TABLE)
    return isinstance(value, kinds) or (_polars_name(value) in _POLARS and _polars_name(value) in allowed)


def _polars_name(value: Any) -> str:
    return f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
