"""Options and texts that several commands share."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import yaml

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.config.instances import CacheMode
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError, did_you_mean
from pipedag_dagster.orchestration.workspace import WORKSPACE, nearest_workspace


def where(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose the definitions for a command."""
    command = click.option(
        "-m",
        "--module",
        is_eager=True,  # read before --workspace: with a module, no workspace is looked for
        envvar="PIPEDAG_MODULE",
        show_envvar=True,
        help="A module with definitions, instead of a workspace.",
    )(command)
    workspace = click.option(
        "-w",
        "--workspace",
        type=click.Path(path_type=Path),
        default=WORKSPACE,
        show_default="the nearest workspace.yaml, here or in a folder above",
        envvar="PIPEDAG_WORKSPACE",
        show_envvar=True,
        callback=_from_folder_above,
    )
    return workspace(command)


def _from_folder_above(context: click.Context, option: click.Parameter, workspace: Path) -> Path:
    """Without `--workspace`, change to the nearest folder above that has a `workspace.yaml`: its modules and paths are
    relative to it. Paths that were typed stay relative to the folder in which they were typed."""
    is_named = context.get_parameter_source(option.name or "") is not click.core.ParameterSource.DEFAULT
    nearest = (
        workspace if is_named or context.params.get("module") or context.params.get("config") else nearest_workspace()
    )
    if nearest == workspace:
        return workspace
    for name, value in context.params.items():  # click reads what was typed first
        if isinstance(value, Path):
            context.params[name] = value.absolute()
    if "PIPEDAG_CONFIG" in os.environ:
        os.environ["PIPEDAG_CONFIG"] = str(Path(os.environ["PIPEDAG_CONFIG"]).absolute())
    os.chdir(nearest.parent)
    return workspace


def confirmed(question: str, declined: str, *, yes: bool) -> bool:
    """Whether the user agrees: `--yes` was typed, or the answer is yes.

    Args:
        declined: what to say when the answer is no, such as "Nothing was dropped."

    Raises:
        click.ClickException: there was no answer. Without a terminal, nobody can give one.
    """
    try:
        agrees = yes or click.confirm(question)
    except click.Abort:
        click.echo()
        raise click.ClickException(f"There was no answer. {declined} With --yes, the command does not ask.") from None
    if not agrees:
        click.echo(declined)
    return agrees


def json_option(command: Callable[..., None]) -> Callable[..., None]:
    """The option `--json`, passed to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def print_json(value: object) -> None:
    """Print a value for programs: times as ISO 8601, a dataclass by its attributes, the names of which are public."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value.isoformat() if isinstance(value, datetime.datetime) else str(value)


def _known_mode(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else CacheMode.of(value).value
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def cache_modes(command: Callable[..., None]) -> Callable[..., None]:
    """The options for the cache validation of one run."""
    text = f"Replaces the instance's own mode in this run: {', '.join(CacheMode)}."
    options = (
        click.option("--cache-mode", metavar="MODE", callback=_known_mode, help=text),
        click.option("--disable-cache-function", is_flag=True, help="Do not call cache functions in this run."),
        click.option("--ignore-task-version", is_flag=True, help="Run tasks with a version in this run."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def attrs_of(instance: ConfigContext, given: Iterable[str]) -> dict[str, Any] | None:
    """The attrs of one run, from `name=value` on the command line. The values are YAML.

    Raises:
        ConfigError: the instance has no attr of this name, or there is no valid value.
    """
    attrs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if name not in instance.attrs:
            hint = did_you_mean(name, map(str, instance.attrs))
            raise ConfigError(f"--attr: instance {instance.config.name!r} has no attr {name!r}.{hint}")
        if not equals:
            raise ConfigError(f"--attr {name}: write a value, as in --attr {name}=5")
        try:
            attrs[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--attr {name}: {value!r} is not valid YAML.") from None
    return attrs or None


def count(number: int, noun: str) -> str:
    """
    >>> count(2, "table")
    '2 tables'
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def extent(table: TableVersion, noun: str = "") -> str:
    """The number of rows of a table; of values and blobs, what they are."""
    if not table.in_database:
        return table.kind.name
    return count(table.rows, noun) if noun else f"{table.rows:,}"
