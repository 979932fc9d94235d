"""What the section `sample` asks for: rules and names resolved to input tables, and what is said about mistakes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipedag_dagster import Flow, Stage, materialize
from pipedag_dagster.checks import references
from pipedag_dagster.config.instances import ConfigFiles
from pipedag_dagster.errors import ConfigError
from pipedag_dagster.sampling.rules import (
    All,
    ChildrenOf,
    Choose,
    EdgeCases,
    Fraction,
    Keep,
    Nothing,
    Parents,
    Relation,
    Rows,
    Rule,
    SampleSpec,
    Where,
)
from pipedag_dagster.sampling.spec import InputTable, declared_relations, sample_spec

ANY = """\
table_store: {args: {url: "postgresql://db/shop", schema_prefix: "{instance_id}_"}}
"""
COPY = "attrs: {copy_filtered_input: true, copy_source: full}\n"
TABLES = (
    InputTable(
        "raw.flights", columns={"id": "bigint", "tailnum": "text", "origin": "character varying(3)", "Day": "date"}
    ),
    InputTable("raw.planes", columns={"tailnum": "text", "manufacturer": "text", "year": "integer"}),
    InputTable("raw.airports", sql_name="airports_2013", columns={"code": "text", "id": "uuid"}),
    InputTable("other.airports", columns={"code": "text"}),
)
UNREAD = [InputTable(table.name) for table in TABLES]
RELATION = Relation("raw.flights", ("tailnum",), "raw.planes", ("tailnum",))

Instances = Callable[..., ConfigFiles]


def claims() -> None:
    """Stands for a function that chooses rows."""


def other_claims() -> None:
    """Another one."""


claims_of_nobody = 7


@pytest.fixture
def files(tmp_path: Path) -> Instances:
    """Write instances: `any` is added to what all share; `midi` and `mini` are their sections `sample`, indented."""

    def write(any: str = "", full: str = "", **sections: str) -> ConfigFiles:
        folder = tmp_path / "instances"
        folder.mkdir(exist_ok=True)
        (folder / "__any__.yaml").write_text(ANY + textwrap.dedent(any))
        (folder / "full.yaml").write_text(full)
        for name, text in sections.items():
            (folder / f"{name}.yaml").write_text(COPY + text)
        return ConfigFiles(folder)

    return write


def spec(
    files: ConfigFiles, name: str = "midi", declared: Sequence[Relation] = (), tables: Sequence[InputTable] = TABLES
) -> SampleSpec:
    return sample_spec(files.instance(name), tables, declared)


def mistake(
    files: ConfigFiles, name: str = "midi", declared: Sequence[Relation] = (), tables: Sequence[InputTable] = TABLES
) -> str:
    """The only mistake, as `file:line: message`."""
    with pytest.raises(ConfigError) as caught:
        spec(files, name, declared, tables)
    [problem] = caught.value.problems
    return f"{problem.file.name if problem.file else ''}:{problem.line or ''}: {problem.message}"


# ---- what is asked for -----------------------------------------------------------------------------------------

THIS = "pipedag_dagster_tests.sampling.test_spec"


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("all", All()),
        ("none", Nothing()),
        ("parents", Parents()),
        ("{rule: parents}", Parents()),
        ("{rows: 300}", Rows(300)),
        ("{rows: 300, per_value: {manufacturer: 1}}", Rows(300, {"manufacturer": 1})),
        ("{fraction: 0.01}", Fraction(0.01)),
        ("{fraction: 1, key: tailnum}", Fraction(1, ("tailnum",))),
        ("{fraction: 0.5, key: [tailnum, year]}", Fraction(0.5, ("tailnum", "year"))),
        ('{where: "year > 2000"}', Where("year > 2000")),
        (f"{{choose: '{THIS}:claims'}}", Choose(f"{THIS}:claims")),
    ],
)
def test_a_table_has_one_rule(files: Instances, written: str, rule: Rule) -> None:
    assert spec(files(midi=f"sample: {{tables: {{planes: {written}}}}}")).rules == {"raw.planes": rule}


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("{children_of: planes}", ChildrenOf(("raw.planes",))),
        ("{children_of: [raw.planes], per_parent: 200}", ChildrenOf(("raw.planes",), 200)),
    ],
)
def test_children_of_a_table(files: Instances, written: str, rule: Rule) -> None:
    midi = files(midi=f"sample: {{tables: {{flights: {written}}}}}")
    assert spec(midi, declared=[RELATION]).rules == {"raw.flights": rule}


@pytest.mark.parametrize("name", ["flights", "FLIGHTS", "raw.flights", "Raw.Flights"])
def test_a_table_is_named_with_or_without_its_stage(files: Instances, name: str) -> None:
    assert spec(files(midi=f"sample: {{tables: {{{name}: all}}}}")).rules == {"raw.flights": All()}


@pytest.mark.parametrize("name", ["raw.airports", "airports_2013", "raw.airports_2013"])
def test_a_table_is_also_named_as_in_sql(files: Instances, name: str) -> None:
    assert spec(files(midi=f"sample: {{tables: {{{name}: all}}}}")).rules == {"raw.airports": All()}


def test_the_other_settings_of_a_sample(files: Instances) -> None:
    section = "rows: 10, seed: 3, whole_below: 5, max_rows: 7, edge_cases: {per_value: 1, nulls: 2}"
    expected = SampleSpec(
        default_rows=10, seed=3, whole_below=5, max_rows=7, edge_cases=EdgeCases(per_value=1, nulls=2)
    )
    assert spec(files(midi=f"sample: {{{section}}}")) == expected


def test_copy_filter_cnt_means_the_same_as_rows(files: Instances) -> None:
    midi = files(midi="").instance("midi").model_copy(update={"attrs": {"copy_filter_cnt": 12}})
    assert sample_spec(midi, TABLES).default_rows == 12


@pytest.mark.parametrize(
    ("text", "relation"),
    [
        ("flights.tailnum -> planes.tailnum", RELATION),
        ("raw.flights.tailnum->raw.planes.tailnum", RELATION),
        (
            "flights.(tailnum, origin) -> planes.( tailnum,manufacturer )",
            Relation("raw.flights", ("tailnum", "origin"), "raw.planes", ("tailnum", "manufacturer")),
        ),
        (
            "flights.tailnum -> planes.tailnum when origin = 'LGA' and id > 3",
            Relation("raw.flights", ("tailnum",), "raw.planes", ("tailnum",), "origin = 'LGA' and id > 3"),
        ),
        (
            'flights."Day" -> flights."Day" WHEN origin = \'when\'',
            Relation("raw.flights", ("Day",), "raw.flights", ("Day",), "origin = 'when'"),
        ),
    ],
)
def test_a_relation_is_written_as_an_arrow(files: Instances, text: str, relation: Relation) -> None:
    quoted = text.replace('"', '\\"')
    assert spec(files(midi=f'sample: {{relations: ["{quoted}"]}}')).relations == (relation,)


@pytest.mark.parametrize(
    "text",
    [
        "raw.flights.tailnum -> raw.planes.tailnum when ORIGIN = 'LGA' and (id > 3)",
        "flights.tailnum -> planes.tailnum when id > 3 and origin = 'LGA'",
    ],
)
def test_a_relation_that_is_declared_twice_is_one(files: Instances, text: str) -> None:
    declared = Relation("raw.flights", ("tailnum",), "raw.planes", ("tailnum",), "origin = 'LGA' AND id > 3", "both")
    assert spec(files(midi=f'sample: {{relations: ["{text}"]}}'), declared=[declared]).relations == (declared,)


def test_relations_and_kept_rows_of_all_files_add_up(files: Instances) -> None:
    shared = """
        sample:
          relations: [flights.tailnum -> planes.tailnum]
          keep: [{table: flights, where: "id = 1", because: first}]
    """
    found = spec(files(shared, midi='sample: {keep: [{table: planes, where: "year = 1959"}], relations: []}'))
    assert found.keep == (Keep("raw.flights", "id = 1", "first"), Keep("raw.planes", "year = 1959"))
    assert found.relations == (RELATION,)


def test_the_rule_of_the_last_file_that_names_a_table_counts_as_a_whole(files: Instances) -> None:
    shared = "sample: {tables: {planes: {rows: 5, per_value: {year: 1}}, flights: {rows: 9}}}"
    rules = spec(files(shared, midi="sample: {tables: {Planes: {fraction: 0.5}}}")).rules
    assert rules == {"raw.planes": Fraction(0.5), "raw.flights": Rows(9)}


def test_relations_are_declared_by_checks_of_input_tasks() -> None:
    @materialize(
        input=True,
        outputs=["flights", "planes"],
        checks={
            "flights": [
                references("tailnum", "raw.planes", when="id > 3"),
                references("origin", "raw.planes.tailnum", sample="both"),
                references("id", "raw.planes.tailnum", sample=None),
            ]
        },
    )
    def load() -> None: ...

    @materialize(checks=[references("tailnum", "raw.planes")])
    def report() -> None: ...

    with Flow() as flow, Stage("raw"):
        load(), report()
    flights, planes = "raw.flights", "raw.planes"
    assert declared_relations(flow) == [
        Relation(flights, ("tailnum",), planes, ("tailnum",), "id > 3"),
        Relation(flights, ("origin",), planes, ("tailnum",), None, "both"),
    ]


# ---- the digest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("rows: 5", "rows: 6", False),
        ("seed: 5", "seed: 6", False),
        ("max_rows: 5", "max_rows: 6", True),
        ("tables: {planes: {rows: 5}}", "tables: {planes: {rows: 6}}", False),
        ("tables: {planes: all, flights: none}", "tables: {flights: none, planes: all}", True),
        ('keep: [{table: planes, where: "year = 1", because: a}]', 'keep: [{table: planes, where: "year = 1"}]', True),
        ('keep: [{table: planes, where: "year = 1"}]', 'keep: [{table: planes, where: "year = 2"}]', False),
        ("edge_cases: {nulls: 1}", "edge_cases: {nulls: 0}", False),
        ("relations: [flights.id -> planes.year]", "relations: []", False),
    ],
)
def test_the_digest_changes_with_the_choice_of_rows(files: Instances, one: str, other: str, same: bool) -> None:
    digests = {spec(files(midi=f"sample: {{{section}}}")).digest() for section in (one, other)}
    assert (len(digests) == 1) == same


# ---- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            "tables: {airports: all}",
            "there are several input tables 'airports'. Write one of: raw.airports, other.airports.",
        ),
        ("tables: {planes: all, raw.planes: none}", "is the same table as 'planes', and a table has one rule."),
        ("tables: {flights: {children_of: plains}}", "no input task makes a table 'plains'. Did you mean 'planes'?"),
        ("tables: {flights: {children_of: customers}}", "no input task makes a table 'customers'."),
        (
            "tables: {flights: {children_of: planes}}",
            "no relation leads from raw.flights to raw.planes. Write one into sample.relations, as in "
            "`raw.flights.<column> -> raw.planes.<column>`",
        ),
        (
            "{tables: {flights: {children_of: planes}}, "
            "relations: [flights.tailnum -> planes.tailnum, flights.origin -> planes.tailnum]}",
            "several relations lead from raw.flights to raw.planes: raw.flights.tailnum -> raw.planes.tailnum; "
            "raw.flights.origin -> raw.planes.tailnum.",
        ),
        (
            "{tables: {flights: {children_of: flights, per_parent: 3}}, relations: [flights.id -> flights.id]}",
            "per_parent: raw.flights is among its own parents",
        ),
        (
            "{tables: {planes: none}, relations: [flights.tailnum -> planes.tailnum]}",
            "sample.tables.planes: none: rows of raw.flights would refer to rows that are not there "
            "(raw.flights.tailnum -> raw.planes.tailnum). Write `parents`",
        ),
        ('{tables: {planes: none}, keep: [{table: planes, where: "year = 1"}]}', "none: 'year = 1' is to be kept."),
        ("tables: {planes: {rows: 3, per_value: {yaer: 1}}}", "raw.planes has no column 'yaer'. Did you mean 'year'?"),
        ("tables: {planes: {fraction: 0.1, key: yaer}}", "raw.planes has no column 'yaer'. Did you mean 'year'?"),
        ('tables: {planes: {where: "yaer > 3"}}', "raw.planes: there is no column 'yaer'. Did you mean 'year'?"),
        ('tables: {flights: {where: "day > 3"}}', "there is no column 'day'. Write \"Day\", with the quotes."),
        ('keep: [{table: planes, where: "yaer = 1"}]', "sample.keep[0]: raw.planes: there is no column 'yaer'."),
        ("relations: [flights.tail -> planes.tailnum]", "sample.relations[0]: raw.flights has no column 'tail'."),
        ("relations: [flights.tailnum -> planes.tail]", "raw.planes has no column 'tail'."),
        ("relations: [flights.tailnum -> planes.tailnum when orign = 1]", "there is no column 'orign'."),
        (
            "relations: [flights.tailnum -> planes.year]",
            "raw.flights.tailnum is text, and raw.planes.year is integer: they do not compare.",
        ),
        ("relations: [flights.id -> raw.airports.id]", "they do not compare"),
        ("tables: {planes: {choose: 'no_such_module:claims'}}", "there is no module 'no_such_module'."),
        (f"tables: {{planes: {{choose: '{THIS}:clams'}}}}", "has no function 'clams'. Did you mean 'claims'?"),
        (f"tables: {{planes: {{choose: '{THIS}:claims_of_nobody'}}}}", "has no function 'claims_of_nobody'."),
    ],
)
def test_a_mistake_is_reported_where_it_was_written(files: Instances, section: str, said: str) -> None:
    section = section if section.startswith("{") else f"{{{section}}}"
    found = mistake(files(midi=f"sample: {section}"))
    assert found.startswith("midi.yaml:2: sample")
    assert said in found


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("tables: {flihgts: all}", "tables.flihgts: no input task makes a table 'flihgts'. Did you mean 'flights'?"),
        ("tables: {raw.plane: all}", "Did you mean 'raw.planes'?"),
        ("relations: [flihgts.id -> planes.year]", "relations[0]: no input task makes a table 'flihgts'."),
        ('keep: [{table: flihgts, where: "id = 1"}]', "keep[0]: no input task makes a table 'flihgts'."),
    ],
)
def test_a_misspelt_table_is_refused_when_definitions_are_loaded(files: Instances, section: str, said: str) -> None:
    found = mistake(files(midi=f"sample: {{{section}}}"), tables=UNREAD)
    assert found.startswith("midi.yaml:2: sample.")
    assert said in found


def test_tables_that_nobody_knows_are_one_warning(files: Instances) -> None:
    section = 'sample: {tables: {customers: all}, keep: [{table: bills, where: "id = 1"}]}'
    with pytest.warns(UserWarning, match="nothing reads 'customers', 'bills', because no input task here"):
        assert spec(files(midi=section), tables=UNREAD) == SampleSpec()


@pytest.mark.parametrize("text", ["flights.id -> planes.year", "flights.origin -> planes.tailnum"])
def test_numbers_compare_with_numbers_and_texts_with_texts(files: Instances, text: str) -> None:
    assert len(spec(files(midi=f"sample: {{relations: [{text}]}}")).relations) == 1


def test_a_declared_relation_whose_types_do_not_compare_is_refused(files: Instances) -> None:
    wrong = Relation("raw.flights", ("tailnum",), "raw.planes", ("year",))
    found = mistake(files(midi=""), declared=[wrong])
    assert "references(…) of raw.flights: raw.flights.tailnum is text" in found
    assert "sample=None" in found


def test_a_declared_relation_to_a_table_that_is_not_sampled_is_left_out(files: Instances) -> None:
    assert spec(files(midi=""), declared=[Relation("raw.flights", ("id",), "report.days", ("id",))]).relations == ()


def test_columns_are_not_needed_before_a_run(files: Instances) -> None:
    assert spec(files(midi='sample: {tables: {planes: {where: "a = 1"}}}'), tables=UNREAD).rules == {
        "raw.planes": Where("a = 1")
    }


def test_a_table_that_only_orphans_point_to_may_be_left_out(files: Instances) -> None:
    section = "sample: {tables: {planes: none, flights: parents}, relations: [flights.tailnum -> planes.tailnum]}"
    assert spec(files(midi=section)).rules["raw.planes"] == Nothing()


# ---- within ----------------------------------------------------------------------------------------------------

MIDI = """\
sample:
  rows: 1000
  whole_below: 100
  seed: 7
  relations: [flights.tailnum -> planes.tailnum]
  keep: [{table: flights, where: "id = 1"}]
  edge_cases: {per_value: 2, nulls: 1}
  tables:
    planes: {rows: 300, per_value: {year: 1}}
    flights: {children_of: planes, per_parent: 200}
    raw.airports: {fraction: 0.5, key: code}
    other.airports: {where: "code > 'A' and code < 'K'"}
