"""The samples that the calls of a stage copy."""

from __future__ import annotations

import threading

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.execution.inputs import Inputs
from pipedag_dagster.sampling.flow_samples import flow_sampler
from pipedag_dagster.sampling.sample import Sample
from pipedag_dagster.sampling.sampler import Sampler
from pipedag_dagster.versions.copy_rows import SourceRows


class Samples:
    """The samples of the tables that the instance of `inputs` copies from its source.

    Nothing is looked up before a sample is asked for. Safe to use from several threads.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._lock = threading.Lock()
        self._sampler: Sampler | None = None

    def of(self, table: TableVersion) -> Sample:
        """The sample of a table of the source (see `Sampler.of`)."""
        return self._made().of(f"{table.stage}.{table.asset}")

    def known(self, table: TableVersion) -> Sample | None:
        """The same, if nobody must choose it."""
        return self._made().known(f"{table.stage}.{table.asset}")

    def origin(self, sample: Sample) -> SourceRows:
        """The rows of a sample, for copying them."""
        return self._made().origin(sample)

    def _made(self) -> Sampler:
        with self._lock:
            if self._sampler is None:
                self._sampler = self._make()
            return self._sampler

    def _make(self) -> Sampler:
        inputs = self._inputs
        return flow_sampler(inputs.instance, [inputs.stage.flow], inputs.source_pins, remember=inputs.is_pinned)
