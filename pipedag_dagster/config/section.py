"""What all sections of a configuration file have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from pipedag_dagster.errors import did_you_mean


class Keys(BaseModel):
    """A mapping with known keys. Another key is a mistake, and so is a value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_written(cls, data: Any) -> Any:
        """A key with nothing behind it counts as not written; so does a section."""
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None or key not in keys_of(cls)}
        return {} if data is None else data


def keys_of(model: type[BaseModel]) -> dict[str, str]:
    """The keys of a section, as they are written, and the model's field for each."""
    return {info.alias or name: name for name, info in model.model_fields.items()}


def one_of(names: Iterable[str], says: str = "unknown class {!r}.") -> AfterValidator:
    """A text that is one of `names`; close ones are named. Names are looked up, never imported: a configuration file
    cannot run code."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(says.format(value) + did_you_mean(value, names))
        return value

    return AfterValidator(check)
