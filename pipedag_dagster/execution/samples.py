"""The samples that the calls of a stage copy."""

from __future__ import annotations

import threading

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.errors import NotMaterialized
from pipedag_dagster.execution.inputs import Inputs
from pipedag_dagster.sampling.copies import copied_calls
from pipedag_dagster.sampling.sampler import Sample, Sampler
from pipedag_dagster.sampling.spec import InputTable, declared_relations, sample_spec
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
        inputs, instance = self._inputs, self._inputs.instance
        assert instance.source is not None
        flow = inputs.stage.flow
        tables: dict[str, TableVersion] = {}
        missing: dict[str, NotMaterialized] = {}
        for call in copied_calls(instance, flow):
            try:
                found = inputs.of_source(instance.source, call).values()
                tables |= {f"{table.stage}.{table.asset}": table for table in found if table.in_database}
            except NotMaterialized as error:  # it matters only if another table refers to one of these
                missing |= {f"{call.stage.name}.{asset}": error for asset in call.assets}
        listed = [InputTable(name, table.name, table.column_types) for name, table in tables.items()]
        listed += map(InputTable, missing)
        spec = sample_spec(instance.config, listed, declared_relations(flow))
        numbers = {stage: version.number for stage, version in inputs.source_pins.items()}
        return Sampler(
            instance, instance.source, tables, spec, numbers=numbers, missing=missing, remember=inputs.is_pinned
        )
