"""`pipedag-dagster diff`: what differs between two instances, or two versions of a stage."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from pipedag_dagster.cli.main import print_error
from pipedag_dagster.cli.opening import opened, where_or_config
from pipedag_dagster.cli.options import json_option
from pipedag_dagster.comparing.diff import Diff
from pipedag_dagster.comparing.markdown import overview_row
from pipedag_dagster.comparing.sides import compare_instances
from pipedag_dagster.comparing.table_diff import TableDiff, described_row, shown
from pipedag_dagster.context import config_in
from pipedag_dagster.errors import NotComparable, PipedagError
from pipedag_dagster.looking.open_instance import OpenInstance, open_instance


@click.command(short_help="Compare two instances, or two versions of a stage.")
@click.argument("instance")
@click.argument("names", metavar="[OTHER] [STAGE|STAGE.TABLE]", nargs=-1)
@click.option("--versions", type=int, nargs=2, metavar="N M", help="Compare two versions of a stage of INSTANCE.")
@click.option(
    "--against",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="Compare with the same instance of another checkout: its folder, or its configuration.",
)
@click.option("--key", metavar="A,B", help="The columns by which rows are the same row. Default: the primary key.")
@click.option("--examples", type=click.IntRange(0), help="How many rows of one side to show; 0 shows no data.")
@json_option
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown, for a pull request.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write a page.")
@click.option("--exit-code", is_flag=True, help="Exit with code 1 if something differs, 2 on an error.")
@where_or_config
def diff(
    instance: str,
    names: tuple[str, ...],
    versions: tuple[int, int] | None,
    against: Path | None,
    key: str | None,
    examples: int | None,
    as_json: bool,
    as_markdown: bool,
    html: Path | None,
    exit_code: bool,
    module: str | None,
    workspace: Path,
    config: Path | None,
) -> None:
    """Compare what INSTANCE and OTHER have committed: columns and their types, rows, keys, and the values of rows with
    the same key. Without OTHER, show what the last commit of each stage has changed. The database compares; nothing is
    written.

    \b
    Examples:
        pipedag-dagster diff full midi
        pipedag-dagster diff full midi report.ranking --key customer
        pipedag-dagster diff mini
        pipedag-dagster diff mini raw --versions 3 4
        pipedag-dagster diff mini --against ../main --markdown
    """
    if len(names) > 2 or (len(names) == 2 and (versions or against)):
        raise click.UsageError(f"These are too many names: {' '.join(names)}.")
    try:
        chosen = opened(instance, module, workspace, config)
        columns = [column.strip() for column in key.split(",")] if key else []
        other, select = _parsed(chosen, names)
        found = _compared(chosen, other, select, versions, against, columns, examples, (module, workspace, config))
    except PipedagError as error:
        if not exit_code:
            raise
        print_error(error)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    elif as_markdown:
        click.echo(found.to_markdown(), nl=False)
    else:
        _print(found)
    if html is not None:
        html.write_text(found.to_html(), encoding="utf-8")
        click.echo(f"Written: {html}", err=True)
    if exit_code and not found.equal:
        sys.exit(1)


def _parsed(chosen: OpenInstance, names: tuple[str, ...]) -> tuple[str | None, str | None]:
    """The other instance and the selection, of the names that stand behind the first instance."""
    if len(names) == 1:
        return (names[0], None) if _is_instance(chosen, names[0]) else (None, names[0])
    return (names[0], names[1]) if names else (None, None)


def _is_instance(chosen: OpenInstance, name: str) -> bool:
    """Whether the only name beside the instance is that of another instance, and not that of a stage.

    Raises:
        NotComparable: it may be both.
    """
    is_instance = name in chosen.instance.files.instance_names
    store = chosen.instance.store.table_store
    is_stage = store.exists() and name.lower() in store.records.stages()
    if is_instance and is_stage:
        raise NotComparable(
            f"{name!r} is an instance and a stage. For the instance, add a stage: diff {chosen.name} {name} STAGE"
        )
    return is_instance or not (is_stage or "." in name)


def _compared(
    chosen: OpenInstance,
    other: str | None,
    select: str | None,
    versions: tuple[int, int] | None,
    against: Path | None,
    key: Sequence[str],
    examples: int | None,
    place: tuple[str | None, Path, Path | None],
) -> Diff:
    if other is not None and (versions or against):
        raise NotComparable(f"--versions and --against compare {chosen.name} alone. {other!r} is not a stage of it.")
    if versions or (other is None and against is None):
        return chosen.diff(None, select, versions=versions, key=key, examples=examples)
    if other is not None:
        return chosen.diff(opened(other, *place), select, key=key, examples=examples)
    assert against is not None
    return compare_instances(
        open_instance(chosen.name, config_in(against) or against).instance.store.table_store,
        chosen.instance.store.table_store,
        select,
        key=key,
        examples=examples,
        labels=(f"{chosen.name} of {against}", chosen.name),
    )


def _print(found: Diff) -> None:
    console = Console(highlight=False)
    console.print(Text(found.summary, style="bold"), soft_wrap=True)
    if not found.different:
        return
    grid = Grid(box=None, padding=(0, 2, 0, 0))
    heads = ("table", "rows", "in both", f"only {found.left}", f"only {found.right}", "changed", "what")
    for head in heads:
        left = head in ("table", "what")
        grid.add_column(head, justify="left" if left else "right", no_wrap=head != "what", overflow="fold")
    for table in found.different:
        grid.add_row(*map(Text, overview_row(table)))
    console.print(grid)
    for table in found.different:
        _print_table(console, found, table)


def _print_table(console: Console, found: Diff, table: TableDiff) -> None:
    if not (table.values or table.left_examples or table.right_examples or table.note):
        return
    console.print()
    by = f"  rows are the same by {', '.join(table.key)}" if table.key else ""
    console.print(Text.assemble((table.name, "bold"), (by, "dim")), soft_wrap=True)
    for value in table.values:
        says = f"  {value.column}: {value.rows:,} of {table.both:,} rows differ"
        if value.key:
            key = described_row(dict(zip(table.key, value.key, strict=True)))
            says += f", for example {key}: {shown(value.left)} → {shown(value.right)}"
        console.print(Text(says), soft_wrap=True)
    for side, examples in ((found.left, table.left_examples), (found.right, table.right_examples)):
        if examples:
            console.print(Text(f"  only in {side}: {'; '.join(map(described_row, examples))}"), soft_wrap=True)
    if table.note:
        console.print(Text(f"  {table.note}", style="dim"), soft_wrap=True)
