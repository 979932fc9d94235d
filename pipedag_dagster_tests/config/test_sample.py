"""What the section `sample` may say, and what is said about mistakes in it, before any table is known."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from pipedag_dagster.config.instances import ConfigFiles
from pipedag_dagster.errors import ConfigError

SHARED = 'table_store: {args: {url: "postgresql://db/shop", schema_prefix: "{instance_id}_"}}\n'
COPY = "attrs: {copy_filtered_input: true, copy_source: full}\n"

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write a folder of instances: full and those that are given. `any` is added to what all share."""

    def write(any: str = "", **files: str) -> Path:
        (tmp_path / "__any__.yaml").write_text(SHARED + textwrap.dedent(any))
        for name, text in ({"full": ""} | files).items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


def the_mistake(path: Path) -> str:
    """The only mistake of all files, as `file name:line: message`."""
    with pytest.raises(ConfigError) as caught:
        ConfigFiles(path).check()
    [problem] = caught.value.problems
    return f"{problem.file.name if problem.file else ''}:{problem.line}: {problem.message}"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("rws: 5", "sample.rws: unknown key. Did you mean 'rows'?"),
        ("rows: 0", "sample.rows: must be at least 1, not 0."),
        ("whole_below: -1", "sample.whole_below: must be at least 0, not -1."),
        ("seed: many", "sample.seed: must be a whole number, not 'many'."),
        ("max_rows: 0", "sample.max_rows: must be at least 1, not 0."),
        ("tables: {orders: {row: 5}}", "sample.tables.orders.row: unknown key. Did you mean 'rows'?"),
        ("tables: {orders: 5}", "sample.tables.orders: must be a mapping of keys to values."),
        ("tables: {orders: parent}", "sample.tables.orders.rule: unknown rule 'parent'. Did you mean 'parents'?"),
        (
            "tables: {orders: {all: true}}",
            "sample.tables.orders: write the rule 'all' as a word alone, without braces.",
        ),
        (
            "tables: {orders: {rows: 5}, Orders: {rows: 6}}",
            "sample.tables: 'orders' and 'Orders' are the same table, because case does not matter. Keep one.",
        ),
        (
            "tables: {orders: {rows: 5, fraction: 0.5}}",
            "orders: has several rules: rows and fraction. Keep one of them.",
        ),
        ("tables: {orders: {rows: 5, rule: all}}", "orders: has several rules: rule and rows. Keep one of them."),
        ("tables: {orders: {per_value: {a: 1}}}", "orders: nobody reads per_value, because there is no rows."),
        ("tables: {orders: {rows: 5, key: id}}", "orders: nobody reads key, because there is no fraction."),
        ("tables: {orders: {rows: 5, per_parent: 5}}", "nobody reads per_parent, because there is no children_of."),
        (
            "tables: {orders: {children_of: customers, limit: 9}}",
            "orders: children_of has no limit: with one in all, a smaller sample would not be part of a larger one. "
            "Write per_parent, which limits the children of each parent.",
        ),
        ("tables: {orders: {rows: 5, per_value: {a: 0}}}", "orders.per_value.a: must be at least 1, not 0."),
        ("tables: {orders: {fraction: 0}}", "orders.fraction: must be more than 0 and at most 1, not 0."),
        ("tables: {orders: {fraction: 1.5}}", "orders.fraction: must be more than 0 and at most 1, not 1.5."),
        ("tables: {orders: {fraction: some}}", "orders.fraction: must be a number, not 'some'."),
        ("tables: {orders: {children_of: [5]}}", "orders.children_of[0]: must be text (put it into quotes), not 5."),
        ("tables: {orders: {choose: claims}}", "'claims' is not a function. Write module:function, like"),
        ("tables: {orders: {where: 'a ='}}", "orders.where: 'a =' is not a condition in SQL."),
        ("edge_cases: {orphan: 1}", "sample.edge_cases.orphan: unknown key. Did you mean 'orphans'?"),
        ("edge_cases: {nulls: -1}", "sample.edge_cases.nulls: must be at least 0, not -1."),
        ("keep: {table: orders}", "sample.keep: must be a list."),
        (
            'keep: [{table: orders, where: "a = 1", becuase: x}]',
            "sample.keep[0].becuase: unknown key. Did you mean 'because'?",
        ),
        ("keep: [{table: orders, where: a b c}]", "sample.keep[0].where: 'a b c' is not a condition in SQL."),
        ("keep: [{table: orders}]", "sample.keep[0].where: is missing."),
        ("relations: [orders to customers]", "sample.relations[0]: 'orders to customers' is not a relation. Write `fl"),
        ("relations: [a.x -> b]", "'a.x -> b' is not a relation."),
        ('relations: ["a.(x, y) -> b.z"]', "(x, y) cannot refer to z: the numbers of columns differ."),
        ("relations: [a.x -> b.y when x =]", "'x =' is not a condition in SQL."),
        ("relations: [a.x -> b.y when random() < 1]", "random() has another result every time"),
        ("within: midi", "sample.within: the sample of 'midi' cannot be within itself."),
        ("within: ful", "sample.within: no other instance is called 'ful'. Did you mean 'full'?"),
    ],
)
def test_a_mistake_in_plain_words(folder: Folder, section: str, said: str) -> None:
    mistake = the_mistake(folder(midi=f"{COPY}sample: {{{section}}}"))
    assert mistake.startswith("midi.yaml:2: sample.")
    assert said in mistake


