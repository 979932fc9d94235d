"""`pipedag-dagster keep`: a line in the file of all instances; the rest of the file stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipedag_dagster.config.instances import ConfigFiles
from pipedag_dagster.config.yaml_edit import with_item
from pipedag_dagster_tests.helpers.command_line import Command

WHY = 'it is "wrong": #1'


def shared(project: Path) -> Path:
    return project / "instances" / "__any__.yaml"


# ---- the command -----------------------------------------------------------------------------------------------


def test_kept_rows_are_written_for_all_instances_and_it_says_what_to_type(full: Command, project: Path) -> None:
    before = shared(project).read_text()
    done = full("keep", "raw.orders", "customer = 2", "--because", WHY)
    assert done.code == 0, done.err
    line = len(before.splitlines()) + 3
    assert done.out.splitlines() == [
        f"{shared(project)}:{line}: raw.orders keeps the rows with customer = 2 (1 of 3 in full).",
        "They are in midi and mini from the next run on. Now type:",
        "  pipedag-dagster run midi",
        "  pipedag-dagster run mini",
    ]
    assert shared(project).read_text().startswith(before)
    [kept] = ConfigFiles(project / "instances").instance("mini").sample.keep
    assert (kept.table, kept.where, kept.because) == ("raw.orders", "customer = 2", WHY)


def test_kept_rows_and_what_they_refer_to_are_in_the_smallest_instance(
    command: Command, project: Path, connection: psycopg.Connection[Any]
) -> None:
    shared(project).write_text(
        shared(project).read_text() + "sample: {tables: {orders: {rows: 1}, customers: parents}, "
        "relations: [orders.customer -> customers.id]}\n"
    )
    command("run", "full")
    kept = "amount IN (5, 9)"  # of both customers
    assert command("keep", "orders", kept).code == 0
    done = command("run", "mini")
    assert done.code == 0, done.err
    orders = connection.execute("SELECT amount FROM mini_raw.orders").fetchall()
    assert {5, 9} <= {amount for (amount,) in orders}
    assert connection.execute("SELECT id FROM mini_raw.customers ORDER BY id").fetchall() == [(1,), (2,)]


def test_a_run_refuses_functions_that_may_change(
    command: Command, project: Path, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("CREATE FUNCTION lucky(bigint) RETURNS boolean LANGUAGE SQL AS 'SELECT $1 = 5'")
    section = "sample: {tables: {orders: {where: lucky(amount)}}}\n"
    shared(project).write_text(shared(project).read_text() + section)
    command("run", "full")
    done = command("run", "midi")
    assert done.code == 1
    assert "lucky() in a condition may have another result every time" in done.err


@pytest.mark.parametrize(("table", "rows"), [("orders", "customer = 2"), ("RAW.orders", "(CUSTOMER = 2)")])
def test_the_same_rows_are_kept_once(full: Command, project: Path, table: str, rows: str) -> None:
    full("keep", "raw.orders", "customer = 2")
    before = shared(project).read_bytes()
    done = full("keep", table, rows)
    assert done.code == 0, done.err
    assert "raw.orders keeps these rows already. They are in midi and mini" in done.out
    assert shared(project).read_bytes() == before


def test_a_condition_is_not_tried_where_the_source_has_never_run(command: Command, project: Path) -> None:
    done = command("keep", "raw.orders", "customer = 2")
    assert done.code == 0, done.err
    assert "(not tried, because full has no raw.orders yet)" in done.out


@pytest.mark.parametrize(
    ("table", "rows", "said"),
    [
        ("raw.ordrs", "id = 1", "no input task makes a table 'raw.ordrs'. Did you mean 'raw.orders'?"),
        ("report.revenue", "id = 1", "no input task makes a table 'report.revenue'."),
        ("orders", "id =", "'id =' is not a condition in SQL."),
        ("orders", "amount > random()", "random() has another result every time"),
        ("orders", "custmer = 2", "keep: raw.orders: there is no column 'custmer'. Did you mean 'customer'?"),
        ("orders", "customer = 7", "no row of raw.orders in full is meant by customer = 7. Nothing was written."),
        ("orders", "amount", "the database refuses amount: argument of WHERE must be type boolean, not type bigint."),
        ("orders", "pg_temp_table(amount)", "pg_temp_table() has another result every time"),
        (
            "orders",
            "ceiling_of(amount)",
            "the database refuses ceiling_of(amount): function ceiling_of(bigint) does not",
        ),
    ],
)
def test_a_mistake_is_said_and_nothing_is_written(
    full: Command, project: Path, table: str, rows: str, said: str
) -> None:
    before = shared(project).read_bytes()
    done = full("keep", table, rows)
    assert done.code == 1
    assert said in done.err
    assert shared(project).read_bytes() == before


def test_a_function_of_the_user_has_to_be_immutable(
    full: Command, project: Path, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("CREATE FUNCTION lucky(bigint) RETURNS boolean LANGUAGE SQL AS 'SELECT $1 = 5'")
    assert "lucky() may have another result every time" in full("keep", "orders", "lucky(amount)").err
    connection.execute("ALTER FUNCTION lucky IMMUTABLE")
    assert "(1 of 3 in full)" in full("keep", "orders", "lucky(amount)").out


def test_a_file_that_cannot_be_added_to_is_left_alone(command: Command, project: Path) -> None:
    text = shared(project).read_text() + "sample: {keep: [\n  {table: raw.orders, where: id = 1} # a comment\n]}\n"
    shared(project).write_text(text)
    done = command("keep", "raw.orders", "id = 2")
    assert done.code == 1
    assert 'Add to sample.keep: {table: "raw.orders", where: "id = 2"}' in done.err
    assert shared(project).read_text() == text


# ---- the file --------------------------------------------------------------------------------------------------

ITEM = {"table": "raw.t", "where": "a = 'b'"}
BLOCK = "{i}- table: raw.t\n{i}  where: \"a = 'b'\"\n"
FLOW = "{table: raw.t, where: \"a = 'b'\"}"

FILES: dict[str, tuple[str, str]] = {
    "empty": ("", "sample:\n  keep:\n" + BLOCK.format(i=" " * 4)),
    "only a comment": ("# ours\n", "# ours\nsample:\n  keep:\n" + BLOCK.format(i=" " * 4)),
    "no last newline": ("a: 1", "a: 1\nsample:\n  keep:\n" + BLOCK.format(i=" " * 4)),
    "an empty section": ("sample: # s\nb: 2\n", "sample: # s\n  keep:\n" + BLOCK.format(i=" " * 4) + "b: 2\n"),
    "a section": (
        "sample:\n    seed: 1  # s\n\n# b\nb: 2\n",
        "sample:\n    seed: 1  # s\n    keep:\n" + BLOCK.format(i=" " * 6) + "\n# b\nb: 2\n",
    ),
    "a list": (
        "sample:\n  keep:\n    - {table: x, where: y}   # why\n    # more\n  seed: 1\n",
        "sample:\n  keep:\n    - {table: x, where: y}   # why\n" + BLOCK.format(i=" " * 4) + "    # more\n  seed: 1\n",
    ),
    "a list at the indent of its key": (
        "sample:\n  keep:\n  - table: x\n    where: y\n  seed: 1\n",
        "sample:\n  keep:\n  - table: x\n    where: y\n" + BLOCK.format(i="  ") + "  seed: 1\n",
    ),
    "an empty list": ("sample: {keep: []} # k\n", f"sample: {{keep: [{FLOW}]}} # k\n"),
    "a list in brackets": (
        "sample:\n  keep: [{table: x, where: y}] # k\n",
        f"sample:\n  keep: [{{table: x, where: y}}, {FLOW}] # k\n",
    ),
    "a list in brackets with a comma at its end": (
        "sample:\n  keep: [\n    {table: x, where: y},\n  ]\n",
        f"sample:\n  keep: [\n    {{table: x, where: y}}, {FLOW}\n  ]\n",
    ),
    "a section in braces": ("sample: {seed: 1}\n", f"sample: {{seed: 1, keep: [{FLOW}]}}\n"),
    "a file in braces": ("{a: 1}\n", f"{{a: 1, sample: {{keep: [{FLOW}]}}}}\n"),
    "other ends of lines": (
        "sample:\r\n  seed: 1\r\n",
        "sample:\r\n  seed: 1\r\n  keep:\r\n" + BLOCK.format(i=" " * 4).replace("\n", "\r\n"),
    ),
}


@pytest.mark.parametrize(("before", "after"), FILES.values(), ids=FILES)
def test_an_item_is_added_as_the_file_is_written(before: str, after: str) -> None:
    assert with_item(before, ["sample", "keep"], ITEM) == after


def test_an_item_is_added_to_one_file_for_all_instances() -> None:
    before = "instances:\n  full: {}\n  midi: {}\nname: shop\n"
    after = with_item(before, ["instances", "__any__", "sample", "keep"], ITEM)
    added = "  __any__:\n    sample:\n      keep:\n" + BLOCK.format(i=" " * 8)
    assert after == f"instances:\n  full: {{}}\n  midi: {{}}\n{added}name: shop\n"


@pytest.mark.parametrize(
    "text",
    [
        "a: &k\n  - {table: x, where: y}\nsample: {keep: *k}\n",
        "sample: [\n  1 # comment\n]\n",
        "sample: 5\n",
        "sample: {keep: {a: 1 # comment\n}}\n",
        "sample:\n\tkeep: []\n",
    ],
)
def test_what_is_not_understood_is_not_touched(text: str) -> None:
    assert with_item(text, ["sample", "keep"], ITEM) is None


@given(st.text(), st.text())
def test_any_text_is_read_back_as_it_was_given(where: str, because: str) -> None:
    after = with_item("a: 1\n", ["sample", "keep"], {"where": where, "because": because})
    if after is not None:  # YAML has no way to write some characters
        assert yaml.safe_load(after)["sample"]["keep"] == [{"where": where, "because": because}]
    else:
        assert not (where + because).isprintable()
