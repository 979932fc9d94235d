"""The names that people type for tables.

A table has a name in Dagster, its asset, and a name in SQL. They differ when a task gives its table a name while it
runs: the task `slow` returns `Table(x, "slow_6")`. Both names are understood; the asset is the one that is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.graph.flow import FlowGraph, Stage
from pipedag_dagster.sampling.spec import InputTable, declared_relations, sample_spec
from pipedag_dagster.versions.table_store import TableStore


def find_table(text: str, assets: Collection[tuple[str, str]], store: TableStore) -> tuple[str, str] | None:
    """Stage and asset of the table that somebody calls `text`: `stage.asset`, or `stage.table` as in SQL.

    Args:
        assets: stage and asset of the tables that are meant. An asset wins over a table of the same name.
        store: has the names of committed tables in SQL.

    Returns:
        None when there is no such table.
    """
    stage, _, name = text.lower().partition(".")
    if (stage, name) in assets:
        return stage, name
    if not any(stage == other for other, _ in assets) or not store.exists():
        return None
    committed = store.current([stage])[stage].tables.items()
    return next(((stage, asset) for asset, table in committed if table.name == name), None)


def label(asset: str, name: str) -> str:
    """A table as it is shown.

    >>> label("slow", "slow_6")
    'slow (slow_6 in SQL)'
    """
    return asset if name == asset else f"{asset} ({name} in SQL)"


def check_sample(instance: ConfigContext, flows: Sequence[FlowGraph], plain: Iterable[tuple[str, str]] = ()) -> None:
    """Check the section `sample` of an instance against its input tables, as far as they are known before a run.

    Args:
        plain: stage and name of the input tables that plain assets make.

    Raises:
        ConfigError: the section does not fit the tables. All mistakes are listed.
    """
    tables = input_tables([stage for flow in flows for stage in flow.stages], plain)
    sample_spec(instance.config, tables, [relation for flow in flows for relation in declared_relations(flow)])


def input_tables(stages: Iterable[Stage], plain: Iterable[tuple[str, str]] = ()) -> list[InputTable]:
    """The tables that input tasks of these stages and plain assets make."""
    tables = [
        InputTable(f"{stage.name}.{asset}", declared=call.task.outputs is not None)
        for stage in stages
        for call in stage.calls
        if call.task.input or call.task.from_source
        for asset in call.assets
    ]
    return tables + [InputTable(f"{stage}.{name}") for stage, name in plain]
