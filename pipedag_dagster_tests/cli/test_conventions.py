"""What holds for every command: JSON for programs, examples, exit codes, variables of the environment."""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import click
import pytest

from pipedag_dagster.cli.lazy_group import COMMANDS
from pipedag_dagster_tests.helpers.command_line import Command


def commands() -> Iterator[tuple[str, click.Command]]:
    """Each command by its words."""
    for name, entry in COMMANDS.items():
        command = getattr(importlib.import_module(f"pipedag_dagster.cli.{entry.module}"), entry.attribute)
        if isinstance(command, click.Group):
            yield from ((f"{name} {other}", command.commands[other]) for other in command.commands)
        else:
            yield name, command


BY_NAME = dict(commands())


@pytest.mark.parametrize("name", BY_NAME)
def test_each_command_has_an_example_in_its_help(name: str) -> None:
    assert re.search(rf"^ +pipedag-dagster {name}\b", BY_NAME[name].help or "", re.MULTILINE)


def test_the_help_names_exit_codes_and_variables(command: Command) -> None:
    done = command("--help")
    assert "130  interrupted" in done.out
    assert "PIPEDAG_MODULE" in done.out


def test_a_wrong_option_has_its_own_exit_code(command: Command) -> None:
    assert command("list", "--jsn").code == 2


def loaded(text: str) -> Any:
    return json.loads(text)


def test_list_as_json_has_every_table(command: Command) -> None:
    command("run", "full")
    full, midi, _ = loaded(command("list", "--json").out)
    assert (full["instance"], midi["copy_source"]) == ("full", "full")
    raw = full["stages"][0]
    assert (raw["stage"], raw["version"]) == ("raw", 1)
    assert {table["asset"]: table["rows"] for table in raw["tables"]} == {"orders": 3, "customers": 2}
    assert {table["kind"] for stage in midi["stages"] for table in stage["tables"]} == {None}


def test_a_run_as_json_has_its_tables_and_sentences_go_elsewhere(command: Command) -> None:
    done = command("run", "full", "--json")
    (made,) = loaded(done.out)
    assert made["successful"]
    assert made["errors"] == []
    assert [(table["stage"], table["table"], table["cached"], table["reason"]) for table in made["tables"]] == [
        ("raw", "orders", False, "new"),
        ("raw", "customers", False, "new"),
        ("report", "revenue", False, "new"),
        ("report", "ranking", False, "new"),
    ]
    (again,) = loaded(command("run", "full", "--json").out)
    assert all(table["cached"] for table in again["tables"])


def test_a_failed_run_as_json_names_the_task_and_its_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_BROKEN", "yes")
    done = command("run", "full", "--json")
    (made,) = loaded(done.out)
    assert done.code == 1
    assert not made["successful"]
    (error,) = made["errors"]
    assert error["task"] == "report.ranking"
    assert error["line"].startswith("shop_flow.py:")
    assert "this is broken" in error["message"]
    assert "this is broken" in done.err


def test_versions_as_json_say_what_changed(command: Command) -> None:
    command("run", "full")
    (version,) = loaded(command("versions", "full", "report", "--json").out)
    assert (version["number"], version["changes"]["added"]) == (1, ["ranking", "revenue"])


def test_gc_as_json_says_what_was_freed(command: Command) -> None:
    command("run", "full")
    assert loaded(command("gc", "full", "--json").out) == {
        "full": {"versions": 0, "tables": 0, "bytes": 0, "stays": [], "blobs": 0}
    }


def test_a_sample_as_json_has_its_rows_and_what_brings_them(command: Command) -> None:
    command("run", "full")
    planned = loaded(command("sample", "plan", "mini", "--json").out)
    assert {table["table"]: table["rows"] for table in planned["tables"]}["raw.orders"] == 1
    command("run", "mini")
    report = {table["table"]: table for table in loaded(command("sample", "report", "mini", "--json").out)}
    assert (report["raw.orders"]["rows"], report["raw.orders"]["source_rows"]) == (1, 3)


def test_a_plan_as_json_has_what_would_run_and_why(command: Command) -> None:
    planned = loaded(command("plan", "full", "--json").out)
    assert {(table["asset"], table["action"], table["reason"]) for table in planned if table["stage"] == "raw"} == {
        ("orders", "runs", "new"),
        ("customers", "runs", "new"),
    }


def test_runs_of_a_table_as_json_say_why(command: Command) -> None:
    command("run", "full")
    command("run", "full")
    last, first = loaded(command("explain", "full", "raw.orders", "--json").out)
    assert (last["cached"], first["reason"], first["diff"]) == (True, "new", None)


def test_a_check_as_json_lists_the_problems(command: Command) -> None:
    assert loaded(command("check", "--json").out) == {"problems": []}


def test_verbose_prints_the_whole_traceback_and_then_the_message(command: Command) -> None:
    done = command("-v", "list", "ful")
    logging.getLogger("pipedag_dagster").setLevel(logging.NOTSET)  # the command ran in this process
    assert "Traceback" in done.err
    assert done.err.endswith("Error: There is no instance 'ful'. Did you mean 'full'?\n")


def test_the_environment_chooses_the_module(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPEDAG_MODULE", "no_such_module")
    done = command("list")
    assert done.code == 1
    assert "no_such_module" in done.err
