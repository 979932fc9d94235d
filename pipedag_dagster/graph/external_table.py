"""Tables of the same database that no task made."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from pipedag_dagster.errors import WiringError
from pipedag_dagster.options import known_options


class ExternalTableReference:
    """A table or view of the instance's database that somebody else owns. Nothing is copied: as the result of a task
    it becomes a view of the stage.

    Whether its content has changed is told by the task's cache function, or by `version`. While the view exists, the
    database drops the table only with CASCADE.

    Args:
        name: of the table, as the database writes it.
        schema: of the table, as the database writes it.
        shared_lock_allowed: accepted for pydiverse.pipedag, without an effect: no lock is taken.

    Raises:
        WiringError: the name or the schema is not a text, or is empty.

    Example:
        >>> ExternalTableReference("customers", "crm")
        ExternalTableReference('customers', 'crm')
    """

    @known_options()
    def __init__(self, name: str, schema: str, shared_lock_allowed: bool = False) -> None:
        for option, value in (("name", name), ("schema", schema)):
            if not isinstance(value, str) or not value:
                raise WiringError(
                    f"ExternalTableReference(…): {option}={value!r} is not a name. "
                    'Write ExternalTableReference("customers", "crm").'
                )
        self.name = name
        self.schema = schema
        self.shared_lock_allowed = shared_lock_allowed

    @property
    def rows(self) -> sa.Select[Any]:
        """All rows of the table. Its columns are not known here."""
        return sa.select(sa.literal_column("*")).select_from(sa.table(self.name, schema=self.schema))

    def content_for_hash(self) -> tuple[Any, ...]:
        return (self.name, self.schema)

    def __repr__(self) -> str:
        return f"ExternalTableReference({self.name!r}, {self.schema!r})"
