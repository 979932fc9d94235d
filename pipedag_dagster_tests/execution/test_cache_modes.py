"""The cache modes: what the table in docs/caching.md says is what happens."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_dagster import ConfigContext, Flow, Stage, input_stage_versions, materialize
from pipedag_dagster.config.instances import CacheMode, CacheValidation
from pipedag_dagster.errors import FreshInput
from pipedag_dagster.execution.stage_run import run_stage
from pipedag_dagster.graph.task import Task
from pipedag_dagster_tests.helpers import Instances, new_database, write_instances


def promised() -> dict[tuple[str, str], dict[str, str]]:
    """The table of the docs: by mode and flag, what is done with each kind of task."""
    text = (Path(__file__).parents[2] / "docs" / "caching.md").read_text()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    head = next(number for number, row in enumerate(rows) if row[:2] == ["mode", "flag"])
    kinds = rows[head][2:]
    cases = itertools.takewhile(lambda row: len(row) == len(kinds) + 2, rows[head + 2 :])
    return {(mode, flag): dict(zip(kinds, cells, strict=True)) for mode, flag, *cells in cases}


PROMISED = promised()
SMALL = "attrs: {copy_filtered_input: true, copy_source: full}\n"


def test_the_table_of_the_docs_has_every_mode_with_every_flag() -> None:
    flags = ("–", "disable_cache_function", "ignore_task_version", "both")
    assert set(PROMISED) == {(mode.value, flag) for mode in CacheMode for flag in flags}


@dataclass
class Kinds:
    """One stage for each kind of task that the table has, each with one task. `changed`: what the table calls other."""

    changed: bool = False

    def flow(self, config: ConfigContext) -> Flow:
        frame = pd.DataFrame({"x": [1, 2]})
        other = pd.DataFrame({"x": [3, 4]}) if self.changed else frame

        @materialize(version="1.0")
        def version() -> pd.DataFrame:
            return frame

        @materialize
        def fingerprint() -> pd.DataFrame:
            return pd.DataFrame({"x": [1]})

        @materialize(lazy=True)
        def lazy() -> sa.TextClause:
            return sa.text("SELECT 1 AS x")

        def with_function(value: str, version: str) -> Task:
            @materialize(cache=lambda: value, version=version)
            def read() -> pd.DataFrame:
                return frame

            return read

        def source(table: str, content: pd.DataFrame) -> Task:
            @materialize(input=True, outputs=[table], version=str(content["x"].tolist()))
            def load() -> pd.DataFrame:
                return content

            return load

        @input_stage_versions(input_type=sa.Table)
        def by_hand(_: Any, tables: dict[str, Any], source: ConfigContext) -> dict[str, Any]:
            return {name: sa.select(table) for name, table in tables.items()}

        small = config.source
        with Flow("kinds") as flow:
            for kind, call in {
                "version": version,
                "fingerprint": fingerprint,
                "lazy": lazy,
                "function: same": with_function("monday", "1.0"),
                "function: other": with_function("tuesday" if self.changed else "monday", "1.0"),
                "function: code": with_function("monday", "1.1" if self.changed else "1.0"),
                "copy: same": source("same", frame),
                "copy: other": source("other", other),
                "by hand: same": source("same", frame),
                "by hand: other": source("other", other),
            }.items():
                with Stage(kind.replace(": ", "_").replace(" ", "_")) as stage:
                    if kind.startswith("by hand") and small is not None:
                        assert by_hand(small, stage=stage)[kind.partition(": ")[2]]
                    else:
                        call()
        return flow

    def run(self, config: ConfigContext, validation: CacheValidation) -> dict[str, str]:
        """What was done in each stage, in the words of the table."""
        done = {}
        run_id = secrets.token_hex(8)
        for stage in self.flow(config).stages:
            try:
                (outcome,) = run_stage(config, stage, run_id, validation=validation).outcomes
                done[stage.name] = "–" if outcome.cached else "runs"
            except FreshInput:
                done[stage.name] = "refused"
        config.store.table_store.unpin(run_id)
        return done


@pytest.fixture(scope="module")
def database_template(server_url: sa.URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two instances that have everything, and then the world has changed."""
    with new_database(server_url) as url:
        files = write_instances(tmp_path_factory.mktemp("modes"), url, small=SMALL)
        full, small = files.get("full"), files.get("small")
        for instance in (full, small):
            assert set(Kinds().run(instance, CacheValidation()).values()) == {"runs"}
        Kinds(changed=True).run(full, CacheValidation())
        for instance in (full, small):
            instance.store.table_store.database.close()
        assert url.database is not None
        yield url.database


@pytest.mark.parametrize(("mode", "flag"), PROMISED)
def test_each_mode_does_what_the_docs_say(instances: Instances, mode: str, flag: str) -> None:
    no_function, no_version = flag in ("disable_cache_function", "both"), flag in ("ignore_task_version", "both")
    validation = CacheValidation(
        mode=CacheMode(mode), disable_cache_function=no_function, ignore_task_version=no_version
    )
    done = Kinds(changed=True).run(instances(small=SMALL).get("small"), validation)
    assert done == {kind.replace(": ", "_").replace(" ", "_"): says for kind, says in PROMISED[mode, flag].items()}
