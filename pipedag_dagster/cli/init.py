"""`pipedag-dagster init`: a new project that runs at once."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from pipedag_dagster.errors import FilesInTheWay, InvalidName

_NAME = "my_pipeline"


@click.command(short_help="Make a new project.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path())
@click.option("--name", help="Name of the project's package. Default: that of the folder.")
def init(folder: Path, name: str | None) -> None:
    """Make a project in FOLDER (default: here): a small pipeline in three sizes, with a test. It runs at once. No file
    is overwritten."""
    package = _package(name or folder.absolute().name)
    files = {folder / path: text for path, text in _files(package)}
    there = sorted(str(path) for path in files if path.exists())
    if there:
        raise FilesInTheWay(f"Nothing was made: {', '.join(there)} would be overwritten. Choose another folder.")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        click.echo(f"  {path}", err=True)
    click.echo("\n".join(["Now type:", *(f"  {command}" for command in next_steps(folder))]))


def next_steps(folder: Path) -> list[str]:
    """What to type in a new project, in order."""
    steps = [
        "pip install -e '.[dev]'",
        "pipedag-dagster run full",
        "pipedag-dagster run mini",
        "pytest",
        "dagster dev -w workspace.yaml",
    ]
    return steps if folder.absolute() == Path.cwd() else [f"cd {folder}", *steps]


def _package(name: str) -> str:
    package = re.sub(r"[-. ]", "_", name).lower()
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", package) or keyword.iskeyword(package) or package == "pipedag_dagster":
        raise InvalidName(f"{name!r} cannot be the name of a Python package. Give one: --name my_pipeline")
    return package


def _files(package: str) -> Iterator[tuple[Path, str]]:
    """Where each file of a new project goes, and its text."""
    for path, file in _template(resources.files("pipedag_dagster") / "template", Path()):
        place = Path(*(part.replace(_NAME, package) for part in path.parts))
        # As .gitignore it would be one in this package.
        place = place.with_name(".gitignore") if place.name == "gitignore" else place
        yield place, file.read_text().replace(_NAME, package)


def _template(folder: Traversable, path: Path) -> Iterator[tuple[Path, Traversable]]:
    for part in sorted(folder.iterdir(), key=lambda one: one.name):
        if part.is_dir():
            if part.name != "__pycache__" and not part.name.startswith("."):  # what tools leave behind
                yield from _template(part, path / part.name)
        else:
            yield path / part.name, part
