"""Tables for plain Dagster assets."""

import secrets  # no postponed annotations here: Dagster looks at those of a resource as objects
import time
from typing import Any, get_origin

import dagster as dg
import pandas as pd
import sqlalchemy as sa

from pipedag_dagster.errors import NotMaterialized, UnstorableResult, WiringError
from pipedag_dagster.execution.result import storable
from pipedag_dagster.fingerprint.fingerprint import digest
from pipedag_dagster.names import stage_name, table_name
from pipedag_dagster.orchestration.resources import InstanceResource
from pipedag_dagster.store.catalog import TableVersion
from pipedag_dagster.store.physical import Constraints, render


class TableIOManager(dg.ConfigurableIOManager):
    """Stores what plain assets return as tables of the instance, and reads tables for them.

    `@dg.asset(io_manager_key="io_manager", group_name="raw")` writes the table `<name of the asset>` of the stage
    `raw`, in one transaction, and commits it. An input is read as its annotation says: `pd.DataFrame` (the default),
    `pa.Table`, `pl.DataFrame`, or `sa.Alias` to build a query on. Tables of stages and of plain assets read each
    other.
    """

    instance: dg.ResourceDependency[InstanceResource]

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write and commit one table. None is not written: the asset has stored its data itself.

        Raises:
            UnstorableResult: it is neither data nor a query.
            NotOwned: the stage's schema belongs to somebody else.
        """
        if obj is None:
            return
        stage, name = _place(context)
        config = self.instance.context
        store = config.store.table_store
        started = time.monotonic()
        store.prepare([stage])
        with store.lock(stage, context.run_id):
            given = storable(obj, f"{stage}.{name}")
            constraints = Constraints(given.primary_key, given.indexes, given.non_nullable)
            query = render(given.obj) if isinstance(given.obj, sa.ClauseElement) else None
            if query is None:
                made = store.stage_frame(stage, name, given.obj, constraints)
            else:
                made = store.stage_query(stage, name, query, constraints)
            key = digest("plain asset", stage, name, context.run_id)
            table = TableVersion(
                stage=stage,
                asset=name,
                name=name,
                physical=made.physical,
                flow="",
                task="",
                execution=secrets.token_hex(8),
                slot="",
                task_key=key,
                cache_key=key,
                parts={},
                code_version="",
                data_version=made.content or key,
                columns=made.columns,
                primary_key=constraints.primary_key,
                indexes=constraints.indexes,
                rows=made.rows,
                bytes=made.bytes,
                query=query,
                run_id=context.run_id,
                seconds=time.monotonic() - started,
            )
            base = store.current([stage])[stage]
            same_name = {asset for asset, other in base.tables.items() if other.name == name and asset != name}
            if same_name:
                raise UnstorableResult(f"Stage {stage!r} has a table {name!r} already. Give the asset another name.")
            members = dict(base.tables) | {name: store.add([table])[0]}
            store.commit(stage, base.number + 1, members, context.run_id)
        context.add_output_metadata(
            {
                "dagster/table_name": f"{store.database.engine.url.database}.{store.schemas(stage).current}.{name}",
                "dagster/row_count": made.rows,
                "pipedag/stage_version": base.number + 1,
            }
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the newest committed version of one table.

        Raises:
            NotMaterialized: there is none.
        """
        stage, name = _place(context)
        store = self.instance.context.store.table_store
        tables = store.current([stage])[stage].tables
        if name not in tables:
            raise NotMaterialized(
                f"{stage}.{name} was never committed in instance {self.instance.instance!r}. Materialize it first."
            )
        kind = context.dagster_type.typing_type
        kind = get_origin(kind) or kind
        # Without an annotation it is Any, which is a class too since Python 3.11.
        return store.read(tables[name], kind if isinstance(kind, type) and kind is not Any else pd.DataFrame)


def _place(context: dg.OutputContext | dg.InputContext) -> tuple[str, str]:
    """Stage and table of an asset: the last two parts of its key, or its group and its name."""
    path = context.asset_key.path
    if len(path) >= 2:
        return stage_name(path[-2]), table_name(path[-1])
    output = context.upstream_output if isinstance(context, dg.InputContext) else context
    group = output.asset_spec.group_name if output is not None else None
    if not group or group == "default":
        raise WiringError(
            f"Asset {context.asset_key.to_user_string()}: TableIOManager needs to know its stage. "
            'Write group_name="raw" or key_prefix="raw".'
        )
    return stage_name(group), table_name(path[-1])
