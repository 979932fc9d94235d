"""A store for the profiles of source tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipedag_dagster.sampling.source_tables import SourceTable


@dataclass
class Remembered:
    """A store of profiles in memory."""

    bodies: dict[tuple[str, str, str], Any] = field(default_factory=dict)

    def profile(self, table: SourceTable, key: str) -> Any:
        return self.bodies.get((table.schema, table.physical, key))

    def add_profile(self, table: SourceTable, key: str, body: Any) -> None:
        self.bodies[table.schema, table.physical, key] = body
