"""The names of schemas."""

from __future__ import annotations

from dataclasses import dataclass

from pipedag_dagster.errors import WiringError

SCRIPT_SCHEMA = "{schema}"
"""Stands for a script's own schema in its text."""


@dataclass(frozen=True)
class Schema:
    """The name of a schema, with the prefix and the suffix that the instance gives it.

    Example:
        >>> Schema("raw", prefix="full_").get()
        'full_raw'
    """

    name: str
    prefix: str = ""
    suffix: str = ""

    def get(self) -> str:
        """The whole name."""
        return f"{self.prefix}{self.name}{self.suffix}"

    def __str__(self) -> str:
        return self.get()


def schema_name(schema: object) -> str:
    """The whole name of a schema.

    Args:
        schema: a `Schema`, or a text.

    Raises:
        WiringError: it is neither.
    """
    if not isinstance(schema, Schema | str) or not str(schema):
        raise WiringError(f'schema={schema!r} is not a schema. Write schema=Schema("debug"), or a text.')
    return str(schema)
