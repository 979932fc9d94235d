"""`instance.attrs`: a dict whose keys are attributes, too."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from pipedag_dagster import Flow, PipedagConfig, Stage, materialize
from pipedag_dagster.config.attrs import Attrs
from pipedag_dagster.errors import ConfigError, FrozenAttrs, UnknownAttr
from pipedag_dagster.fingerprint.fingerprint import content_hash
from pipedag_dagster_tests.helpers import Instances

VALUES = {"rows": 5, "sizes": {"max-rows": 7}, "steps": [{"name": "one"}]}
ATTRS = Attrs(VALUES)


def test_keys_are_attributes_at_any_depth() -> None:
    assert (ATTRS.rows, ATTRS["rows"]) == (5, 5)
    assert (ATTRS.sizes["max-rows"], ATTRS.sizes.max_rows, ATTRS["sizes"].max_rows) == (7, 7, 7)
    assert ATTRS.steps[0].name == "one"
    assert {"rows", "sizes"} <= set(dir(ATTRS))


def test_they_are_a_dict() -> None:
    assert VALUES == ATTRS
    assert {**ATTRS} == VALUES
    assert list(ATTRS) == list(VALUES)
    assert ATTRS.get("other", 1) == 1


@pytest.mark.parametrize("error", [UnknownAttr, ConfigError, AttributeError, KeyError])
@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda: ATTRS.row, "attrs has no key 'row'. Did you mean 'rows'?"),
        (lambda: ATTRS["row"], "attrs has no key 'row'. Did you mean 'rows'?"),
        (lambda: ATTRS.sizes.max, r"attrs.sizes has no key 'max'."),
        (lambda: ATTRS.steps[0].nam, r"attrs\.steps\[0\] has no key 'nam'."),
    ],
)
def test_a_missing_key_is_named(read: Callable[[], Any], says: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=says):
        read()


def test_hasattr_and_getattr_work() -> None:
    assert hasattr(ATTRS, "rows")
    assert not hasattr(ATTRS, "columns")
    assert getattr(ATTRS, "columns", 3) == 3


CHANGES: dict[str, Callable[[Attrs], Any]] = {
    "item": lambda attrs: attrs.__setitem__("rows", 6),
    "attribute": lambda attrs: setattr(attrs, "rows", 6),
    "nested": lambda attrs: attrs.sizes.update(a=1),
    "delete": lambda attrs: attrs.__delitem__("rows"),
    "pop": lambda attrs: attrs.pop("rows"),
    "in place": lambda attrs: attrs.__ior__({"rows": 6}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_they_cannot_be_changed(change: Callable[[Attrs], Any]) -> None:
    with pytest.raises(FrozenAttrs, match=r"instance\.with_attrs"):
        change(ATTRS)
    assert VALUES == ATTRS


def test_a_copy_can_be_changed() -> None:
    values = ATTRS.to_dict()
    values["sizes"]["max-rows"] = 8
    assert type(values["steps"][0]) is dict
    assert ATTRS.sizes.max_rows == 7


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda attrs: pickle.loads(pickle.dumps(attrs))])
def test_copies_are_attrs(copied: Callable[[Attrs], Attrs]) -> None:
    assert copied(ATTRS) == ATTRS
    assert copied(ATTRS).sizes.max_rows == 7


def test_they_have_the_content_of_a_dict() -> None:
    assert content_hash(ATTRS) == content_hash(VALUES)


def test_a_task_takes_and_returns_them(instances: Instances) -> None:
    config: PipedagConfig = instances(mini="attrs: {sizes: {max: 7}, steps: [{name: one}]}\n")
    instance = config.get("mini")

    @materialize(version="1")
    def sizes(attrs: Any) -> Any:
        return {"max": attrs.sizes.max, "all": attrs}

    with Flow() as flow, Stage("raw"):
        output = sizes(instance.attrs)
    result = flow.run(config=instance)
    assert result.get(output) == {"max": 7, "all": {"sizes": {"max": 7}, "steps": [{"name": "one"}]}}
