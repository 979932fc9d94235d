"""Wiring: what a call of a task becomes, what its tables are called, and what is refused before anything runs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipedag_dagster import Flow, Stage, build_definitions, input_stage_versions, materialize
from pipedag_dagster.errors import InvalidName, WiringError
from pipedag_dagster.graph.flow import Output
from pipedag_dagster_tests.helpers import Instances


@materialize
def clean(*inputs: Any) -> Any:
    return sum(inputs)


@materialize(nout=2)
def split(table: Any = None) -> Any:
    return table, table


@materialize(outputs=["Orders", "customers"])
def load(path: str, *, limit: int = 10) -> Any:
    return path, limit


@materialize
def parts() -> Any:
    return {}


def names(stage: Stage) -> list[list[str]]:
    """The tables of each call of a stage."""
    return [call.assets for call in stage.calls]


# Calls


def test_a_call_outside_of_a_flow_is_the_plain_function() -> None:
    assert clean(1, 2) == 3
    assert load("here") == ("here", 10)


def test_a_call_after_the_flow_is_closed_is_the_plain_function_again() -> None:
    with Flow(), Stage("raw"):
        assert isinstance(clean(), Output)
    assert clean(1, 2) == 3


def test_a_call_after_an_error_in_the_wiring_is_the_plain_function_again() -> None:
    with pytest.raises(ZeroDivisionError), Flow(), Stage("raw"):
        raise ZeroDivisionError
    assert clean(1, 2) == 3


def test_a_task_called_in_a_flow_but_outside_of_a_stage_is_refused() -> None:
    with pytest.raises(WiringError, match=r"Task 'clean' is called outside of a stage: write `with Stage"), Flow():
        clean()


def test_a_stage_outside_of_a_flow_is_refused() -> None:
    with pytest.raises(WiringError, match=r"Stage 'raw' is opened outside of a flow: write `with Flow"), Stage("raw"):
        pass


def test_arguments_that_do_not_fit_are_refused_where_the_task_is_called() -> None:
    with Flow(), Stage("raw"):
        with pytest.raises(WiringError, match=r"raw\.load: missing a required argument: 'path'.*It is load\(path: "):
            load()
        with pytest.raises(WiringError, match=r"raw\.load: .*unexpected .*'limt'\. Did you mean 'limit'"):
            load("here", limt=3)


def test_an_output_of_another_flow_is_refused() -> None:
    with Flow("one"), Stage("raw"):
        foreign = clean()
    with Flow("two"), Stage("raw"), pytest.raises(WiringError, match=r"raw\.clean takes raw\.clean.*another flow"):
        clean(foreign)


def test_outputs_in_lists_and_dicts_are_inputs_too() -> None:
    with Flow(), Stage("raw") as raw:
        one, two = clean(), clean()
        clean([one, {"deep": (two, 7)}])
    assert [output.call.name for output in raw.calls[-1].inputs] == ["clean", "clean_2"]


def test_a_call_with_an_output_after_the_flow_is_closed_is_refused() -> None:
    with Flow(), Stage("raw"):
        orders = clean()
    for call in (lambda: clean(orders), lambda: clean([orders]), lambda: load(path=orders)):
        with pytest.raises(WiringError, match=r"called with raw\.clean after the flow was closed\. Move the call into"):
            call()


# Stages


def test_a_stage_belongs_to_one_flow() -> None:
    raw = Stage("raw")
    with Flow("first"), raw:
        clean()
    expected = r"Stage 'raw' is opened a second time, in flow 'second'\. It belongs to flow 'first' \(.*test_wiring"
    with pytest.raises(WiringError, match=expected), Flow("second"), raw:
        pass
    assert names(raw) == [["clean"]]


def test_a_stage_is_opened_once() -> None:
    with Flow("shop"):
        with Stage("raw") as raw:
            clean()
        with pytest.raises(WiringError, match=r"Stage 'raw' is opened a second time.*Make a new one"), raw:
            pass


def test_a_flow_is_wired_once() -> None:
    with Flow("shop") as flow, Stage("raw"):
        clean()
    with pytest.raises(WiringError, match=r"Flow 'shop' is opened a second time\. It was wired in .*test_wiring\.py:"):
        flow.__enter__()
    assert flow.stage_names == ["raw"]


def test_two_stages_of_one_name_are_refused_whatever_their_case() -> None:
    expected = r"Flow 'shop' has two stages 'raw'\. Give one of them another name"
    with Flow("shop"), Stage("raw"), pytest.raises(WiringError, match=expected):
        Stage("RAW").__enter__()


def test_stages_are_in_the_order_in_which_they_need_each_other() -> None:
    with Flow() as flow, Stage("report"):
        with Stage("raw"):
            orders = clean()
        clean(orders)
    assert [stage.name for stage in flow.stages] == ["raw", "report"]


# Names of tables


def test_unnamed_tables_have_the_name_of_their_task_and_a_number_from_the_second_on() -> None:
    with Flow(), Stage("raw") as raw:
        clean(), clean(), split(), clean()
    assert names(raw) == [["clean"], ["clean_2"], ["split", "split_2"], ["clean_3"]]


def test_unnamed_tables_are_numbered_around_those_with_a_name() -> None:
    @materialize(outputs=["clean", "clean_3"])
    def taken() -> Any: ...

    with Flow(), Stage("raw") as raw:
        clean(), clean(), taken()
    assert names(raw) == [["clean_2"], ["clean_4"], ["clean", "clean_3"]]


def test_numbers_start_again_in_each_stage() -> None:
    with Flow() as flow:
        for stage in ("one", "two"):
            with Stage(stage):
                clean()
    assert [names(stage) for stage in flow.stages] == [[["clean"]], [["clean"]]]


def test_names_of_tables_are_lower_case() -> None:
    @materialize
    def Revenue() -> Any: ...

    with Flow(), Stage("Raw") as raw:
        Revenue(), load("here"), parts()["Big"]
    assert raw.name == "raw"
    assert names(raw) == [["revenue"], ["orders", "customers"], ["big"]]


def test_two_tables_of_one_name_in_a_stage_are_refused_and_both_calls_named() -> None:
    expected = r"Stage 'raw' has two tables 'orders': by 'load' and by 'load_2'\. .*another name in outputs"
    with pytest.raises(WiringError, match=expected), Flow(), Stage("raw"):
        load("here"), load("there")


# Parts of what a task returns


def test_declared_outputs_are_taken_by_name_by_number_or_by_unpacking() -> None:
    with Flow(), Stage("raw"):
        loaded = load("here")
        orders, customers = loaded
    for first in (loaded["ORDERS"], loaded[0], loaded[-2], orders):
        assert [slot.asset for slot in first.slots] == ["orders"]
    for second in (loaded["customers"], loaded[1], loaded[-1], customers):
        assert [slot.asset for slot in second.slots] == ["customers"]
    assert [slot.asset for slot in loaded.slots] == ["orders", "customers"]


def test_an_output_that_was_not_declared_is_refused_with_the_one_that_was_meant() -> None:
    with Flow(), Stage("raw"), pytest.raises(WiringError, match=r"raw\.load has no output 'order'\..*'orders'"):
        load("here")["order"]


def test_an_undeclared_dict_has_the_tables_that_are_asked_for() -> None:
    with Flow() as flow, Stage("raw") as raw:
        tables = parts()
        clean(tables["dfA"], tables["dfB"], tables["dfA"])
    assert names(raw) == [["dfa", "dfb"], ["clean"]]
    assert [slot.asset for slot in flow["raw.dfb"].slots] == ["dfb"]


def test_numbered_outputs_are_not_taken_by_name() -> None:
    with Flow(), Stage("raw"), pytest.raises(WiringError, match=r"nout=2\. Take its outputs by number, not by name"):
        split()["left"]


def test_one_table_has_no_parts() -> None:
    with Flow(), Stage("raw"):
        with pytest.raises(WiringError, match=r"raw\.clean cannot be unpacked\. .*outputs=\[…\]\), or nout="):
            [*clean()]
        with pytest.raises(WiringError, match=r"raw\.split\[1\] cannot be unpacked"):
            [*split()[1]]


def test_unpacking_into_more_names_than_there_are_outputs_is_an_error() -> None:
    with Flow(), Stage("raw"), pytest.raises(ValueError, match="not enough values to unpack"):
        _one, _two, _three = split()


def test_a_number_beyond_the_outputs_is_refused() -> None:
    with Flow(), Stage("raw"), pytest.raises(WiringError, match=r"raw\.split has no output 2\. It has 2: 0 to 1"):
        split()[2]


def test_a_table_of_a_flow_is_found_by_stage_and_name() -> None:
    with Flow("shop") as flow, Stage("raw"):
        load("here")
    assert [slot.asset for slot in flow["raw.customers"].slots] == ["customers"]
    assert [slot.asset for slot in flow["RAW.Customers"].slots] == ["customers"]
    with pytest.raises(WiringError, match=r"Flow 'shop' has no output 'raw\.customer'\. Did you mean 'raw\.customers'"):
        flow["raw.customer"]


# Options of tasks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ["a", "b"], "nout": 3}, r"nout=3, but outputs names 2 tables"),
        ({"outputs": []}, r"outputs must be different table names, at least one"),
        ({"outputs": ["a", "A"]}, r"outputs must be different table names"),
        ({"outputs": "orders"}, r"outputs must be a list, as in outputs=\['orders'\]"),
        ({"outputs": [""]}, r"A table needs a name"),
        ({"outputs": ["x" * 64]}, r"has 64 bytes; PostgreSQL allows 63"),
        ({"nout": 0}, r"nout must be a whole number of at least 1, not 0"),
        ({"version": 1.0}, r'version must be a text, as in version="1\.0"'),
        ({"version": True}, r"version must be a text"),
        ({"nout": "2"}, r"nout must be a whole number of at least 1, not '2'"),
        ({"cache": "source_version"}, r"cache must be a function, or a list of functions, not 'source_version'"),
        ({"input": "yes"}, r"input must be True or False, not 'yes'"),
        ({"lazy": 1}, r"lazy must be True or False, not 1"),
        ({"tags": ["raw"]}, r"tags must be a dict"),
    ],
)
def test_options_that_contradict_each_other_are_refused_at_the_function(options: Any, message: str) -> None:
    with pytest.raises(WiringError, match=message):
        materialize(**options)(parts.fn)


def test_a_function_without_a_name_that_a_table_can_have_needs_outputs() -> None:
    with pytest.raises(InvalidName, match=r"'<lambda>'.*Give the task another name, or write names in outputs"):
        materialize(lambda: None)
    assert materialize(outputs=["orders"])(lambda: 7)() == 7


# Cycles


def test_stages_that_need_each_other_are_refused_and_the_circle_is_named() -> None:
    flow = Flow().__enter__()
    with Stage("raw"):
        orders = clean()
        with Stage("middle"):
            derived = clean(orders)
        with Stage("report"):
            last = clean(derived)
        clean(last)
    with pytest.raises(WiringError, match="Move one of the tasks into a stage of its own") as caught:
        flow.__exit__(None, None, None)
    circle = re.split(" needs |, which needs ", str(caught.value).partition("circle: ")[2].partition(". ")[0])
    start = circle.index("raw")
    assert circle[0] == circle[-1]
    assert circle[start:-1] + circle[:start] == ["raw", "report", "middle"]


# Names in the database


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "A stage needs a name"),
        ("pipedag", "is reserved"),
        ("x__versions", "is reserved"),
        ("x__next", "is reserved"),
        ("x__old", "is reserved"),
        ('ra"w', "only letters, digits and '_'"),
        ("raw data", "only letters, digits and '_'"),
        ("größe", "only letters, digits and '_'"),
        ("s" * 64, "64 bytes; PostgreSQL allows 63"),
    ],
)
def test_a_stage_name_that_cannot_be_a_schema_is_refused(name: str, message: str) -> None:
    with pytest.raises(InvalidName, match=message):
        Stage(name)


@pytest.mark.parametrize("length", [48, 49])
def test_a_stage_that_is_too_long_with_its_prefix_is_refused_when_the_definitions_are_built(
    instances: Instances, length: int
) -> None:
    def build(instance: object) -> Flow:
        with Flow() as flow, Stage("s" * length):
            clean()
        return flow

    if length == 48:  # full_ + 48 + __versions: 63
        build_definitions(build, instances(), instance="full")
    else:
        with pytest.raises(InvalidName, match=r"schema_prefix 'full_'.*has 64 bytes; PostgreSQL allows 63"):
            build_definitions(build, instances(), instance="full")


# Copying by hand


@input_stage_versions(pass_args=["attrs", "stage"])
def copy(tbls: Any, source_tbls: Any, source_cfg: Any, *, attrs: Any, stage: Any) -> Any: ...


def test_a_copying_task_takes_the_source_and_what_pass_args_names(instances: Instances) -> None:
    source = instances().get("full")
    with Flow(), Stage("raw") as raw:
        copy(source, stage=raw, attrs={"rows": 3})["orders"]
        with pytest.raises(WiringError, match=r"pass_args is \['attrs', 'stage'\], but it is called with \['stage'\]"):
            copy(source, stage=raw)
        with pytest.raises(WiringError, match=r"raw.copy_2: its argument 'rows' is not an instance.*pass_args="):
            copy(source, stage=raw, attrs={}, rows=3)
        with pytest.raises(WiringError, match=r"raw.copy_2 is called with 2 instances"):
            copy(source, source, stage=raw, attrs={})
    assert names(raw) == [["orders"]]


def test_a_copying_task_whose_tables_nobody_names_has_one_output(instances: Instances) -> None:
    source = instances().get("full")
    with Flow(), Stage("raw") as raw:
        copy(source, stage=raw, attrs={})
    assert names(raw) == [["copy"]]


def test_a_copying_task_needs_the_configuration_of_an_instance_as_its_source() -> None:
    with (
        Flow(),
        Stage("raw") as raw,
        pytest.raises(WiringError, match=r"raw\.copy: its argument 1 is not an instance.*source_cfg, stage=stage"),
    ):
        copy("full", stage=raw, attrs={})


# Whole flows


def test_a_flow_without_a_stage_is_refused(instances: Instances) -> None:
    with Flow("empty") as flow:
        pass
    with pytest.raises(WiringError, match=r"Flow 'empty' has no stage"):
        flow.run(config=instances().get("full"))


def test_two_flows_with_a_stage_of_one_name_are_refused(instances: Instances) -> None:
    def one(name: str) -> Flow:
        with Flow(name) as flow, Stage("raw"):
            clean()
        return flow

    with pytest.raises(WiringError, match=r"Two flows have a stage 'raw'"):
        build_definitions(lambda instance: [one("web"), one("shops")], instances(), instance="full")
