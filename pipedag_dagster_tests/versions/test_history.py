"""Going back to older versions, cleaning up, dropping an instance: what is there afterwards, and what is refused."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from click.testing import CliRunner

from pipedag_dagster import PipedagConfig
from pipedag_dagster.cli.main import cli
from pipedag_dagster.errors import InUse, NotMaterialized, RunActive
from pipedag_dagster.execution.plan import Action, plan
from pipedag_dagster.orchestration.run import rollback as roll_back
from pipedag_dagster.versions import history, removal
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Connection, Instances
from pipedag_dagster_tests.helpers.changing_shop import CACHED, Shop
from pipedag_dagster_tests.helpers.command_line import Command
from pipedag_dagster_tests.helpers.stage import Stage


def frame(number: int) -> pd.DataFrame:
    return pd.DataFrame({"a": [number]})


@pytest.fixture
def stage(instances: Instances) -> Stage:
    return Stage(instances().get("full").store.table_store)


def schemas(connection: Connection) -> set[object]:
    query = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|public)'"
    return {row[0] for row in connection.execute(query).fetchall()}


def test_versions_say_what_has_changed(stage: Stage) -> None:
    stage.commit(x=frame(1), y=frame(1))
    stage.commit(x=frame(2), z=frame(1))
    second, first = history.versions(stage.store, "raw")
    assert first.changes == history.Changes(("x", "y"), (), ())
    assert second.changes == history.Changes(("z",), ("x",), ("y",))
    assert (first.current, second.current, second.restored, second.sources) == (False, True, None, ())
    stage.commit(x=frame(3))
    assert [one.number for one in history.versions(stage.store, "raw")] == [3, 2]
    assert history.versions(stage.store, "raw")[-1].changes is None
    assert history.versions(stage.store, "other") == []


def test_a_rollback_commits_the_older_tables_as_a_new_version(stage: Stage) -> None:
    stage.commit(x=frame(1))
    stage.commit(x=frame(2), y=frame(2))
    before, after = history.rollback(stage.store, "raw", None, "back")
    assert (before.number, after.number) == (2, 3)
    assert stage.seen() == stage.catalog_rows() == {"x": [(1,)]}
    newest = history.versions(stage.store, "raw")[0]
    assert (newest.restored, newest.run_id, newest.pinned_by) == (1, "back", ())
    assert differences(stage.store) == []


@pytest.mark.parametrize("to", [1, 3, 99])
def test_a_version_that_is_not_there_names_those_that_are(stage: Stage, to: int) -> None:
    for number in (1, 2, 3):
        stage.commit(x=frame(number))
    with pytest.raises(NotMaterialized, match=r"current one is 3, and the older ones are: 2 "):
        history.rollback(stage.store, "raw", to, "back")
    assert stage.version.number == 3


def test_without_an_older_version_there_is_nothing_to_go_back_to(stage: Stage) -> None:
    with pytest.raises(NotMaterialized, match="never run"):
        history.rollback(stage.store, "raw", None, "back")
    stage.commit(x=frame(1))
    with pytest.raises(NotMaterialized, match="older ones are: none"):
        history.rollback(stage.store, "raw", None, "back")


def test_going_back_again_goes_further_back(instances: Instances) -> None:
    stage = Stage(instances(full="keep_versions: 9\n").get("full").store.table_store)
    for number in (1, 2, 3):
        stage.commit(x=frame(number))
    assert history.rollback(stage.store, "raw", None, "back")[1].number == 4
    assert stage.seen() == {"x": [(2,)]}
    history.rollback(stage.store, "raw", None, "back")
    assert stage.seen() == {"x": [(1,)]}
    with pytest.raises(NotMaterialized, match=r"go back further: the current one is 5 \(version 1 again\).*with --to"):
        history.rollback(stage.store, "raw", None, "back")
    assert stage.version.number == 5


def test_a_rollback_waits_for_the_run_that_writes_the_stage(stage: Stage) -> None:
    stage.commit(x=frame(1))
    stage.commit(x=frame(2))
    back = threading.Thread(target=history.rollback, args=(stage.store, "raw", 1, "back"))
    with stage.store.lock("raw", "writer"):
        back.start()
        time.sleep(0.5)
        assert back.is_alive()
        assert stage.version.number == 2
    back.join(30)
    assert stage.seen() == {"x": [(1,)]}


def test_a_rollback_keeps_foreign_views_and_grants(stage: Stage, connection: Connection) -> None:
    stage.commit(x=frame(1))
    connection.execute("GRANT USAGE ON SCHEMA full_raw TO PUBLIC")
    connection.execute("GRANT SELECT ON full_raw.x TO PUBLIC")
    connection.execute("CREATE VIEW public.theirs AS SELECT a FROM full_raw.x")
    stage.commit(x=frame(2))
    history.rollback(stage.store, "raw", None, "back")
    assert connection.execute("SELECT a FROM public.theirs").fetchall() == [(1,)]
    granted = connection.execute("SELECT relacl::text FROM pg_class WHERE oid = 'full_raw.x'::regclass").fetchone()
    assert granted is not None
    assert "=r/" in str(granted[0])


def test_the_run_after_a_rollback_brings_the_newer_version_back_without_running_a_task(instances: Instances) -> None:
    shop = Shop(instances().get("full"))
    shop.run()
    shop.rows, shop.fresh = [10], "tuesday"
    shop.run()
    store = shop.config.store.table_store
    roll_back(shop.config, "raw")
    roll_back(shop.config, "report")
    assert sorted(store.read(store.current(["raw"])["raw"].tables["orders"])["amount"]) == [1, 2, 3]
    assert {table.action for table in plan(shop.config, shop.flow().stages)} == {Action.shown}
    assert shop.run() == CACHED
    assert {table.action for table in plan(shop.config, shop.flow().stages)} == {Action.cached}
    assert shop.ran == []
    assert list(store.read(store.current(["raw"])["raw"].tables["orders"])["amount"]) == [10]
    assert store.current(["raw"])["raw"].number == 4
    shop.fresh = "wednesday"
    assert shop.run()["orders"] == "fresh input"


def test_a_rollback_shows_in_dagster_with_the_older_data_versions(
    instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    shop = Shop(instances().get("full"))
    shop.run()
    old = shop.config.store.table_store.current(["raw"])["raw"].tables["orders"].data_version
    shop.rows, shop.fresh = [10], "tuesday"
    shop.run()
    roll_back(shop.config, "raw")
    with dg.DagsterInstance.get() as dagster:
        event = dagster.get_latest_materialization_event(dg.AssetKey(["full", "raw", "orders"]))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.tags is not None
    assert event.asset_materialization.tags["dagster/data_version"] == old
    assert event.asset_materialization.metadata["dagster/row_count"].value == 3
    assert event.asset_materialization.metadata["pipedag/stage_version"].value == 3


def test_gc_says_what_it_freed_and_that_pinned_versions_stay(stage: Stage) -> None:
    stage.commit(x=frame(1))
    stage.store.pin("reader", ["raw"])
    for number in (2, 3, 4):
        stage.commit(x=frame(number))
    freed = removal.gc(stage.store, "gc")
    assert (freed.versions, freed.tables, freed.bytes) == (0, 0, 0)
    assert freed.stays == ("raw version 1: pinned by run reader",)
    stage.store.unpin("reader")
    freed = removal.gc(stage.store, "gc")
    assert (freed.versions, freed.tables, freed.stays) == (1, 1, ())
    assert freed.bytes > 0
    assert differences(stage.store) == []


def test_gc_names_the_objects_for_which_something_stays(stage: Stage, connection: Connection) -> None:
    stage.commit(x=frame(1))
    connection.execute("CREATE MATERIALIZED VIEW public.theirs AS SELECT a FROM full_raw.x")
    for number in (2, 3, 4):
        stage.commit(x=frame(number))
    stays = removal.gc(stage.store, "gc").stays
    assert any("public.theirs" in line or "materialized view theirs" in line for line in stays), stays


def test_gc_of_an_instance_that_was_never_run(instances: Instances) -> None:
    assert removal.gc(instances().get("full").store.table_store, "gc") == removal.CleanupReport(0, 0, 0, ())


def test_drop_takes_exactly_what_the_mark_names(instances: Instances, connection: Connection) -> None:
    files = instances(full_fresh="")
    full, fresh = (Stage(files.get(name).store.table_store) for name in ("full", "full_fresh"))
    full.commit(x=frame(1))
    fresh.commit(x=frame(2))
    connection.execute("CREATE SCHEMA full_mine")
    found = removal.drop(full.store)
    assert found == removal.Holdings(("full_pipedag", "full_raw", "full_raw__versions"), 1, found.bytes)
    assert schemas(connection) == {"full_mine", "full_fresh_pipedag", "full_fresh_raw", "full_fresh_raw__versions"}
    assert fresh.seen() == {"x": [(2,)]}
    assert differences(fresh.store) == []
    full.commit(x=frame(3))  # it can begin again
    assert full.version.number == 1


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE VIEW public.theirs AS SELECT a FROM full_raw.x", "view public.theirs"),
        ("CREATE TABLE full_raw.mine (a int)", "table full_raw.mine"),
        ("CREATE FUNCTION full_raw.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "function full_raw.f()"),
    ],
)
def test_drop_refuses_when_objects_of_others_are_in_the_way(
    stage: Stage, connection: Connection, made: str, named: str
) -> None:
    stage.commit(x=frame(1))
    before = schemas(connection)
    connection.execute(made.encode())
    with pytest.raises(InUse) as caught:
        removal.drop(stage.store)
    assert named in str(caught.value)
    assert schemas(connection) == before
    assert stage.seen()["x"] == [(1,)]


def test_drop_refuses_while_a_run_writes_or_reads(stage: Stage) -> None:
    stage.commit(x=frame(1))
    with stage.store.lock("raw", "writer"), pytest.raises(RunActive, match="pipedag run writer"):
        removal.drop(stage.store)
    stage.store.pin("reader", ["raw"])
    with pytest.raises(RunActive, match="run reader reads raw version 1"):
        removal.drop(stage.store)
    stage.store.unpin("reader")
    assert removal.drop(stage.store).tables == 1


def test_what_a_run_that_died_has_pinned_is_dropped_with_force(stage: Stage) -> None:
    stage.commit(x=frame(1))
    stage.store.pin("dead", ["raw"])
    with pytest.raises(RunActive, match="--force"):
        removal.drop(stage.store)
    assert removal.drop(stage.store, force=True).tables == 1


def test_drop_of_many_tables_goes_in_batches(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "_ONE_TRANSACTION", 3)
    monkeypatch.setattr(removal, "_BATCH", 2)
    stage.commit(**{f"t{number}": frame(number) for number in range(5)})
    assert removal.drop(stage.store).tables == 5
    assert removal.holdings(stage.store) == removal.Holdings((), 0, 0)


# The commands


def test_versions_shows_what_a_sample_was_copied_from(
    command: Command,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    command("run", "full")
    command("run", "midi")
    shown = command("versions", "midi", "raw").out
    assert "+customers, +orders" in shown
    assert "sampled from full 1; current" in shown
    Stage(PipedagConfig(project / "instances").get("full").store.table_store).commit(orders=frame(1))
    assert "sampled from full 1; full is now at 2; current" in command("versions", "midi", "raw").out


def test_drop_asks_first(command: Command, project: Path) -> None:
    command("run", "full")
    asked = CliRunner().invoke(cli, ["drop", "full"], input="n\n")
    assert "Drop full: 5 schemas, 4 tables, " in asked.output
    assert asked.output.endswith("Nothing was dropped.\n")
    assert command("list", "full").out.count("version 1") == 2


def test_drop_without_an_answer_drops_nothing_and_names_the_option(command: Command) -> None:
    command("run", "full")
    asked = CliRunner().invoke(cli, ["drop", "full"], input="")
    assert asked.exit_code == 1
    assert "There was no answer. Nothing was dropped. With --yes, the command does not ask." in asked.stderr
    assert command("list", "full").out.count("version 1") == 2


def test_rollback_gc_and_drop_from_the_command_line(command: Command, project: Path) -> None:
    command("run", "full")
    assert "older ones are: none" in command("rollback", "full", "raw").err
    Stage(PipedagConfig(project / "instances").get("full").store.table_store).commit(orders=frame(1))
    done = command("rollback", "full", "raw", "--to", "1")
    assert done.code == 0
    assert done.out.startswith("full raw: version 3 is visible now (rollback to 1).\nThe next run makes newer results")
    assert "Did you mean 'raw'" in command("versions", "full", "ra").err
    assert command("gc").out.startswith("full: freed 0 versions, 0 tables, 0 bytes\n")
    done = command("drop", "full", "--yes")
    assert done.code == 0, done.err
    assert "  full_raw__versions\n" in done.out
    assert "full: dropped" in done.out
    assert command("drop", "full", "--yes").out == "full has nothing in the database.\n"
