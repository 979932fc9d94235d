"""What the README says is what happens."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import pipedag_dagster
from pipedag_dagster import PipedagConfig
from pipedag_dagster.cli.lazy_group import COMMANDS
from pipedag_dagster.config.instances import InstanceConfig
from pipedag_dagster_tests.helpers.terminal import Terminal

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """In a folder with the files of the README's example: each block names its file in its first line."""
    for name, rest in re.findall(r"```(?:python|yaml)\n# ([\w/]+\.(?:py|yaml)):[^\n]*\n(.*?)```", README, re.DOTALL):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(rest)
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.type("pipedag-dagster stop")


def test_the_example_of_the_readme_runs_as_it_stands(terminal: Terminal) -> None:
    terminal.type("dg launch -m shop.definitions -a full --assets '*'")
    summary = terminal.type("pipedag-dagster run midi -m shop.definitions")
    promised = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert promised is not None
    assert without_times(summary) == without_times(promised[1])


def test_the_existing_project_runs_before_and_after(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "existing_project.md").read_text()
    for name, rest in re.findall(r"```(?:python|yaml)\n# ([\w/]+\.(?:py|yaml)):[^\n]*\n(.*?)```", page, re.DOTALL):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(rest)
    terminal = Terminal(tmp_path)
    terminal.type("dagster asset materialize --select '*' -f before.py")
    try:
        for instance in ("full", "mini"):
            terminal.type(f"dagster asset materialize --select '*' -f after.py -a {instance}")
        files = PipedagConfig(tmp_path / "instances")
        tables = {name: files.get(name).store.table_store.current(["raw"])["raw"].tables for name in ("full", "mini")}
        assert [tables[name]["orders"].rows for name in ("full", "mini")] == [1000, 10]
    finally:
        terminal.type("pipedag-dagster stop")


def snippets(page: str, language: str) -> list[str]:
    """The snippets of a page, without those that name a file."""
    text = (REPOSITORY / "docs" / page).read_text()
    return [block for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if not block.startswith("# ")]


def test_the_page_about_looking_does_what_it_says(terminal: Terminal) -> None:
    project = terminal.folder
    (project / "workspace.yaml").write_text(
        "load_from:\n"
        + "".join(
            f"  - python_module: {{module_name: shop.definitions, attribute: {name}, location_name: {name}}}\n"
            for name in ("full", "mini")
        )
    )
    definitions = project / "shop" / "definitions.py"
    definitions.write_text(definitions.read_text().replace("midi", "mini"))
    (project / "instances" / "midi.yaml").rename(project / "instances" / "mini.yaml")
    for command in ("run full", "run mini", "run full --cache-mode force_cache_invalid"):
        terminal.type(f"pipedag-dagster {command}")
    for block in snippets("looking.md", "bash"):
        for line in block.splitlines():
            assert terminal.type(line), line
    for block in snippets("looking.md", "python"):
        terminal.type(f"python -c {shlex.quote(block)}")


def without_times(text: str) -> list[list[str]]:
    return [re.sub(r"\d+\.\d+( s)?", "", line).split() for line in text.splitlines() if line.strip()]


PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / ".github").glob("*.md")]


def words_of(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_the_docs_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        if target.startswith("http"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in map(words_of, headings), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_docs_is_there(page: Path) -> None:
    text = page.read_text()
    for file in re.findall(r"(?:python3?|pytest)(?: -\S+(?: \d+)?)* ([\w/]+(?:/|\.py)[\w/]*)", text):
        assert (REPOSITORY / file).exists() or "/" not in file, file
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for words in re.findall(r"(?:`|^)make ((?:[a-z-]+ ?)+)", text, re.MULTILINE):
        assert set(words.split()) <= set(targets), words
    for command in re.findall(r"(?:`|^)pipedag-dagster ([a-z]+)", text, re.MULTILINE):
        assert command in COMMANDS, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_of_a_command_of_the_docs_is_there(page: Path) -> None:
    for line in re.findall(r"^pipedag-dagster ([a-z]+ [^\n]*)$", page.read_text(), re.MULTILINE):
        command, *arguments = shlex.split(re.split(r" [|&>] ", line)[0], comments=True)
        entry = COMMANDS[command]
        parsed: click.Command = getattr(importlib.import_module(f"pipedag_dagster.cli.{entry.module}"), entry.attribute)
        parsed.make_context(command, arguments)


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_page_is_linked(page: Path) -> None:
    others = (other.read_text() for other in PAGES if other != page)
    assert any(f"{page.name})" in text or f"{page.name}#" in text for text in others)


def test_every_key_of_the_configuration_is_documented() -> None:
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    own = set(InstanceConfig.model_fields) - {
        "pipeline",
        "name",
        "per_user",
        "project",
        "file",
        "sample",
        "wider",
        "plain_attrs",
        "problem",
    }
    assert {key for key in own if f"`{key}" not in text and f".{key}`" not in text} <= set()


def test_the_drawing_of_the_house_has_every_folder() -> None:
    page = (REPOSITORY / "CONTRIBUTING.md").read_text()
    package = REPOSITORY / "pipedag_dagster"
    folders = {f"{folder.name}/" for folder in package.iterdir() if folder.is_dir() and folder.name != "__pycache__"}
    modules = {module.stem for module in package.glob("*.py") if module.stem != "__init__"}
    drawing = page.partition("```text")[2].partition("```")[0]
    assert {name for name in folders | modules if name not in drawing} == set()


def test_every_public_name_is_in_the_reference() -> None:
    page = (REPOSITORY / "docs" / "reference" / "api.md").read_text()
    described = set(re.findall(r"^\.\. (?:auto\w+|data):: (\w+)$", page, re.MULTILINE))
    assert set(pipedag_dagster.__all__) - {"PipedagError"} == described


def test_every_key_of_the_metadata_is_documented() -> None:
    page = (REPOSITORY / "docs" / "ui.md").read_text()
    code = "".join(file.read_text() for file in (REPOSITORY / "pipedag_dagster" / "orchestration").glob("*.py"))
    keys = set(re.findall(r'"(pipedag/\w+)"', code))
    assert {key for key in keys if key not in page} == set()
