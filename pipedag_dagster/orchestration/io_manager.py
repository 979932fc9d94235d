"""Tables for plain Dagster assets."""

# no postponed annotations: Dagster reads the annotations of a resource as objects
import inspect
import types
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Union, cast, get_args, get_origin

import dagster as dg
import sqlalchemy as sa

from pipedag_dagster.data.frames import default_class
from pipedag_dagster.errors import NotMaterialized, WiringError
from pipedag_dagster.execution.unpack import storable
from pipedag_dagster.execution.write_one_table import (
    FrameRows,
    NewTable,
    QueryRows,
    Slice,
    WriteResult,
    newest,
    write_table,
)
from pipedag_dagster.frame_types import READABLE, is_readable, is_sql
from pipedag_dagster.names import TableRef, stage_name, table_name
from pipedag_dagster.options import caller, refuse_unknown
from pipedag_dagster.orchestration.metadata import of_tables
from pipedag_dagster.orchestration.partitions import table_slice
from pipedag_dagster.orchestration.resources import InstanceResource
from pipedag_dagster.orchestration.shown_failure import shown_failures
from pipedag_dagster.postgres.sql_text import render
from pipedag_dagster.versions.table_store import TableStore
from pipedag_dagster.versions.write_table import Constraints


class TableIOManager(dg.ConfigurableIOManager):
    """Stores the results of plain assets as tables of the instance, and reads tables for them.

    `@dg.asset(group_name="raw")` writes a table of the stage `raw`, with the name of the asset, in one transaction, and
    commits it. The annotation of an input says how it is read: `pd.DataFrame` (the default), `pa.Table`,
    `pl.DataFrame`, or `sa.Alias` to build a query on (for a partition, `sa.FromClause`). Plain assets can read tables
    of stages, and the other way round.

    The metadata of a partitioned asset says which rows belong to a partition: `metadata={"partition_expr": "day"}`.
    Only these rows are replaced and read.
    """

    instance: dg.ResourceDependency[InstanceResource]

    def __init__(self, **fields: Any) -> None:
        refuse_unknown(f"TableIOManager(…) ({caller()})", fields, type(self).model_fields)
        super().__init__(**fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), instance=self.instance), ()

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write and commit one table, or the partitions of the run. None is not written: it means that the asset has
        stored its data itself.

        Raises:
            UnstorableResult: the result is neither data nor a query, or has rows outside of the partition.
            WiringError: the stage of the asset, or the column of its partitions, is not known.
            NotOwned: the schema of the stage belongs to somebody else.
        """
        with shown_failures():
            self._write(context, obj)

    def load_input(self, context: dg.InputContext) -> Any:
        """Read one table, or the partitions that the step needs. A run reads one version of each stage, except for
        tables that it writes itself.

        Raises:
            NotMaterialized: there is no such table yet.
        """
        with shown_failures():
            return self._read(context)

    def _write(self, context: dg.OutputContext, obj: Any) -> None:
        if obj is None:
            return
        ref = TableRef(*_stage_and_table(context))
        instance = self.instance.context
        store = instance.store.table_store
        given = storable(obj, str(ref))
        constraints = Constraints(given.primary_key, given.indexes, given.non_nullable)
        is_query = isinstance(given.obj, sa.ClauseElement)
        rows = QueryRows(render(given.obj, str(ref))) if is_query else FrameRows(given.obj)
        written = write_table(instance, ref, context.run_id, NewTable(rows, constraints), _slice(context))
        context.add_output_metadata(table_metadata(store, written))
        # An IO manager has no public way to report a data version. Without this, Dagster would compute it from the code
        # and the inputs, and equal content would look new.
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(written.data_version))

    def _read(self, context: dg.InputContext) -> Any:
        stage, name = _stage_and_table(context)
        instance = self.instance.context
        tables = newest(instance, stage, context.step_context.run_id).tables
        if name not in tables:
            raise NotMaterialized(
                f"{stage}.{name} was never committed in instance {self.instance.instance!r}. Materialize it first."
            )
        annotation = _input_class(context) if tables[name].in_database else None
        part = _slice(context)
        if part is not None and annotation is not None and is_sql(annotation) and annotation is not sa.FromClause:
            raise WiringError(
                f"Asset {context.asset_key.to_user_string()}: {part.name} is a subquery of the table, not a "
                f"{annotation.__name__}. Annotate the input with sa.FromClause."
            )
        return instance.store.table_store.read(
            tables[name],
            annotation,
            where=None if part is None else part.where(tables[name].columns),
        )


def _input_class(context: dg.InputContext) -> type:
    """The class that an input's annotation asks for: pd.DataFrame without one. `X | None` is X.

    Raises:
        WiringError: tables cannot be read as what it says, or it says several classes.
    """
    annotation = context.dagster_type.typing_type
    classes = list(dict.fromkeys(_classes(annotation)))
    if annotation is Any:
        return default_class()
    if len(classes) != 1 or not is_readable(classes[0]):
        raise WiringError(
            f"Asset {context.step_context.op_def.name!r}: a table cannot be read as its parameter {context.name!r} is "
            f"annotated: {inspect.formatannotation(annotation)}. Annotate it with one of {READABLE}, or with none."
        )
    return cast(type, classes[0])


def _classes(annotation: Any) -> Iterator[Any]:
    """The classes that an annotation allows, without None."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _classes(part)
    elif origin is Annotated:
        yield from _classes(get_args(annotation)[0])
    elif annotation not in (None, type(None)):
        yield origin or annotation


def table_metadata(store: TableStore, written: WriteResult) -> dict[str, Any]:
    """What Dagster shows about the table of a plain asset."""
    table = written.table
    return {
        **of_tables(store, [(table, None)])[table.asset],
        "pipedag/stage_version": written.version,
        "pipedag/cached": written.cached,
    } | ({"dagster/partition_row_count": written.rows} if written.rows != table.rows else {})


def _slice(context: dg.OutputContext | dg.InputContext) -> Slice | None:
    """The partitions that are written or read."""
    if not context.has_asset_partitions:
        return None
    output = context.upstream_output if isinstance(context, dg.InputContext) else context
    metadata = (output and output.definition_metadata) or {}
    asset = context.asset_key.to_user_string()
    return table_slice(asset, context.asset_partitions_def, list(context.asset_partition_keys), metadata)


def _stage_and_table(context: dg.OutputContext | dg.InputContext) -> tuple[str, str]:
    output = context.upstream_output if isinstance(context, dg.InputContext) else context
    return stage_and_table(context.asset_key, output.asset_spec.group_name if output is not None else None)


def stage_and_table(key: dg.AssetKey, group: str | None) -> tuple[str, str]:
    """Stage and table of an asset: the last two parts of its key, or its group and its name.

    Raises:
        WiringError: the key has one part, and there is no group.
    """
    path = key.path
    if len(path) >= 2:
        return stage_name(path[-2]), table_name(path[-1])
    if not group or group == "default":
        raise WiringError(
            f"Asset {key.to_user_string()}: TableIOManager does not know its stage. "
            'Write group_name="raw" or key_prefix="raw".'
        )
    return stage_name(group), table_name(path[-1])
