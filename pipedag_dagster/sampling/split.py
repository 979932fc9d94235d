"""Whether stages of a source are of one state, so that their tables can be sampled together."""

from __future__ import annotations

from collections.abc import Mapping

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import SampleSplit


def refuse_split(instance: ConfigContext, source: ConfigContext, numbers: Mapping[str, int]) -> None:
    """Make sure that the tables of some stages belong together.

    Args:
        instance: the small instance.
        numbers: the number of the version of each stage.

    Raises:
        SampleSplit: a run has changed one of the stages, and has not looked at another one yet, nor has a later run.
    """
    if len(numbers) < 2:
        return
    store, name = source.store.table_store, source.config.name
    with store.database.read() as connection:
        split = store.catalog.out_of_step(connection, numbers)
    if split is not None:
        newer, older, run_id = split
        raise SampleSplit(
            f"Instance {instance.config.name!r} samples stages {newer!r} and {older!r} of {name!r} together, because "
            f"their tables refer to each other. But {newer!r} was changed by run {run_id}, and {older!r} was not "
            f"brought up to date since. If that run still goes on, wait for it. If not, type: "
            f"pipedag-dagster run {name}"
        )
