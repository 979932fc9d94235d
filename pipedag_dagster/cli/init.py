"""`pipedag-dagster init`: a new project that is ready to run."""

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
@click.option("--name", help="Name of the project's package. Default: the name of the folder.")
def init(folder: Path, name: str | None) -> None:
    """Make a project in FOLDER (default: here): a small pipeline in three sizes, with a test. It is ready to run.
    Existing files are not overwritten.

    \b
    Example:
        pipedag-dagster init my-shop
    """
    package = _package(name or folder.absolute().name)
    files = {folder / path: text for path, text in _files(package)}
    existing = sorted(str(path) for path in files if path.exists())
    if existing:
        raise FilesInTheWay(f"Nothing was made: {', '.join(existing)} would be overwritten. Choose another folder.")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        click.echo(f"  {path}", err=True)
    click.echo("\n".join(["Now type:", *(f"  {command}" for command in next_steps(folder))]))


def next_steps(folder: Path) -> list[str]:
    """The commands to type in a new project, in order."""
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
        raise InvalidName(f"{name!r} cannot be the name of a Python package. Choose one: --name my_pipeline")
    return package


def _files(package: str) -> Iterator[tuple[Path, str]]:
    """The path and text of each file of a new project."""
    for path, file in _template(resources.files("pipedag_dagster") / "template", Path()):
        target = Path(*(part.replace(_NAME, package) for part in path.parts))
        # With their dots, these would apply to this package.
        if target.parts[0] in ("gitignore", "github"):
            target = Path(f".{target.parts[0]}", *target.parts[1:])
        yield target, file.read_text().replace(_NAME, package)


def _template(folder: Traversable, path: Path) -> Iterator[tuple[Path, Traversable]]:
    for part in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if part.is_dir():
            if part.name != "__pycache__" and not part.name.startswith("."):  # left behind by tools
                yield from _template(part, path / part.name)
        else:
            yield path / part.name, part
