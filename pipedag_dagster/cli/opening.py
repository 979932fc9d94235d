"""The instance of a command that only reads data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from pipedag_dagster.cli.options import where
from pipedag_dagster.looking.open_instance import OpenInstance, open_instance
from pipedag_dagster.orchestration.workspace import locations, of_instance


def where_or_config(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose an instance for a command that only reads data."""
    text = "Read only this configuration (a file or folder), and none of your code."
    command = click.option("--config", type=click.Path(path_type=Path), help=text)(command)
    return where(command)


def opened(name: str, module: str | None, workspace: Path, config: Path | None) -> OpenInstance:
    """The instance that a command looks at: that of the definitions, so that all commands mean the same one. Without
    definitions, it is that of the configuration."""
    if config is None and (module is not None or workspace.is_file()):
        return OpenInstance(of_instance(locations(module, workspace), name)[0].instance)
    return open_instance(name, config)
