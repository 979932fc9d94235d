"""Tables for plain Dagster assets."""

# no postponed annotations here: Dagster looks at those of a resource as objects
from functools import partial
from typing import Any, get_origin

import dagster as dg
import pandas as pd
import sqlalchemy as sa

from pipedag_dagster.errors import NotMaterialized, WiringError
from pipedag_dagster.execution.unpack import storable
from pipedag_dagster.execution.write_one_table import NewTable, Slice, WriteResult, newest, write_table
from pipedag_dagster.names import stage_name, table_name
from pipedag_dagster.orchestration.metadata import of_tables
from pipedag_dagster.orchestration.partitions import table_slice
from pipedag_dagster.orchestration.resources import InstanceResource
from pipedag_dagster.postgres.sql_text import render
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.write_table import Constraints


class TableIOManager(dg.ConfigurableIOManager):
    """Stores what plain assets return as tables of the instance, and reads tables for them.

    `@dg.asset(group_name="raw")` writes the table `<name of the asset>` of the stage `raw`, in one transaction, and
    commits it. An input is read as its annotation says: `pd.DataFrame` (the default), `pa.Table`, `pl.DataFrame`, or
    `sa.Alias` to build a query on (of a partition, `sa.FromClause`). Tables of stages and of plain assets read each
    other.

    A partitioned asset says by `metadata={"partition_expr": "day"}` which rows are those of a partition: it replaces
    and reads those only.
    """

    instance: dg.ResourceDependency[InstanceResource]

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), instance=self.instance), ()

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write and commit one table, or the partitions of the run. None is not written: the asset has stored its data
        itself.

        Raises:
            UnstorableResult: it is neither data nor a query, or has rows outside of the partition.
            WiringError: the asset's stage, or the column of its partitions, is not known.
            NotOwned: the stage's schema belongs to somebody else.
        """
        if obj is None:
            return
        stage, name = _place(context)
        instance = self.instance.context
        store = instance.store.table_store
        given = storable(obj, f"{stage}.{name}")
        constraints = Constraints(given.primary_key, given.indexes, given.non_nullable)
        if isinstance(given.obj, sa.ClauseElement):
            query = render(given.obj)
            content = NewTable(partial(store.stage_query, stage, name, query), constraints, query)
        else:
            content = NewTable(partial(store.stage_frame, stage, name, given.obj), constraints)
        written = write_table(instance, stage, name, context.run_id, content, _slice(context))
        context.add_output_metadata(table_metadata(store, written))
        # An IO manager has no public way to say what it stored; without this, the data version would be made of the
        # code's and the inputs', and equal content would look new.
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(written.data_version))

    def load_input(self, context: dg.InputContext) -> Any:
        """Read one table, or the partitions that the step's own depend on: one version of each stage in a run, but for
        what the run itself writes.

        Raises:
            NotMaterialized: there is none.
        """
        stage, name = _place(context)
        instance = self.instance.context
        tables = newest(instance, stage, context.step_context.run_id).tables
        if name not in tables:
            raise NotMaterialized(
                f"{stage}.{name} was never committed in instance {self.instance.instance!r}. Materialize it first."
            )
        kind = context.dagster_type.typing_type
        kind = get_origin(kind) or kind
        part = _slice(context)
        if (
            part is not None
            and isinstance(kind, type)
            and issubclass(kind, sa.FromClause)
            and kind is not sa.FromClause
        ):
            raise WiringError(
                f"Asset {context.asset_key.to_user_string()}: {part.name} is a subquery of the table, not a "
                f"{kind.__name__}. Annotate the input with sa.FromClause."
            )
        return instance.store.table_store.read(
            tables[name],
            # Without an annotation it is Any, which is a class too since Python 3.11.
            kind if isinstance(kind, type) and kind is not Any else pd.DataFrame,
            where=None if part is None else part.where(tables[name].columns),
        )


def table_metadata(store: TableStore, written: WriteResult) -> dict[str, Any]:
    """What Dagster shows about a table that was written by itself."""
    table = written.table
    return {
        **of_tables(store, [(table, None)])[table.asset],
        "pipedag/stage_version": written.version,
        "pipedag/cached": written.cached,
    } | ({"dagster/partition_row_count": written.rows} if written.rows != table.rows else {})


def _slice(context: dg.OutputContext | dg.InputContext) -> Slice | None:
    """The partitions that are written, or read."""
    if not context.has_asset_partitions:
        return None
    output = context.upstream_output if isinstance(context, dg.InputContext) else context
    metadata = (output and output.definition_metadata) or {}
    asset = context.asset_key.to_user_string()
    return table_slice(asset, context.asset_partitions_def, list(context.asset_partition_keys), metadata)


def _place(context: dg.OutputContext | dg.InputContext) -> tuple[str, str]:
    """Stage and table of an asset: the last two parts of its key, or its group and its name."""
    output = context.upstream_output if isinstance(context, dg.InputContext) else context
    return place(context.asset_key, output.asset_spec.group_name if output is not None else None)


def place(key: dg.AssetKey, group: str | None) -> tuple[str, str]:
    """Stage and table of the asset `key`: the last two parts of it, or its group and its name.

    Raises:
        WiringError: it has neither.
    """
    path = key.path
    if len(path) >= 2:
        return stage_name(path[-2]), table_name(path[-1])
    if not group or group == "default":
        raise WiringError(
            f"Asset {key.to_user_string()}: TableIOManager needs to know its stage. "
            'Write group_name="raw" or key_prefix="raw".'
        )
    return stage_name(group), table_name(path[-1])
