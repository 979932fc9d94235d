"""What a call has made, as other tasks and `Result.get` get it: in the shape in which it was returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.data import json_values
from pipedag_dagster.errors import NotMaterialized
from pipedag_dagster.graph.flow import Output, TaskCall


class CallOutputs:
    """The outputs of one call.

    Args:
        tables: what the catalog has of it, by asset.
        missing: makes the error for an asset that is not in it.
    """

    def __init__(
        self, call: TaskCall, tables: Mapping[str, TableVersion], missing: Callable[[str], NotMaterialized]
    ) -> None:
        self.call = call
        self.tables = tables
        self._missing = missing

    def needed(self, output: Output) -> dict[str, TableVersion]:
        """All that is in an output, by asset.

        Raises:
            NotMaterialized: something of it is missing.
        """
        return {table.asset: table for table in self._reach(self._node(output))}

    def around(self, output: Output) -> Any:
        """What of an output is no part of what is `needed`: values, and the shape; None when there is none."""
        node = self._node(output)
        return None if isinstance(node, dict) and node.keys() == {"$output"} else node

    def read(self, output: Output, read: Callable[[TableVersion], Any]) -> Any:
        """The value of an output. `read` reads one table or blob.

        Raises:
            NotMaterialized: something of it is missing.
        """

        def get(asset: str) -> Any:
            table = self._table(asset)
            return json_values.decode(table.value, get) if table.kind == "json" else read(table)

        return json_values.decode(self._node(output), get)

    def _node(self, output: Output) -> Any:
        node, path = self._start(output)
        while True:
            try:
                node, path = json_values.at(node, path)
            except LookupError:
                raise NotMaterialized(
                    f"{self.call} returned nothing that is {output}: it has no part {path[-1]!r} there."
                ) from None
            if not path:
                return node
            table = self._table(node["$output"])
            if table.kind != "json":
                raise NotMaterialized(f"{output}: {table.stage}.{table.asset} is a {table.kind}, which has no parts.")
            node = table.value

    def _start(self, output: Output) -> tuple[Any, tuple[int | str, ...]]:
        path, slots = output.path, self.call.slots
        above = [slot for slot in slots if slot.path == path[: len(slot.path)]]
        if above:
            slot = max(above, key=lambda one: len(one.path))
            return json_values.output(slot.asset), path[len(slot.path) :]
        for slot in output.slots:
            self._table(slot.asset)
        shapes = [table.shape for table in self._newest_first() if table.shape is not None]
        if shapes:
            return shapes[0], path
        # Made by a version that did not keep the shape.
        refs = {asset: json_values.output(asset) for asset in (self.call.assets if self.call.count else self.tables)}
        return ({"$tuple": list(refs.values())} if self.call.count else refs), path

    def _newest_first(self) -> list[TableVersion]:
        return sorted(self.tables.values(), key=lambda table: table.id or 0, reverse=True)

    def _reach(self, node: Any) -> Iterator[TableVersion]:
        for asset in json_values.outputs(node):
            table = self._table(asset)
            yield table
            if table.kind == "json":
                yield from self._reach(table.value)

    def _table(self, asset: str) -> TableVersion:
        if asset not in self.tables:
            raise self._missing(asset)
        return self.tables[asset]
