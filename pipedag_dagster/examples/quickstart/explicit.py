"""The same pipeline with the copying written out by hand, as in pydiverse.pipedag.

Worth it when a sample needs more than rows and conditions: here the function gets all the tables that the source
instance has committed, and returns what this instance is to have.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, Stage, Table, input_stage_versions
from pipedag_dagster.examples.quickstart.flow import double_values, load


def source_stage_version(
    tbls: dict[str, sa.Alias], source_tbls: dict[str, sa.Alias], source: ConfigContext, *, stage: Stage, **_: Any
) -> str:
    """Its value changes when the source instance commits other content."""
    return source.store.table_store.get_stage_hash(stage)


@input_stage_versions(input_type=sa.Table, cache=source_stage_version, pass_args=["attrs", "stage"], lazy=True)
def copy_filtered_inputs(
    tbls: dict[str, sa.Alias],
    source_tbls: dict[str, sa.Alias],
    source: ConfigContext,
    *,
    attrs: dict[str, Any],
    stage: Stage,
) -> dict[str, Table]:
    """The first rows of every table of the source."""
    rows = attrs["copy_filter_cnt"]
    return {name: Table(sa.select(tbl).order_by(tbl.c.a).limit(rows), name) for name, tbl in source_tbls.items()}


def build(instance: ConfigContext) -> Flow:
    """The wiring depends on the instance's attributes."""
    with Flow("quickstart_explicit") as flow:
        with Stage("stage_1") as stage:
            if instance.source is None:
                dfa, dfb = load()
            else:
                copied = copy_filtered_inputs(instance.source, stage=stage, attrs=instance.attrs)
                dfa, dfb = copied["dfa"], copied["dfb"]
            doubled = double_values(dfa)
        with Stage("stage_2"):
            double_values(dfb)
            double_values(doubled)
    return flow
