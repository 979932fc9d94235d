"""The command `pipedag-dagster` on a small project, as somebody who types it sees it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from pipedag_dagster.cli.lazy_group import COMMANDS
from pipedag_dagster.cli.main import cli
from pipedag_dagster_tests.helpers import SECRET
from pipedag_dagster_tests.helpers.command_line import Command

SEED = Path(__file__).parents[1] / "examples" / "seed"


def rows(summary: str) -> dict[str, list[str]]:
    """The lines of a summary: what is beside each table, words that follow each other in one piece."""
    cells = (re.split(r"\s{2,}", line.strip()) for line in summary.splitlines()[2:])
    return {table: rest for table, *rest in cells}


# run


def test_run_shows_each_table_with_its_rows_why_it_ran_and_how_long_it_took(command: Command) -> None:
    done = command("run", "full")
    assert done.code == 0, done.err
    title, header, *_ = done.out.splitlines()
    assert re.match(r"full  4 of 4 tables ran in \d+\.\d s", title)
    assert header.split() == ["table", "rows", "what", "seconds"]
    summary = rows(done.out)
    assert list(summary) == ["raw", "orders", "customers", "report", "revenue", "ranking"]
    assert summary["raw"] == ["version 1"]
    for table, count in (("orders", "3"), ("customers", "2"), ("revenue", "2"), ("ranking", "2")):
        assert summary[table][:2] == [count, "ran: new"]
        assert re.fullmatch(r"\d+\.\d\d", summary[table][2])


def test_a_second_run_shows_everything_cached(full: Command) -> None:
    done = full("run", "full")
    assert done.code == 0, done.err
    assert re.match(r"full  0 of 4 tables ran", done.out)
    assert rows(done.out)["orders"] == ["3", "cached"]
    assert rows(done.out)["ranking"] == ["2", "cached"]


def test_a_small_instance_has_its_few_rows(full: Command) -> None:
    assert rows(full("run", "midi").out)["orders"][0] == "2"
    assert rows(full("run", "mini").out)["orders"][0] == "1"


def test_run_before_its_source_says_what_to_run(command: Command) -> None:
    done = command("run", "midi")
    assert (done.code, done.out) == (1, "")
    assert "pipedag-dagster run full" in done.err


@pytest.mark.parametrize(
    ("selection", "tables"),
    [
        ("report", {"revenue", "ranking"}),
        ("REPORT.Revenue", {"revenue"}),
        ("group:report", {"revenue", "ranking"}),
        ('key:"full/raw/orders"', {"orders"}),
        ('+key:"full/report/revenue"', {"orders", "revenue"}),
        ('key:"full/raw/orders"+1', {"orders", "revenue"}),
        ('key:"full/raw/orders"+', {"orders", "revenue", "ranking"}),
        ("*", {"orders", "customers", "revenue", "ranking"}),
    ],
)
def test_select_runs_some_of_the_tables(full: Command, selection: str, tables: set[str]) -> None:
    done = full("run", "full", "--select", selection)
    assert done.code == 0, done.err
    assert set(rows(done.out)) - {"raw", "report"} == tables


def test_an_empty_selection_is_an_error_that_names_what_was_meant(command: Command) -> None:
    done = command("run", "full", "--select", "reprot")
    assert (done.code, done.out) == (1, "")
    assert "Error: --select 'reprot' selects no table. Did you mean 'report'?" in done.err
    assert command("run", "full", "--select", "report.rankings").err.endswith("Did you mean 'report.ranking'?\n")
    assert command("run", "full", "--select", "group:nothing").code == 1


def test_an_unknown_instance_is_an_error_that_names_what_was_meant(command: Command) -> None:
    done = command("run", "ful")
    assert (done.code, done.out) == (1, "")
    assert done.err == "Error: There is no instance 'ful'. Did you mean 'full'?\n"


def test_cache_mode_is_for_this_run(full: Command) -> None:
    forced = full("run", "full", "--cache-mode", "force_cache_invalid")
    assert forced.code == 0, forced.err
    assert {table: what[1] for table, what in rows(forced.out).items() if len(what) > 1} == {
        "orders": "ran: forced",
        "customers": "ran: forced",
        "revenue": "ran: forced",
        "ranking": "ran: forced",
    }
    assert "ran:" not in full("run", "full").out
    refused = full("run", "full", "--cache-mode", "forced")
    assert refused.code == 2
    assert "'force_cache_invalid'" in refused.err


def test_a_failing_task_ends_in_its_message_and_the_users_own_traceback(
    command: Command, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_BROKEN", "yes")
    done = command("run", "full")
    assert (done.code, done.out) == (1, "")
    frames = re.findall(r'File "(.*)", line \d+, in (\w+)', done.err)
    assert frames == [(str(project / "shop_flow.py"), "ranking"), (str(project / "shop_flow.py"), "sort")]
    assert 'raise ValueError("this is broken")' in done.err
    assert done.err.endswith(
        "Error: report.ranking failed: ValueError: this is broken\n"
        "(task report.ranking, instance 'full', input tables: report.revenue)\n"
        "Stage 'report' was not committed: there is no version before. The next run reuses what has finished.\n"
    )


def test_a_failing_task_commits_nothing_of_its_stage_and_what_was_done_is_reused(
    command: Command, database_url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_BROKEN", "yes")
    command("run", "full")
    with psycopg.connect(database_url.render_as_string(hide_password=False)) as connection:
        views = connection.execute("SELECT schemaname, viewname FROM pg_views WHERE schemaname LIKE 'full%'").fetchall()
    assert sorted(views) == [("full_raw", "customers"), ("full_raw", "orders")]
    monkeypatch.delenv("SHOP_BROKEN")
    assert rows(command("run", "full").out)["revenue"] == ["2", "cached"]


def test_progress_is_lines_of_text_where_there_is_no_terminal(command: Command) -> None:
    told = command("run", "full").err.splitlines()
    assert [line.partition(":")[0] for line in told] == ["raw.load", "report.revenue", "report.ranking"]
    assert all(re.search(r": new \(\d+\.\d s\)$", line) for line in told)


def test_output_has_no_colours_where_there_is_no_terminal_and_fits_80_columns(command: Command) -> None:
    printed = command("run", "full").out + command("list").out + command("check").out
    assert "\x1b" not in printed
    tables = [line for line in printed.splitlines() if str(Path.cwd()) not in line]
    assert max(map(len, tables)) <= 80


# list


def test_list_shows_instances_stages_tables_and_versions(full: Command) -> None:
    done = full("list")
    assert done.code == 0, done.err
    full, _, rest = done.out.partition("midi (")
    assert "full (shop_definitions:full)" in full
    assert "raw: version 1, schema full_raw" in full
    assert "orders: 3 rows" in full
    assert "report: version 1, schema full_report" in full
    assert "inputs copied from full" in rest
    assert "raw: never run, schema midi_raw" in rest
    assert "mini (" in rest


def test_list_of_one_instance_shows_only_that(command: Command) -> None:
    out = command("list", "mini").out
    assert "schema mini_raw" in out
    assert "schema full_raw" not in out
    assert command("list", "minni").err == "Error: There is no instance 'minni'. Did you mean 'mini'?\n"


# check


def test_check_of_a_project_without_mistakes_names_what_it_has_looked_at(command: Command, project: Path) -> None:
    done = command("check")
    assert done.code == 0, done.err
    assert f"{project / 'instances'}: full, midi, mini" in done.out
    assert "shop_definitions:full: full, 4 tables" in done.out
    assert done.out.endswith("Everything is right.\n")


def test_check_names_the_mistakes_of_all_files_and_all_modules_at_once(command: Command, project: Path) -> None:
    (project / "instances" / "midi.yaml").write_text("attrs: {}\nfail_fsat: true\n")
    (project / "instances" / "mini.yaml").write_text("keep_versions: many\n")
    (project / "broken_one.py").write_text("import pandas\n\nundefined_name\n")
    (project / "broken_two.py").write_text("from pipedag_dagster import Stage\n\nwith Stage('raw'):\n    pass\n")
    (project / "workspace.yaml").write_text(
        "load_from:\n  - python_module: broken_one\n  - python_file: broken_two.py\n  - python_module: not_there\n"
    )
    done = command("check")
    assert done.code == 1
    assert "Everything is right" not in done.out
    assert re.search(r"midi\.yaml:2: fail_fsat: unknown key\. Did you mean 'fail_fast'", done.err)
    assert re.search(r"mini\.yaml:1: .*keep_versions", done.err)
    assert re.search(
        r"workspace\.yaml:2: broken_one cannot be loaded: NameError: .*undefined_name.*broken_one\.py:3\)", done.err
    )
    assert re.search(
        r"workspace\.yaml:3: .*broken_two\.py cannot be loaded: Stage 'raw' is opened outside of a flow.*py:3\)",
        done.err,
    )
    assert re.search(r"workspace\.yaml:4: not_there cannot be loaded: ModuleNotFoundError", done.err)


@pytest.mark.parametrize(
    ("workspace", "message"),
    [
        ("load_from:\n  - python_module: {attribute: full}\n", r"workspace\.yaml:2: module_name is missing"),
        ("load_from: []\n", r"has no definitions made by build_definitions"),
        (
            "load_from:\n  - python_module: {module_name: shop_definitions, attribute: fulll}\n",
            r"workspace\.yaml:2: shop_definitions cannot be loaded: .*'fulll'",
        ),
        ("load_from: [\n", r"workspace\.yaml:\d: "),
        ("load_from:\n  - grpc_server: {host: a, port: 1}\n", r"workspace\.yaml:2: grpc_server: .* -m my_pipeline"),
    ],
)
def test_check_names_what_is_wrong_with_the_workspace(
    command: Command, project: Path, workspace: str, message: str
) -> None:
    (project / "workspace.yaml").write_text(workspace)
    done = command("check")
    assert done.code == 1
    assert re.search(message, done.err), done.err


def test_check_of_a_workspace_that_is_not_there_is_an_error(command: Command) -> None:
    done = command("check", "-w", "elsewhere.yaml")
    assert done.code == 1
    assert "There is no elsewhere.yaml. Name the module of your definitions: -m " in done.err


def test_check_of_the_seed_says_what_is_not_needed(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = tmp_path / "password.yaml"
    password.write_text(f"username: clerk\npassword: {SECRET}\nhost: localhost\nport: 5432\n")
    monkeypatch.setenv("POSTGRES_PASSWORD_CFG", str(password))
    done = command("check", "-c", str(SEED / "pipedag.yaml"))
    assert done.code == 0, done.err
    assert re.search(r"^not needed: .*network_interface \(.*pipedag\.yaml:\d+\)$", done.out, re.MULTILINE)
    assert re.search(r"^not needed: .*kroki_url \(.*pipedag\.yaml:\d+\)$", done.out, re.MULTILINE)
    assert "Everything is right." in done.out
    monkeypatch.delenv("POSTGRES_PASSWORD_CFG")
    missing = command("check", "-c", str(SEED / "pipedag.yaml"))
    assert missing.code == 1
    assert "POSTGRES_PASSWORD_CFG" in missing.err


# The command as a whole


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_every_command_has_help(name: str | None) -> None:
    done = CliRunner().invoke(cli, [*filter(None, [name]), "--help"])
    assert done.exit_code == 0
    usage, text, *rest = done.output.split("\n\n")
    assert usage.startswith("Usage: ")
    assert re.fullmatch(r"  [A-Z].*\.", text, re.DOTALL)
    assert any(part.startswith("Options:") for part in rest)


def test_a_misspelt_cache_mode_is_refused_with_the_one_that_was_meant(command: Command) -> None:
    done = command("run", "full", "--cache-mode", "norml")
    assert done.code == 2
    assert "there is no mode 'norml'. Did you mean 'normal'?" in done.err


def test_a_word_that_is_no_command_is_an_error_with_exit_code_2(command: Command) -> None:
    done = command("runn", "full")
    assert done.code == 2
    assert "There is no command 'runn'. Did you mean 'run'?" in done.err


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | more


def test_the_installed_command_runs_an_instance(project: Path) -> None:
    installed = Path(sys.executable).with_name("pipedag-dagster")
    done = subprocess.run([installed, "run", "full"], cwd=project, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 tables ran" in done.stdout


def test_ctrl_c_ends_a_run_at_once_with_exit_code_130_and_one_line(project: Path, command: Command) -> None:
    command("run", "full", "-s", "raw")
    arguments = [sys.executable, "-m", "pipedag_dagster.cli.main", "run", "full"]
    slow = environment(SHOP_SLOW="600")
    with subprocess.Popen(arguments, cwd=project, env=slow, stdout=-1, stderr=-1, text=True) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("report.revenue"):
            assert process.poll() is None
        time.sleep(1)  # the slow task has begun
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)  # long before the task ends
    assert process.returncode == 130, err
    assert out == ""
    assert [line for line in err.splitlines() if line] == [
        "Interrupted. The stage that was running is unchanged, and the results of its finished tasks are reused."
    ]
    assert rows(command("run", "full").out)["revenue"] == ["2", "cached"]


def test_check_database_names_what_the_catalog_and_the_database_see_differently(
    project: Path, full: Command, database_url: sa.URL
) -> None:
    assert full("check", "--database").code == 0
    uri = database_url.render_as_string(hide_password=False)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP VIEW full_raw.orders")
        connection.execute("CREATE TABLE full_raw__versions.stray (x int)")
    done = full("check", "--database")
    assert done.code == 1
    assert '"full_raw"."orders" should show orders_' in done.err
    assert 'full: left over: "full_raw__versions"."stray" is not in the catalog' in done.out


def test_roles_prints_the_sql_for_every_instance_that_has_a_role(tmp_path: Path) -> None:
    folder = tmp_path / "instances"
    folder.mkdir()
    role = 'table_store: {args: {url: "postgresql://localhost/shop", schema_prefix: "{instance_id}_"%s}}\nname: shop\n'
    (folder / "__any__.yaml").write_text(role % ', role: "shop_{instance_id}"')
    (folder / "full.yaml").write_text("")
    (folder / "mini.yaml").write_text("attrs: {copy_filtered_input: true, copy_source: full}\n")
    done = CliRunner().invoke(cli, ["roles", str(folder)])
    assert done.exit_code == 0
    assert 'CREATE ROLE "shop_full"' in done.output
    assert 'ALTER DEFAULT PRIVILEGES FOR ROLE "shop_full" GRANT SELECT ON TABLES TO "shop_mini";' in done.output
    (folder / "__any__.yaml").write_text(role % "")
    assert "has a role. Give each instance one" in str(CliRunner().invoke(cli, ["roles", str(folder)]).exception)
