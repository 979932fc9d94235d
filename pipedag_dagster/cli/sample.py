"""The commands about samples: `sample report`, `sample weights`."""

from __future__ import annotations

import click

from pipedag_dagster.cli.sample_report import report, weights


@click.group(short_help="Look at the samples of small instances.")
def sample() -> None:
    """Look at the samples that small instances copy from their source."""


sample.add_command(report)
sample.add_command(weights)
