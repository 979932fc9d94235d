"""What a graph knows of an instance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Instance(ABC):
    """One instance of a pipeline (see `pipedag_dagster.ConfigContext`)."""

    @property
    @abstractmethod
    def instance_id(self) -> str:
        """The id that keeps its tables apart from those of other instances."""

    @property
    @abstractmethod
    def source(self) -> Self | None:
        """The instance that inputs are copied from; None when this one reads its inputs itself."""
