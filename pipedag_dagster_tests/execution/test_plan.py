"""`plan` says what the next run does, and does nothing itself."""

from __future__ import annotations

import importlib
import itertools
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from pipedag_dagster import ConfigContext, Flow, Stage, input_stage_versions, materialize
from pipedag_dagster.cli.main import cli
from pipedag_dagster.config.instances import CacheMode, CacheValidation
from pipedag_dagster.execution.plan import Action, PlannedTable, plan
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.torture import shop as torture

CODE = """
import pandas as pd
import sqlalchemy as sa
from pipedag_dagster import Flow, Stage, build_definitions, materialize

fresh, rows, version, least, factor = "monday", [1, 2], "1.0", 0, 2

def newest():
    return fresh

@materialize(outputs=["orders"], cache=newest, version="1.0")
def load():
    return pd.DataFrame({"amount": rows})

@materialize(lazy=True, input_type=sa.Table)
def large(orders):
    return sa.select(orders).where(orders.c.amount > least)

def build(instance):
    @materialize(version=version)
    def total(large, factor):
        return pd.DataFrame({"total": [int(large["amount"].sum()) * factor]})

    with Flow("shop") as flow:
        with Stage("raw"):
            orders = load()
        with Stage("report"):
            total(large(orders), factor)
    return flow
"""
STEPS: list[tuple[str, dict[str, Any], list[str], str, str]] = [
    # what, what changes in the module, options of the run, the table, its reason
    ("new", {}, [], "orders", "new"),
    ("cached", {}, [], "orders", "cached"),
    ("code", {"version": "1.1"}, [], "total", "code changed (1.0 → 1.1)"),
    ("query", {"least": -1}, [], "large", "query changed"),
    ("argument", {"factor": 3}, [], "total", "argument changed (factor)"),
    ("fresh", {"fresh": "tuesday"}, [], "orders", "fresh input"),
    ("input", {"fresh": "friday", "rows": [5]}, [], "large", "input changed: raw.orders"),
    ("forced", {}, ["--cache-mode", "force_cache_invalid"], "total", "forced"),
]


@dataclass
class Project:
    """A user's project, run by the command line."""

    folder: Path
    config: ConfigContext
    values: dict[str, Any] = field(default_factory=dict)

    def load(self, **values: Any) -> None:
        """The module with other values, as another process would load it."""
        self.values |= values
        sys.modules.pop("planned_shop", None)
        lines = [f"{name} = {value!r}" for name, value in self.values.items()]
        code = CODE.replace("\ndef newest", "\n" + "\n".join(lines) + "\n\ndef newest", 1)
        full = f"full = build_definitions(build, {str(self.config.files.path)!r}, instance='full')\n"
        (self.folder / "planned_shop.py").write_text(f"{code}\n{full}")
        importlib.invalidate_caches()

    def command(self, *args: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, [*args, "-m", "planned_shop"])
        return done.exit_code, done.output if done.exception is None else f"{done.output}{done.exception}"

    def planned(self, **options: Any) -> dict[str, PlannedTable]:
        flow = importlib.import_module("planned_shop").build(self.config)
        return {one.asset: one for one in plan(self.config, flow.stages, **options)}