@pytest.mark.parametrize(
    "condition",
    [
        "now() > day",
        "day < CURRENT_DATE",
        "day < localtimestamp",
        "random() < 0.5",
        "id = nextval('s')",
        "age(day) > '1 day'",
        "name = current_user",
        "name = user",
        "name = current_setting('a.b')",
        "gen_random_uuid() > key",
        "day < 'today'::date",
        "day < DATE 'yesterday'",
        "day < CAST('now' AS timestamp)",
        "pg_backend_pid() = 5",
    ],
)
def test_a_condition_that_changes_by_itself_is_refused(folder: Folder, condition: str) -> None:
    mistake = the_mistake(folder(midi=f'{COPY}sample:\n  tables:\n    orders: {{where: "{condition}"}}'))
    assert mistake.startswith("midi.yaml:4: sample.tables.orders.where: ")
    assert "has another result every time, so the chosen rows would change by themselves. Write a constant." in mistake


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("id IN (SELECT id FROM vips)", "a condition has no subquery"),
        ("EXISTS (SELECT 1)", "a condition has no subquery"),
        ("count(*) > 1", "a condition has no aggregate"),
        ("row_number() OVER (ORDER BY id) < 5", "a condition has no"),
        ("orders.id = 1", "write id without its table"),
        ("id = :id", "a condition has no parameters. Write the value."),
        ("id = $1", "a condition has no parameters. Write the value."),
        ("id = 1 -- the first", "a condition has no comments. Write them above it, after #."),
        ("id = 1; DROP TABLE orders", "is not a condition in SQL."),
        ("true) OR (true", "is not a condition in SQL."),
        ("id = 1, id = 2", "is not a condition in SQL."),
        ("", "is not a condition in SQL."),
    ],
)
def test_a_condition_is_about_one_row(folder: Folder, condition: str, said: str) -> None:
    assert said in the_mistake(folder(midi=f'{COPY}sample: {{tables: {{orders: {{where: "{condition}"}}}}}}'))


@pytest.mark.parametrize(
    "condition",
    [
        "name = 'now()'",
        "kind = 'today'",
        "age > 5",
        '\\"user\\" = 1',
        '\\"random\\" IS NULL',
        "version = 2",
        "day BETWEEN DATE '2013-01-01' AND '2013-02-01'",
        "tags @> '{a}' AND note ~ '^x' OR amount::numeric % 10 = 3",
        "extract(year FROM day) = 2013 AND date_trunc('month', day) > '2013-01-01'",
        "note->>'a' = 'b' AND lower(name) LIKE 'x%'",
        "my_function(id) = 1",
    ],
)
def test_a_condition_that_always_has_the_same_answer(folder: Folder, condition: str) -> None:
    midi = folder(midi=f'{COPY}sample: {{tables: {{orders: {{where: "{condition}"}}}}}}')
    assert ConfigFiles(midi).instance("midi").sample.tables["orders"].where == condition.replace('\\"', '"')


@pytest.mark.parametrize(
    ("midi", "mini", "said"),
    [
        (
            COPY,
            "attrs: {copy_filtered_input: true, copy_source: other}\n",
            "attrs.copy_source is 'other' for 'mini', but 'full' for 'midi'. Both must copy from the same source.",
        ),
        (
            COPY,
            "attrs: {copy_filtered_input: true, copy_source: midi}\n",
            "has no effect: 'mini' copies from 'midi', so it is part of it anyway. Remove it.",
        ),
        (COPY, "attrs: {}\n", "'mini' has no sample, because its attrs.copy_filtered_input is not true."),
        ("", COPY, "'midi' has no sample, because its attrs.copy_filtered_input is not true."),
    ],
)
def test_samples_are_nested_only_if_they_have_one_source(folder: Folder, midi: str, mini: str, said: str) -> None:
    path = folder(midi=midi, mini=f"{mini}sample: {{within: midi}}", other="")
    assert the_mistake(path) == f"mini.yaml:2: sample.within: {said}"


def test_samples_within_each_other_are_refused(folder: Folder) -> None:
    path = folder(midi=f"{COPY}sample: {{within: mini}}", mini=f"{COPY}sample: {{within: midi}}")
    with pytest.raises(ConfigError, match="would be within each other in a circle: 'midi' within 'mini' within 'midi'"):
        ConfigFiles(path).check()


def test_a_mistake_in_a_list_that_adds_up_is_reported_in_its_own_file(folder: Folder) -> None:
    shared = "sample: {keep: [{table: a, where: x = 1}]}\n"
    path = folder(shared, midi=f"{COPY}sample:\n  keep:\n    - {{table: b, where: y = 1}}\n")
    instance = ConfigFiles(path).instance("midi")
    assert [kept.table for kept in instance.sample.keep] == ["a", "b"]
    places = [instance.problem(("sample", "keep", number), "") for number in (0, 1)]
    assert [(place.file.name if place.file else "", place.line) for place in places] == [
        ("__any__.yaml", 2),
        ("midi.yaml", 4),
    ]
