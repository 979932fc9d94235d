"""The snippets of the documentation do what a reader expects of them: YAML loads, Python runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa
import yaml

import pipedag_dagster
from pipedag_dagster import ConfigContext, Flow, PipedagConfig, Stage, Table, checks, materialize
from pipedag_dagster.config.keys import AnyFile
from pipedag_dagster_tests.helpers import Connection, Instances, Query, visible

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def config(instances: Instances) -> PipedagConfig:
    return instances(any="fail_fast: true\n")


@dataclass(frozen=True)
class Snippet:
    """A block of code on a page."""

    page: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.strip().splitlines()[0][:40]}"


def snippets(language: str) -> Iterator[Snippet]:
    for page in sorted(DOCS.glob("*.md")):
        for text in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            yield Snippet(page.name, text)


STORE = {"url": "embedded", "schema_prefix": "{instance_id}_"}


def snippet(page: str, word: str) -> str:
    """The Python snippet of a page that contains a word."""
    (text,) = (found.text for found in snippets("python") if found.page == page and word in found.text)
    return text


def is_an_instance(snippet: Snippet) -> bool:
    keys = yaml.safe_load(snippet.text)
    return isinstance(keys, dict) and bool(keys) and keys.keys() <= AnyFile.model_fields.keys()


@pytest.mark.parametrize("snippet", list(filter(is_an_instance, snippets("yaml"))), ids=str)
def test_the_yaml_of_an_instance_loads(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r"\{\$(\w+)\}", snippet.text):
        monkeypatch.setenv(name, str(tmp_path / "attrs.yaml"))
    (tmp_path / "attrs.yaml").write_text("{username: ann, password: hush}")
    keys = yaml.safe_load(snippet.text.replace("{on:", '{"on":'))  # YAML 1.1 reads the key as True
    shared = {
        "name": keys.pop("name", "shop"),
        "table_store": {"args": {"url": "embedded", "schema_prefix": "{instance_id}_"}},
    }
    folder = tmp_path / "instances"
    folder.mkdir()
    copies = {
        "attrs": {"copy_filtered_input": True, "copy_source": "full"},
        "sample": {"tables": {"planes": {"rows": 300}}},
    }
    for file, content in {"__any__": shared, "full": {}, "midi": copies, "this": keys}.items():
        (folder / f"{file}.yaml").write_text(yaml.safe_dump(content))
    assert PipedagConfig(folder).get("this").instance_name == "this"


@materialize(version="1")
def load_orders() -> Table:
    return Table(ORDERS, "orders", primary_key="id")


def build(instance: ConfigContext, stage: str = "report") -> Flow:
    with Flow("shop") as flow, Stage(stage):
        load_orders()
    return flow


@materialize(version="1", input_type=pd.DataFrame)
def anything(*values: object) -> None:
    """Stands for the tasks that a snippet only names."""


ORDERS = pd.DataFrame({"id": [1, 2], "customer": [7, 8], "amount": [50, 150], "price": [1.5, 2.5], "number": [3, 4]})
CUSTOMERS = pd.DataFrame({"id": [7, 8], "state": ["new", "active"]})
NAMES: dict[str, Any] = {
    **{name: getattr(pipedag_dagster, name) for name in pipedag_dagster.__all__},
    **dict.fromkeys(("clean", "predict", "publish", "report"), anything),
    **{"pd": pd, "pl": pl, "sa": sa, "Path": Path, "Iterator": Iterator, "frame": ORDERS, "customers": CUSTOMERS},
    **{"fit": len, "score": lambda orders: orders, "rest": lambda orders: orders.head(1)},
    **{"source_version": lambda: "1", "source_stage_version": lambda *tables, **options: "1"},
    **{"unique": checks.unique, "references": checks.references},
}
"""What the snippets take for granted, beside `orders`."""


@dataclass(frozen=True)
class Case:
    """A snippet, found by a word that is in it, and what is called with it."""

    page: str
    word: str
    calls: str = ""
    tables: tuple[str, ...] = ()
    """What is then in the stage."""
    orders: Any = None
    """What `orders` is; without it, the output of a task."""

    def __str__(self) -> str:
        return f"{self.page}: {self.word}"


CASES = [
    Case("caching.md", "pl.LazyFrame", "large(orders)", ("large",)),
    Case("caching.md", "file_content", "load()", ("load_0", "load_1"), ORDERS),
    Case("checks.md", "no_negative", "load()", ("customers",), ORDERS),
    Case("checks.md", "raw.photos.id", "", (), 1),
    Case("executors.md", "embeddings"),
    Case("tasks.md", "source_version", "load()", ("customers",), ORDERS),
    Case("tasks.md", "Blob(fit", "", ("scores", "scores_1")),
    Case("tasks.md", "_totals", "enriched(orders)", ("_totals", "enriched")),
    Case("tasks.md", "def prepare", "", ("large",)),
    Case("tasks.md", "RecordBatchReader", "priced(orders)", ("priced",)),
    Case("ui.md", "team:sales", "load()", ("customers",), ORDERS),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_tasks_of_a_snippet_run(
    case: Case, config: PipedagConfig, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rates.csv").write_text("")
    connection.execute("CREATE SCHEMA crm; CREATE TABLE crm.orders (id bigint)")
    (tmp_path / "prepare.sql").write_text("CREATE TABLE large AS SELECT * FROM {orders} WHERE price > 2;")
    text = snippet(case.page, case.word).replace("load(): ...", "load():\n    return Table(frame), Table(customers)")
    file = tmp_path / "snippet.py"
    file.write_text(text + case.calls)
    instance = config.get("full")
    names = NAMES | {"instance": instance, "rates": 1, "orders": case.orders}
    with Flow("shop") as flow, Stage("raw") as names["stage"]:
        if case.orders is None:
            names["orders"] = load_orders()
        exec(compile(file.read_text(), file, "exec"), names)
    assert flow.run(config=instance).successful
    assert set(case.tables) <= set(visible(connection, "full_raw"))


def test_the_schema_of_ones_own(config: PipedagConfig, query: Query) -> None:
    instance = config.get("full")
    exec(snippet("tasks.md", 'Schema("debug")'), NAMES | {"instance": instance, "enriched": lambda orders: orders})
    assert query("SELECT count(*) FROM debug.orders") == [(2,)]


def test_copying_by_hand(config: PipedagConfig, query: Query) -> None:
    full, mini = config.get("full"), config.get("mini")
    assert build(full, "raw").run(config=full).successful
    with Flow("shop") as flow, Stage("raw") as stage:
        exec(snippet("tasks.md", "input_stage_versions"), NAMES | {"instance": mini, "stage": stage})
    assert flow.run(config=mini).successful
    assert query("SELECT count(*) FROM mini_raw.orders") == [(1,)]


def test_other_attrs_for_one_run(config: PipedagConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert build(config.get("full")).run(config=config.get("full")).successful
    exec(snippet("automation.md", "with_attrs"), NAMES | {"build": build})


def test_a_translator(config: PipedagConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"build": build}
    exec(snippet("ui.md", "PipedagTranslator"), names)
    spec = names["full"].resolve_all_asset_specs()[0]
    assert spec.tags["layer"] == "report"
    assert spec.automation_condition is not None


ELSEWHERE = {
    "looking.md": "project/test_docs.py",
    "from_pipedag.md": "compat/test_migration.py",
    "existing_project.md": "project/test_docs.py",
    "testing.md": "project/test_ci.py",
    "tutorial.md": "project/test_tutorial.py",
}


def test_no_snippet_is_left_out() -> None:
    here = Path(__file__).read_text()
    words = re.findall(r"(?:Case|snippet)\(\"(\S+\.md)\", [\"'](.*?)[\"'][,)]", here)
    for found in snippets("python"):
        assert found.page in ELSEWHERE or any(found.page == page and word in found.text for page, word in words), found