@pytest.fixture
def project(instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = Project(tmp_path, instances().get("full"))
    found.load()
    yield found
    sys.modules.pop("planned_shop", None)


def test_every_reason_is_what_the_plan_says_and_is_in_the_log_the_metadata_the_summary_and_the_catalog(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = project.folder / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    for what, values, options, table, reason in STEPS:
        project.load(**values)
        validation = CacheValidation(mode=CacheMode(options[1])) if options else None
        foreseen = project.planned(validation=validation)
        code, shown = project.command("plan", "full", *options)
        assert code == 0, shown
        code, summary = project.command("run", "full", *options)
        assert code == 0, summary

        done, log, metadata = last_run(project)
        assert done[table] == reason, what
        assert log[table] == reason, what
        assert metadata[table] == reason, what
        (line,) = (line for line in summary.splitlines() if line.startswith(f"  {table} "))
        assert (f"ran: {reason}" if reason != "cached" else "cached") in line, what
        for asset, planned in foreseen.items():
            assert done[asset] in allowed(planned), (what, asset)
        if foreseen[table].action is not Action.perhaps:
            assert reason in shown, what


def last_run(project: Project) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Of the last run, by table: the catalog's reasons, the lines of the log, and Dagster's metadata."""
    with dg.DagsterInstance.get() as dagster:
        (run,) = dagster.get_runs(limit=1)
        events = dagster.all_logs(run.run_id)
        log, metadata = {}, {}
        for event in events:
            line = event.user_message
            if " staged " in line:
                log[line.partition(": ")[0].partition(".")[2]] = line.rpartition("): ")[2] or line
            if match := re.fullmatch(r"stage \w+: \d+ cached \((.*)\)", line):
                log |= dict.fromkeys(match[1].split(", "), "cached")
            if event.dagster_event is not None and event.dagster_event.is_step_materialization:
                made = event.dagster_event.step_materialization_data.materialization
                metadata[made.asset_key.path[-1]] = str(made.metadata["pipedag/reason"].value)
    done = {
        record.asset: str(record.reason) for record, _ in project.config.store.table_store.records.of_run(run.run_id)
    }
    return done, log, metadata


def allowed(planned: PlannedTable) -> set[str]:
    """What a run may say about a table for which the plan says this."""
    changed = {
        f"input changed: {', '.join(some)}"
        for count in range(1, len(planned.open) + 1)
        for some in itertools.combinations(sorted(set(planned.open)), count)
    }
    if planned.action is Action.perhaps:
        return {"cached", *changed}
    # Another input is named before what the mode or the cache function says.
    return {planned.reason, *(changed if planned.reason in ("forced", "fresh input") else ())}


def state(config: ConfigContext) -> list[Any]:
    """Everything that is in the catalog, and all relations of the database."""
    store = config.store.table_store
    with store.database.read() as connection:
        query = (
            "SELECT relname, relnamespace::regnamespace::text FROM pg_class WHERE relkind IN ('r', 'v') ORDER BY 2, 1"
        )
        found: list[Any] = [tuple(row) for row in connection.execute(sa.text(query))]
        if store.exists():
            found += [connection.execute(sa.select(table)).all() for table in store.catalog.metadata.sorted_tables]
    return found


def test_it_writes_nothing_pins_nothing_and_waits_for_nobody(project: Project) -> None:
    before = state(project.config)
    assert {one.action for one in project.planned().values()} == {Action.runs}
    assert state(project.config) == before  # no catalog, no schema
    project.command("run", "full")
    project.load(least=1, fresh="tuesday")
    before, store = state(project.config), project.config.store.table_store
    with store.lock("raw", "another run"), store.lock("report", "another run"):
        assert {name: one.action for name, one in project.planned().items()} == {
            "orders": Action.runs,
            "large": Action.runs,
            "total": Action.perhaps,
        }
    assert state(project.config) == before


def test_a_database_that_is_not_there_is_not_made(instances: Instances, database_url: sa.URL) -> None:
    missing = database_url.set(database=f"{database_url.database}_missing")
    url = missing.render_as_string(hide_password=False)
    files = instances(
        full=f'table_store: {{args: {{url: "{url}", create_database_if_not_exists: true}}}}\n',
    )
    (planned,) = plan(files.get("full"), [one_task().stages[0]])
    assert (planned.action, planned.reason) == (Action.runs, "new")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


def one_task() -> Flow:
    @materialize(version="1")
    def load() -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    with Flow("f") as flow, Stage("raw"):
        load()
    return flow


def test_check_exits_with_an_error_while_something_would_run(project: Project) -> None:
    assert project.command("plan", "full", "--check")[0] == 1
    project.command("run", "full")
    assert project.command("plan", "full", "--check")[0] == 0
    project.load(factor=7)
    assert project.command("plan", "full", "--check")[0] == 1
    assert project.command("plan", "full", "--check", "--select", "raw")[0] == 0
    assert project.command("plan", "full")[0] == 0


def test_a_selection_reads_the_rest_as_it_is_committed(project: Project) -> None:
    project.command("run", "full")
    project.load(fresh="tuesday", rows=[9])
    code, shown = project.command("plan", "full", "--select", "report")
    assert code == 0
    assert "0 of 2 tables would run" in shown


def test_what_would_fail_says_why_and_what_comes_after_it(project: Project) -> None:
    project.command("run", "full")
    project.load(fresh="tuesday")
    foreseen = project.planned(validation=CacheValidation(mode=CacheMode.assert_no_fresh_input))
    assert {one.action for one in foreseen.values()} == {Action.fails}
    assert "raw.load would read its source again (fresh input)" in foreseen["orders"].reason
    assert foreseen["large"].reason == "raw.load fails before it"


def test_a_new_task_between_two_others(instances: Instances) -> None:
    def flow(with_middle: bool) -> Flow:
        @materialize(version="1")
        def first() -> pd.DataFrame:
            return pd.DataFrame({"x": [1]})

        @materialize(lazy=True, input_type=sa.Table)
        def middle(table: Any) -> Any:
            return sa.select(table.c.x, (table.c.x + 1).label("y"))

        @materialize(lazy=True, input_type=sa.Table)
        def last(table: Any) -> Any:
            return sa.select(table)

        with Flow("f") as made, Stage("raw"):
            last(middle(first()) if with_middle else first())
        return made

    config = instances().get("full")
    flow(False).run(config, fail_fast=True)
    foreseen = {one.asset: (one.action, one.reason) for one in plan(config, flow(True).stages)}
    assert foreseen == {
        "first": (Action.cached, "cached"),
        "middle": (Action.runs, "new"),
        "last": (Action.runs, "argument changed (table)"),
    }


@pytest.mark.parametrize("by_hand", [False, True])
def test_on_a_small_instance_it_looks_at_what_the_source_has_committed(instances: Instances, by_hand: bool) -> None:
    def flow(config: ConfigContext, rows: int) -> Flow:
        @materialize(input=True, outputs=["orders"], version="1", cache=lambda: rows)
        def load() -> pd.DataFrame:
            return pd.DataFrame({"id": range(rows)})

        @input_stage_versions(input_type=sa.Table, outputs=["orders"], lazy=True)
        def copy(_: Any, tables: dict[str, Any], source: ConfigContext) -> dict[str, Any]:
            return {name: sa.select(table) for name, table in tables.items()}

        with Flow("f") as made, Stage("raw") as stage:
            if by_hand and config.source is not None:
                copy(config.source, stage=stage)
            else:
                load()
        return made

    files = instances()
    full, midi = files.get("full"), files.get("midi")

    def foreseen() -> tuple[Action, str]:
        (one,) = plan(midi, flow(midi, 1).stages)
        return one.action, one.reason

    action, reason = foreseen()
    assert action is Action.fails
    assert "pipedag-dagster run full" in reason
    flow(full, 1).run(full, fail_fast=True)
    assert foreseen() == (Action.runs, "new")
    flow(midi, 1).run(midi, fail_fast=True)
    assert foreseen() == (Action.cached, "cached")
    flow(full, 2).run(full, fail_fast=True)
    assert foreseen() == (Action.runs, "input changed: full: raw.orders")
    with midi.source.store.table_store.database.read() as connection:  # type: ignore[union-attr]
        assert midi.source.store.table_store.catalog.pinned(connection) == []  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(2))
def test_whatever_changes_a_run_does_what_the_plan_says(instances: Instances, seed: int) -> None:
    """Worlds, code, failures and modes by chance, on full and midi."""
    chance, files = random.Random(seed), instances()
    world = torture.World()
    for _ in range(8):
        world = torture.World(*(chance.choice([1, 2]) for _ in range(3)))
        config, broken = files.get(chance.choice(["full", "full", "midi"])), chance.choice([None, None, "rows"])
        mode = chance.choice([*CacheMode, CacheMode.normal, CacheMode.normal])
        foreseen = plan(config, torture.flow(world).stages, validation=CacheValidation(mode=mode))
        fails = {one.asset for one in foreseen if one.action is Action.fails}
        done = torture.flow(world, broken).run(config, fail_fast=False, cache_validation_mode=mode)
        reasons = {record.asset: str(record.reason) for record, _ in done.tables}
        assert not fails & set(reasons)
        assert bool(fails) <= (not done.successful)
        for one in foreseen:
            if one.asset in reasons:
                assert reasons[one.asset] in allowed(one) | ({"cached"} if one.open else set()), (one, reasons)
