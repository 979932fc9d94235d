"""`diff`: comparing instances and versions from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipedag_dagster_tests.helpers.command_line import Command


def test_two_instances_are_compared(full_and_midi: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    done = full_and_midi("diff", "full", "midi")
    assert (done.code, done.err) == (0, "")
    first, header, *lines = (line.split() for line in done.out.splitlines())
    assert " ".join(first) == "full → midi: 3 of 4 tables differ."
    assert header == ["table", "rows", "in", "both", "only", "full", "only", "midi", "changed", "what"]
    assert ["raw.orders", "3", "→", "2", "2", "1", "0", "0", "rows"] in lines
    assert "  only in full: id=" in done.out


def test_rows_are_compared_by_the_columns_of_the_option(full_and_midi: Command) -> None:
    done = full_and_midi("diff", "full", "midi", "report.revenue", "--key", "customer")
    assert "rows are the same by customer" in done.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("full", "midi", "--exit-code"), 1),
        (("full", "midi", "raw.customers", "--exit-code"), 0),
        (("full", "midi"), 0),
        (("full", "midi", "raw.nothing", "--exit-code"), 2),
        (("full", "midi", "raw.nothing"), 1),
        (("full", "full", "raw"), 1),
        (("full", "mini"), 1),
    ],
)
def test_the_exit_code_says_whether_something_differs(
    full_and_midi: Command, arguments: tuple[str, ...], code: int
) -> None:
    assert full_and_midi("diff", *arguments).code == code


def test_the_comparison_is_printed_as_json_and_as_markdown(full_and_midi: Command) -> None:
    (table,) = json.loads(full_and_midi("diff", "full", "midi", "raw.orders", "--json").out)["tables"]
    assert (table["left_rows"], table["right_rows"], table["only_left"], table["key"]) == (3, 2, 1, ["id"])
    printed = full_and_midi("diff", "full", "midi", "raw.orders", "--markdown").out
    assert printed.startswith("### full → midi: 1 of 1 table differs.\n")
    assert "| raw.orders | 3 → 2 | 2 | 1 | 0 | 0 | rows |" in printed


def test_the_comparison_is_written_as_a_page(full_and_midi: Command, tmp_path: Path) -> None:
    done = full_and_midi("diff", "full", "midi", "--html", "diff.html")
    assert "Written: diff.html" in done.err
    assert '<h2 id="raw.orders">' in (tmp_path / "diff.html").read_text()


def test_without_another_instance_the_last_commits_are_compared(full_and_midi: Command, project: Path) -> None:
    done = full_and_midi("diff", "full")
    assert done.code == 1
    assert "has an older version to compare with" in done.err
    assert full_and_midi("rollback", "full", "raw").code == 1
    assert full_and_midi("run", "full", "--cache-mode", "force_cache_invalid").code == 0
    assert "tables are equal" in full_and_midi("diff", "full").out
    assert (
        "full raw version 1 → full raw version 2: all 2 tables are equal."
        in full_and_midi("diff", "full", "raw", "--versions", "1", "2").out
    )


def test_another_configuration_is_compared_by_against(full_and_midi: Command, project: Path) -> None:
    """As that of another checkout: here it has another prefix, and was run."""
    shutil.copytree(project / "instances", project / "main" / "instances")
    shared = project / "main" / "instances" / "__any__.yaml"
    same = full_and_midi("diff", "midi", "--against", "main/instances")
    assert (same.code, same.out) == (1, "")
    assert "are the same tables" in same.err
    shared.write_text(shared.read_text().replace('"{instance_id}_"', '"main_{instance_id}_"'))
    never = full_and_midi("diff", "midi", "--against", "main/instances")
    assert "Instance 'midi' was never run" in never.err
    for name in ("full", "midi"):
        definitions = project / "shop_definitions.py"
        text = definitions.read_text()
        definitions.write_text(text.replace('/ "instances"', '/ "main" / "instances"'))
        # The module is loaded by its path, as that of mini in the workspace is.
        (project / "main.yaml").write_text(
            f"load_from: [{{python_file: {{relative_path: shop_definitions.py, attribute: {name}}}}}]\n"
        )
        assert full_and_midi("run", name, "-w", "main.yaml").code == 0
        definitions.write_text(text)
    for path in ("main", "main/instances"):  # the folder of the checkout, or its configuration
        done = full_and_midi("diff", "midi", "--against", path)
        assert done.out == f"midi of {path} → midi: all 4 tables are equal.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("full", "mid"), "Did you mean 'midi'?"),
        (("full", "midi", "--versions", "1", "2"), "compare full alone"),
        (("full", "midi", "raw", "report"), "too many names"),
        (("full", "midi", "--key", "id"), "--key belongs to one table"),
        (("full", "--versions", "1", "2"), "Name a stage: raw, report"),
    ],
)
def test_a_mistake_is_explained(full_and_midi: Command, arguments: tuple[str, ...], message: str) -> None:
    done = full_and_midi("diff", *arguments)
    assert done.code != 0
    assert message in done.err