"""


def within(files: Instances, small: str, midi: str = MIDI) -> ConfigFiles:
    return files(midi=midi, mini=f"sample: {{within: midi, {small}}}")


def test_an_instance_within_another_one_inherits_what_it_does_not_say(files: Instances) -> None:
    configs = within(files, "tables: {planes: {rows: 30}}, max_rows: 9, edge_cases: {per_value: 1}")
    small, wide = spec(configs, "mini"), spec(configs, "midi")
    assert small.rules == {**wide.rules, "raw.planes": Rows(30)}
    assert (small.seed, small.relations, small.keep) == (wide.seed, wide.relations, wide.keep)
    assert small.edge_cases == EdgeCases(per_value=1, nulls=1)
    assert (small.default_rows, small.whole_below, small.max_rows) == (1000, 100, 9)


def test_samples_may_be_nested_several_times(files: Instances) -> None:
    tiny = "sample: {within: mini, tables: {planes: {rows: 3}}}"
    configs = files(midi=MIDI, mini="sample: {within: midi, tables: {planes: {rows: 30}}, rows: 5}", tiny=tiny)
    assert spec(configs, "tiny").rules == {**spec(configs, "midi").rules, "raw.planes": Rows(3)}
    assert spec(configs, "tiny").default_rows == 5


@pytest.mark.parametrize(
    ("small", "rows"),
    [("attrs: {copy_filter_cnt: 9}\nsample: {within: midi}", 9), ("sample: {within: midi}", 50)],
)
def test_the_default_of_the_attrs_is_inherited_or_replaced(tmp_path: Path, small: str, rows: int) -> None:
    copy = "copy_filtered_input: true, copy_source: full"
    texts = {
        "__any__": ANY,
        "full": "",
        "midi": f"attrs: {{{copy}, copy_filter_cnt: 50}}",
        "mini": f"attrs: {{{copy}}}\n{small}".replace(f"attrs: {{{copy}}}\nattrs: {{", f"attrs: {{{copy}, "),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert sample_spec(ConfigFiles(tmp_path).instance("mini"), TABLES).default_rows == rows


@pytest.mark.parametrize(
    "small",
    [
        "rows: 1000",
        "rows: 1",
        "whole_below: 50",
        "tables: {planes: {rows: 300}}",
        "tables: {planes: none, flights: none}, keep: []",
        "tables: {planes: parents}",
        "tables: {planes: {rows: 1, per_value: {year: 1}}}",
        "tables: {flights: {children_of: raw.planes, per_parent: 200}}",
        "tables: {flights: parents}",
        "tables: {raw.airports: {fraction: 0.5, key: code}}",
        "tables: {raw.airports: {fraction: 0.1, key: [code]}}",
        "tables: {other.airports: {where: \"code < 'K' and code > 'A'\"}}",
        "tables: {other.airports: {where: \"code < 'K' and code > 'A' and code <> 'C'\"}}",
        "edge_cases: {per_value: 2, nulls: 0}",
        'keep: [{table: raw.flights, where: "id = 1", because: again}]',
    ],
)
def test_what_is_certainly_part_of_the_wider_sample(files: Instances, small: str) -> None:
    midi = MIDI.replace('  keep: [{table: flights, where: "id = 1"}]\n', "") if "none" in small else MIDI
    assert spec(within(files, small, midi), "mini").seed == 7


@pytest.mark.parametrize(
    ("small", "said"),
    [
        ("rows: 1001", "'mini' is within 'midi', but seed"),
        ("seed: 8", "seed 8 chooses other rows than seed 7 of 'midi'. Remove it here."),
        ("whole_below: 101", "whole_below: 101 is more than the 100 of 'midi'."),
        ("relations: [raw.airports.code -> planes.tailnum]", "'midi' does not follow this relation."),
        ('keep: [{table: planes, where: "year = 1"}]', "'midi' does not keep these rows."),
        ("edge_cases: {nulls: 2}", "edge_cases.nulls: 2 is more than the 1 of 'midi'."),
        ("edge_cases: {values: 60}", "edge_cases.values: 60 is more than the 50 of 'midi'."),
        ("tables: {planes: {rows: 301}}", "raw.planes: rows: 301 is more than the 300 of 'midi'."),
        ("tables: {planes: {rows: 3, per_value: {year: 2}}}", "per_value.year: 2 is more than the 1 of 'midi'."),
        ("tables: {planes: {rows: 3, per_value: {tailnum: 1}}}", "per_value.tailnum: 1 is more than the 0 of 'midi'."),
        ("tables: {planes: all}", "`all` may choose rows that `rows` of 'midi' does not. Write `rows` here, too."),
        ("tables: {planes: {fraction: 0.001}}", "`fraction` may choose rows that `rows` of 'midi' does not."),
        ('tables: {planes: {where: "year = 1"}}', "`where` may choose rows that `rows` of 'midi' does not."),
        (
            "tables: {flights: {children_of: planes, per_parent: 201}}",
            "per_parent: 201 is more than the 200 of 'midi'.",
        ),
        ("tables: {flights: {children_of: planes}}", "it has no per_parent, and 'midi' has per_parent: 200."),
        ("tables: {flights: {rows: 1}}", "`rows` may choose rows that `children_of` of 'midi' does not."),
        ("tables: {raw.airports: {fraction: 0.6, key: code}}", "fraction: 0.6 is more than the 0.5 of 'midi'."),
        ("tables: {raw.airports: {fraction: 0.5}}", "the fraction has another key than in 'midi'."),
        (
            "tables: {other.airports: {where: \"code > 'A'\"}}",
            "its condition may hold where the one of 'midi' does not.",
        ),
    ],
)
def test_what_may_have_more_rows_than_the_wider_sample_is_refused(files: Instances, small: str, said: str) -> None:
    if small == "rows: 1001":
        midi = MIDI.replace("raw.airports: {fraction: 0.5, key: code}", "raw.airports:")
        said = "raw.airports: rows: 1001 is more than the 1000 of 'midi'."
    else:
        midi = MIDI
    found = mistake(within(files, small, midi), "mini")
    assert found.startswith("mini.yaml:2: sample.")
    assert said in found


def test_a_mistake_in_an_inherited_rule_is_reported_in_its_own_file(files: Instances) -> None:
    configs = within(files, "tables: {planes: {rows: 3}}", MIDI.replace("key: code", "key: kode"))
    assert mistake(configs, "mini").startswith("midi.yaml:12: sample.tables.raw.airports: raw.airports has no column")


@pytest.mark.parametrize(
    ("small", "wide", "allowed"),
    [("choose: '{}:claims'", "choose: '{}:claims'", True), ("choose: '{}:claims'", "choose: '{}:other_claims'", False)],
)
def test_functions_choose_the_same_if_they_are_the_same(files: Instances, small: str, wide: str, allowed: bool) -> None:
    midi = f"sample: {{tables: {{planes: {{{wide.format(THIS)}}}}}}}"
    configs = within(files, f"tables: {{planes: {{{small.format(THIS)}}}}}", midi)
    if allowed:
        assert spec(configs, "mini") == spec(configs, "midi")
    else:
        assert "may choose other rows than" in mistake(configs, "mini")
