"""The names that people type for tables.

A table has a name in Dagster, its asset, and a name in SQL. They differ when a task gives its table a name while it
runs: the task `slow` returns `Table(x, "slow_6")`. Both names are understood; the asset is the one that is shown.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Collection, Iterable

from pipedag_dagster.config.instances import InstanceConfig
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.graph.flow import FlowGraph
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


def check_samples(config: InstanceConfig, flows: Iterable[FlowGraph], plain: Iterable[str] = ()) -> None:
    """Find tables in `sample.tables` that no input task makes. A name that looks misspelt is an error. Others are named
    in one warning: they may be tables of another flow, or names that a task gives its tables while it runs.

    Args:
        plain: the names of plain assets.

    Raises:
        ConfigError: a name is close to that of a declared input table.
    """
    calls = [call for flow in flows for stage in flow.stages for call in stage.calls]
    inputs = [call for call in calls if call.task.input or call.task.from_source]
    # A task without outputs= may give its tables other names while it runs, so nobody can call those misspelt.
    declared = {asset for call in inputs if call.task.outputs is not None for asset in call.assets}.union(plain)
    known = {asset for call in inputs for asset in call.assets} | declared
    unknown = [name for name in config.sample.tables if name.lower() not in known]
    problems = []
    for name in unknown:
        if close := difflib.get_close_matches(name.lower(), declared, n=1, cutoff=0.8):
            message = f"no input task makes a table {name!r}. Did you mean {close[0]!r}?"
            problems.append(config.problem(("sample", "tables", name), message))
    if problems:
        raise ConfigError(problems)
    if unknown:
        names = ", ".join(map(repr, unknown))
        message = f"nothing reads {names}, because no input task here makes such a table."
        problem = config.problem(("sample", "tables"), message)
        warnings.warn_explicit(problem.message, UserWarning, str(problem.file), problem.line or 1)
