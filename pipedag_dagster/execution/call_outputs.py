"""What a call returned, as other tasks and `Result.get` get it: in the same shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipedag_dagster.catalog.catalog import OutputKind, TableVersion
from pipedag_dagster.data import json_values
from pipedag_dagster.errors import NotMaterialized
from pipedag_dagster.graph.flow import Output, TaskCall
from pipedag_dagster.graph.raw_sql import RawSql


class CallOutputs:
    """The outputs of one call.

    Args:
        tables: the outputs of the call that the catalog has, by asset.
        missing: makes the error for an asset that is not among them.
    """

    def __init__(
        self, call: TaskCall, tables: Mapping[str, TableVersion], missing: Callable[[str], NotMaterialized]
    ) -> None:
        self.call = call
        self.tables = tables
        self._missing = missing

    def needed(self, output: Output) -> dict[str, TableVersion]:
        """The tables, blobs and values in an output, by asset.

        Raises:
            NotMaterialized: one of them is missing.
        """
        return {table.asset: table for table in self._reach(self._node(output))}

    def around(self, output: Output) -> Any:
        """The values and the shape around what is `needed`, as JSON; None when there is nothing around it."""
        node = self._node(output)
        return None if isinstance(node, dict) and node.keys() == {"$output"} else node

    def read(self, output: Output, read: Callable[[TableVersion], Any]) -> Any:
        """The value of an output. `read` reads one table or blob.

        Raises:
            NotMaterialized: part of it is missing.
        """

        def get(asset: str) -> Any:
            table = self._table(asset)
            if table.kind is OutputKind.value:
                return json_values.decode(table.value, get, of_script)
            return read(table)

        def of_script(name: str, tables: dict[str, Any]) -> RawSql:
            return RawSql.of_tables(tables, name, self.call.stage)

        return json_values.decode(self._node(output), get, of_script)

    def _node(self, output: Output) -> Any:
        node, path = self._start(output)
        while True:
            try:
                node, path = json_values.at(node, path)
            except LookupError:
                raise NotMaterialized(
                    f"{output} is not in what {self.call} returned: there is no part {path[-1]!r}."
                ) from None
            if not path:
                return node
            table = self._table(node["$output"])
            if table.kind is not OutputKind.value:
                raise NotMaterialized(
                    f"{output}: {table.stage}.{table.asset} is a {table.kind.name}, which has no parts."
                )
            node = table.value

    def _start(self, output: Output) -> tuple[Any, tuple[int | str, ...]]:
        path, slots = output.path, self.call.slots
        above = [slot for slot in slots if slot.path == path[: len(slot.path)]]
        if above:
            slot = max(above, key=lambda slot: len(slot.path))
            return json_values.output(slot.asset), path[len(slot.path) :]
        for slot in output.slots:
            self._table(slot.asset)
        shapes = [table.shape for table in self._newest_first() if table.shape is not None]
        if shapes:
            return shapes[0], path
        # An older version of this package made it, and did not keep the shape.
        refs = {asset: json_values.output(asset) for asset in (self.call.assets if self.call.count else self.tables)}
        return ({"$tuple": list(refs.values())} if self.call.count else refs), path

    def _newest_first(self) -> list[TableVersion]:
        return sorted(self.tables.values(), key=lambda table: table.id or 0, reverse=True)

    def _reach(self, node: Any) -> Iterator[TableVersion]:
        for asset in json_values.outputs(node):
            table = self._table(asset)
            yield table
            if table.kind is OutputKind.value:
                yield from self._reach(table.value)

    def _table(self, asset: str) -> TableVersion:
        if asset not in self.tables:
            raise self._missing(asset)
        return self.tables[asset]
