"""The base of all sections of a configuration file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from pipedag_dagster.errors import did_you_mean


class Keys(BaseModel):
    """A mapping with known keys. Unknown keys and values of the wrong type are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_written(cls, data: Any) -> Any:
        """A key without a value counts as not written, and so does a section."""
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None or key not in keys_of(cls)}
        return {} if data is None else data


def keys_of(model: type[BaseModel]) -> dict[str, str]:
    """The keys of a section as they are written, and the field of the model for each."""
    return {info.alias or name: name for name, info in model.model_fields.items()}


def one_of(names: Iterable[str], message: str = "unknown class {!r}.") -> AfterValidator:
    """A text that must be one of `names`; the error names a close one. Classes are never imported by their names, so a
    configuration file cannot run code."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(message.format(value) + did_you_mean(value, names))
        return value

    return AfterValidator(check)
