"""The schemas of an instance: what they are called, and who owns them."""

from __future__ import annotations

import enum

from pipedag_dagster.config.instances import InstanceConfig
from pipedag_dagster.names import CATALOG, StageSchemas
from pipedag_dagster.versions.ownership import Owner


class SchemaRole(enum.Enum):
    """What an instance may expect of a schema that a view reads."""

    physical = "holds our physical tables, which never change"
    visible = "holds what people query, which another commit replaces"
    foreign = "belongs to another instance"
    unowned = "has no mark of ours"


class InstanceSchemas:
    """The schemas of one instance.

    Args:
        config: its `schema_prefix` and `schema_suffix` keep it apart from the other instances of the database.
    """

    def __init__(self, config: InstanceConfig) -> None:
        self.config = config
        self.catalog = f"{config.schema_prefix}{CATALOG}{config.schema_suffix}"

    def of(self, stage: str) -> StageSchemas:
        """The schemas of a stage."""
        return StageSchemas.of(self.config.schema_prefix, stage, self.config.schema_suffix)

    def owner(self, stage: str = "") -> Owner:
        """The mark of a stage's schemas; without a stage, the mark of the catalog."""
        return Owner(self.config.pipeline, self.config.instance_id, stage)

    def role(self, schema: str, owner: Owner | None) -> SchemaRole:
        """What a schema is to this instance, given the owner that its mark names."""
        if owner is None:
            return SchemaRole.unowned
        if owner != self.owner(owner.stage):
            return SchemaRole.foreign
        physical = owner.stage and schema == self.of(owner.stage).versions
        return SchemaRole.physical if physical else SchemaRole.visible
