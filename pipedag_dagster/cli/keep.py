"""`pipedag-dagster keep`: rows that belong to every sample from now on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import psycopg

from pipedag_dagster.catalog.catalog import TableVersion
from pipedag_dagster.cli.options import where
from pipedag_dagster.config import yaml_file
from pipedag_dagster.config.layers import get
from pipedag_dagster.config.yaml_edit import with_item
from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError, Problem, did_you_mean
from pipedag_dagster.names import quote
from pipedag_dagster.orchestration.table_names import input_tables
from pipedag_dagster.orchestration.workspace import Location, locations
from pipedag_dagster.postgres import user_sql
from pipedag_dagster.sampling.changing_functions import changing_functions
from pipedag_dagster.sql_condition import Condition, condition


@click.command(short_help="Keep some rows in every sample, with everything that belongs to them.")
@click.argument("table")
@click.argument("rows", metavar="CONDITION")
@click.option("--because", default="", help="Why, for the people who read the file.")
@where
def keep(table: str, rows: str, because: str, module: str | None, workspace: Path) -> None:
    """Keep rows of TABLE in the samples of all instances: those for which CONDITION holds, and all that they refer to.

    This is written into the file that all instances share. The rest of the file does not change.

    \b
    Example:
        pipedag-dagster keep raw.flights "carrier = 'OO'" --because "a carrier with 32 flights broke the report"
    """
    try:
        parsed = condition(rows)
    except ValueError as error:
        raise ConfigError(f"keep: {error}") from None
    samples, name = _samples(locations(module, workspace), table)
    path = samples[0].files.path
    file, place = _shared_file(path)
    names = " and ".join(sample.config.name for sample in samples)
    if (line := _line_of(file, place, name, parsed)) is not None:
        click.echo(f"{file}:{line}: {name} keeps these rows already. They are in {names} from the next run on.")
        return
    extent = _checked(samples[0], name, parsed)
    item = {"table": name, "where": rows} | ({"because": because} if because else {})
    line = _write(file, place, item)
    click.echo(f"{file}:{line}: {name} keeps the rows with {rows} ({extent}).")
    click.echo(f"They are in {names} from the next run on. Now type:")
    for sample in samples:
        click.echo(f"  pipedag-dagster run {sample.config.name}")


def _samples(loaded: Sequence[Location], table: str) -> tuple[list[ConfigContext], str]:
    """The instances that copy a sample of the table that somebody calls `table`, and its name.

    Raises:
        ConfigError: there is no such table, or several; or nothing is copied.
    """
    copying = [location for location in loaded if location.instance.source is not None]
    if not copying:
        raise ConfigError("keep: no instance here copies from another one, so there is no sample to keep rows in.")
    inputs = {location.name: _inputs(location) for location in copying}
    names = {
        name: [each for each in known if table.lower() in (each, each.partition(".")[2])]
        for name, known in inputs.items()
    }
    chosen = {name for each in names.values() for name in each}
    if not chosen:
        known = {name for each in inputs.values() for name in each}
        raise ConfigError(f"keep: no input task makes a table {table!r}.{did_you_mean(table.lower(), known)}")
    if len(chosen) > 1:
        raise ConfigError(f"keep: there are several input tables {table!r}. Write one of: {', '.join(sorted(chosen))}.")
    samples = {location.instance.config.name: location.instance for location in copying if names[location.name]}
    paths = {str(sample.files.path.absolute()) for sample in samples.values()}
    if len(paths) > 1:
        raise ConfigError(
            f"keep: {' and '.join(sorted(paths))} both have samples of {chosen.pop()}. Choose definitions with -m."
        )
    return list(samples.values()), chosen.pop()


def _inputs(location: Location) -> list[str]:
    """The input tables of an instance, as `stage.asset`."""
    return [each.name for each in input_tables(location.stages, location.plain_inputs())]


def _checked(sample: ConfigContext, name: str, rows: Condition) -> str:
    """Try the condition on the source of a sample.

    Returns:
        How many rows are meant, for people.

    Raises:
        ConfigError: the condition does not fit the table, or no row is meant.
    """
    source = sample.source
    assert source is not None
    stage, _, asset = name.partition(".")
    store = source.store.table_store
    table = store.current([stage])[stage].tables.get(asset) if store.exists() else None
    if table is None:
        return f"not tried, because {source.config.name} has no {name} yet"
    for sentence in rows.unknown_columns(column.name for column in table.columns):
        raise ConfigError(f"keep: {name}: {sentence}")
    kept = _count(source, table, rows)
    if not kept:
        raise ConfigError(
            f"keep: no row of {name} in {source.config.name} is meant by {rows.text}. Nothing was written."
        )
    return f"{kept:,} of {table.rows:,} in {source.config.name}"


def _count(source: ConfigContext, table: TableVersion, rows: Condition) -> int:
    store = source.store.table_store
    physical = quote(store.schemas(table.stage).versions, table.physical)
    database = store.database
    with database.transaction(read_only=True) as connection:
        if changing := changing_functions(connection, [rows.text]):
            raise ConfigError(
                f"keep: {changing[0]}() may have another result every time, so the kept rows would change by "
                "themselves. Write the condition without it, or declare the function IMMUTABLE if it is."
            )
        try:
            with database.users_sql(connection):
                found = user_sql.run(connection, f"SELECT count(*) FROM {physical} AS t WHERE ({rows.text})").fetchone()
        except psycopg.Error as error:
            raise ConfigError(f"keep: the database refuses {rows.text}: {error.diag.message_primary}.") from None
    return int(found[0]) if found else 0


def _shared_file(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The file that all instances share, and where the kept rows are in it."""
    if not path.exists():
        raise ConfigError("keep: the configuration is a dict in a program, not a file. Add to its sample.keep there.")
    if not path.is_dir():
        return path, ("instances", "__any__", "sample", "keep")
    other = path / "__any__.yml"
    return (other if other.exists() else path / "__any__.yaml"), ("sample", "keep")


def _line_of(file: Path, place: tuple[str, ...], name: str, rows: Condition) -> int | None:
    """The line in which the same rows are kept already."""
    if not file.exists():
        return None
    source = yaml_file.load(file)
    names = (name, name.partition(".")[2])
    for number, kept in enumerate(get(source.data, place) or ()):
        same_table = kept.get("table", "").lower() in names
        if same_table and condition(kept.get("where", "")).conjuncts == rows.conjuncts:
            return source.line((*place, number))
    return None


def _write(file: Path, place: tuple[str, ...], item: dict[str, str]) -> int | None:
    """Add the rows to the file.

    Returns:
        The line of the new item.

    Raises:
        ConfigError: the file is written in a way that cannot be added to.
    """
    before = file.read_bytes().decode() if file.exists() else ""
    after = with_item(before, place, item)
    if after is None:
        text = ", ".join(f'{key}: "{value}"' for key, value in item.items())
        raise ConfigError(
            Problem(file, None, f"could not be changed without changing the rest. Add to {'.'.join(place)}: {{{text}}}")
        )
    file.write_bytes(after.encode())
    source = yaml_file.load(file)
    return source.line((*place, len(get(source.data, place)) - 1))
