"""Rules that are functions of the user: `choose: "my_pipeline.sampling:claims"`.

The function gets the source tables and returns a select of keys. What follows from these rows (children, parents) stays
the work of the selection.
"""

from __future__ import annotations

import pkgutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import sqlalchemy as sa

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import SampleError, did_you_mean
from pipedag_dagster.names import quote
from pipedag_dagster.postgres.sql_text import render
from pipedag_dagster.sampling.rules import Choose, SampleSpec, Where


def as_conditions(spec: SampleSpec, source: ConfigContext, tables: Mapping[str, TableVersion]) -> SampleSpec:
    """The same rules, with a condition in place of each function.

    Args:
        tables: the tables of the source, by `stage.asset`. A function gets them as a dict, by these names, and by the
            name of the asset alone where there is only one of it.

    Raises:
        SampleError: a function failed, or returned something else than a select of columns of its table.
    """
    chosen = {name: rule for name, rule in spec.rules.items() if isinstance(rule, Choose)}
    if not chosen:
        return spec
    store = source.store.table_store
    given = {name: store.read(table, sa.Table) for name, table in tables.items()}
    bare = Counter(name.partition(".")[2] for name in given)
    given |= {asset: given[name] for name in tables if bare[asset := name.partition(".")[2]] == 1}
    conditions = {name: Where(_condition(rule, name, tables[name], given)) for name, rule in chosen.items()}
    return replace(spec, rules={**spec.rules, **conditions})


def _condition(rule: Choose, name: str, table: TableVersion, given: Mapping[str, sa.FromClause]) -> str:
    what = f"The sample of {name}: {rule.function}()"
    try:
        query = pkgutil.resolve_name(rule.function)(given)
    except Exception as error:
        raise SampleError(f"{what} failed: {type(error).__name__}: {error}") from error
    if not isinstance(query, sa.Select | sa.CompoundSelect):
        raise SampleError(f"{what} must return sa.select(…) of the columns of a key, not {type(query).__name__}.")
    known = [column.name for column in table.columns]
    columns = [str(column.name) for column in query.selected_columns]
    for column in columns:
        if column not in known:
            hint = did_you_mean(column, known)
            raise SampleError(f"{what} returns a column {column!r}, which {name} does not have.{hint}")
    return f"({', '.join(quote('t', column) for column in columns)}) IN ({render(query, what)})"
