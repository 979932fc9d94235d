"""Writing a table by hand, in a debugger or a notebook."""

from __future__ import annotations

import sqlalchemy as sa

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.graph.schema import Schema
from pipedag_dagster.graph.tables import Table
from pipedag_dagster.graph.task_context import TaskContext
from pipedag_dagster.options import known_options


@known_options()
def materialize_table(
    table: Table,
    config_context: ConfigContext | None = None,
    schema: Schema | str | None = None,
    debug_suffix: str | None = None,
    flag_task_debug_tainted: bool = True,
    keep_table_name: bool = True,
    drop_if_exists: bool = True,
) -> str:
    """Write a table now, for looking at it: in a schema of your own, or inside of a task.

    Args:
        config_context: the instance; without it, the current one.
        schema: a schema of your own, which must exist. Inside of a task it is not needed.
        debug_suffix: is added to the name of the table.
        flag_task_debug_tainted: inside of a task, whether the task fails at its end, because the table is not part of
            its result. If False, it is a table of the stage (see `Table.materialize`).
        keep_table_name: if False, the table has the name in the database afterwards.
        drop_if_exists: if False, a table of the same name is an error.

    Returns:
        The name of the table in the database.

    Raises:
        WiringError: there is no such schema.
        NotOwned: the schema belongs to a stage.
        UnstorableResult: the table cannot be stored.

    Example:
        materialize_table(Table(query, "orders"), instance, Schema("debug"), debug_suffix="_2")
    """
    task = TaskContext.current()
    if task is not None:
        task.refuse_others(config_context, schema)
        name = f"{table.name or task.name}{debug_suffix or ''}"
        own_name, table.name = table.name, name
        try:
            read = task.materialize(table, is_debug=flag_task_debug_tainted)
        finally:
            table.name = own_name
        written = str(read(sa.Table).original.name)
    else:
        instance = config_context or ConfigContext.get()
        store = instance.store.table_store
        written = store.store_table(table, schema, suffix=debug_suffix or "", replace=drop_if_exists)
    if not keep_table_name:
        table.name = written
    return written
