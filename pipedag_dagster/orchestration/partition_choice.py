"""Which partitions a run is for: `pipedag-dagster run --partition KEY`, or `--partitions FROM..TO`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipedag_dagster.errors import WrongPartition, did_you_mean
from pipedag_dagster.orchestration.tags import RANGE_END, RANGE_START

if TYPE_CHECKING:
    import dagster as dg

Tables = Sequence[tuple[str, str]]
"""Stages and assets."""


@dataclass(frozen=True)
class PartitionRange:
    """The partitions of one run, both ends included."""

    first: str
    last: str

    @property
    def key(self) -> str | None:
        """The key of a single partition; None for several."""
        return self.first if self.first == self.last else None

    @property
    def tags(self) -> dict[str, str]:
        """The tags by which Dagster knows that a run is for several partitions."""
        return {} if self.key is not None else {RANGE_START: self.first, RANGE_END: self.last}


@dataclass(frozen=True)
class PartitionChoice:
    """What to run.

    Attributes:
        tables: the tables to run.
        runs: the partitions of each run. None is a run without partitions.
        left_out: partitioned assets that were not asked for by name, in a run without partitions.
    """

    tables: Tables
    runs: list[PartitionRange | None]
    left_out: Tables

    def hint(self, instance: str) -> str | None:
        """A sentence about what was left out, with what to type to run it."""
        if not self.left_out:
            return None
        again = f"pipedag-dagster run {instance} --partition KEY"
        return f"Left out, because they are partitioned: {_names(self.left_out)}. To run them: {again}"


def choose(
    assets: Iterable[dg.AssetsDefinition], tables: Tables, partitions: str | None, *, selected: bool
) -> PartitionChoice:
    """
    Args:
        assets: that the instance has.
        tables: to run.
        partitions: a key, or `first..last`; None without partitions.
        selected: whether somebody has chosen the tables. Else, they are all that there are.

    Raises:
        WrongPartition: it must be said which partition, or there is no such partition.
    """
    definitions = {
        (key.path[1], key.path[2]): definition
        for definition in assets
        if definition.partitions_def is not None
        for key in definition.keys
    }
    partitioned = [table for table in tables if table in definitions]
    if partitions is None:
        whole = [table for table in tables if table not in definitions]
        if partitioned and (selected or not whole):
            example = _keys(definitions[partitioned[0]])
            known = f" The last one is {example[-1]}." if example else ""
            raise WrongPartition(
                f"{_names(partitioned)} {'is' if len(partitioned) == 1 else 'are'} partitioned. Say which partition: "
                f"--partition KEY, or --partitions FROM..TO.{known}"
            )
        return PartitionChoice(whole, [None], partitioned)
    if not partitioned:
        have = "has" if len(tables) == 1 else "have"
        raise WrongPartition(f"{_names(tables)} {have} no partitions. Leave --partition and --partitions out.")
    chosen = tables if selected else partitioned
    return PartitionChoice(chosen, _runs([definitions[table] for table in partitioned], partitioned, partitions), ())


def _runs(definitions: list[dg.AssetsDefinition], tables: Tables, partitions: str) -> list[PartitionRange | None]:
    if any(other.partitions_def != definitions[0].partitions_def for other in definitions):
        raise WrongPartition(f"{_names(tables)} have different partitions. Choose some of them with --select.")
    known = _keys(definitions[0])
    first, dots, last = partitions.partition("..")
    places = []
    for key in (first, last) if dots else (first,):
        if key not in known:
            few = f"The first is {known[0]}, the last {known[-1]}." if known else "There are none yet."
            raise WrongPartition(f"{_names(tables)} has no partition {key!r}.{did_you_mean(key, known, few)}")
        places.append(known.index(key))
    listed = known[places[0] : places[-1] + 1]
    if not listed:
        raise WrongPartition(f"--partitions {partitions}: {last} comes before {first}.")
    policies = [each.backfill_policy for each in definitions]
    if all(policy is not None and policy.max_partitions_per_run is None for policy in policies):
        return [PartitionRange(listed[0], listed[-1])]
    return [PartitionRange(key, key) for key in listed]  # without that policy, an asset expects one partition a run


def _keys(assets: dg.AssetsDefinition) -> list[str]:
    """The partitions of assets, in their order."""
    import dagster as dg  # noqa: PLC0415

    definition = assets.partitions_def
    assert definition is not None
    if os.environ.get("DAGSTER_HOME"):
        with dg.DagsterInstance.get() as dagster_instance:
            return list(definition.get_partition_keys(dynamic_partitions_store=dagster_instance))
    # Without a storage, nobody has added a dynamic partition.
    return [] if isinstance(definition, dg.DynamicPartitionsDefinition) else list(definition.get_partition_keys())


def _names(tables: Tables) -> str:
    return ", ".join(map(".".join, tables))
