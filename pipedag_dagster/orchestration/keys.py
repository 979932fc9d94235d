"""The names that tables and jobs have in Dagster."""

from __future__ import annotations

import re

import dagster as dg

from pipedag_dagster.context import ConfigContext


def asset_key(instance_id: str, stage: str, asset: str) -> dg.AssetKey:
    """The key of a table: `[instance_id, stage, table]`."""
    return dg.AssetKey([instance_id, stage, asset])


def group_name(instance: ConfigContext, stage: str) -> str:
    """The asset group of a stage, by the key `group_name` of the configuration."""
    config = instance.config
    return identifier(config.group_name.format(stage=stage, instance_id=config.instance_id, name=config.name))


def identifier(name: str) -> str:
    """`name` with the characters that Dagster allows for jobs, steps and kinds.

    >>> identifier("full-1")
    'full_1'
    """
    return re.sub(r"[^A-Za-z0-9_]", "_", name)
