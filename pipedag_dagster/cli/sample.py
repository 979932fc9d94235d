"""The commands about samples: `sample plan`, `sample why`, `sample report` and `sample weights`."""

from __future__ import annotations

import click

from pipedag_dagster.cli.sample_plan import plan, why
from pipedag_dagster.cli.sample_report import report, weights


@click.group(short_help="Look at the samples of small instances.")
def sample() -> None:
    """Look at the samples that small instances copy from their source."""


for command in (plan, why, report, weights):
    sample.add_command(command)
