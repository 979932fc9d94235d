"""Each program of a pair gives another result, so it has another fingerprint; and what changes nothing does not.

The pairs are the files in the folder `pairs`, by kind.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import itertools
import operator
import pathlib
import re
import sys
import types
import typing
import uuid
import zoneinfo
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pytest
import sqlalchemy as sa

from pipedag_dagster.fingerprint.fingerprint import content_hash, fingerprint
from pipedag_dagster_tests.helpers.program_pairs import KINDS, PAIRS, Computer, Program, pairs


@pytest.fixture
def computer(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Computer]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    computer = Computer(tmp_path, monkeypatch)
    precision = decimal.getcontext().prec
    yield computer
    computer.forget()
    decimal.getcontext().prec = precision
    pd.reset_option("display.precision")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("before", "after"), [*itertools.chain.from_iterable(map(pairs, KINDS))])
def test_a_task_with_another_result_has_another_fingerprint(
    computer: Computer, before: Program, after: Program
) -> None:
    first, result = computer.run(before)
    again, _ = computer.run(before)
    second, other_result = computer.run(after)
    assert repr(result) != repr(other_result), "not a pair: both programs have the same result"
    assert first.version == again.version, "the same program has two fingerprints"
    assert first.version != second.version, (dict(first.coarse), dict(first.unstable))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("before", "after"), list(pairs("same")))
def test_what_does_not_change_the_result_does_not_change_the_fingerprint(
    computer: Computer, before: Program, after: Program
) -> None:
    first, _ = computer.run(before)
    second, _ = computer.run(after)
    assert first.version == second.version
    assert not first.coarse


# Values


class Steps(list[Any]): ...


class Rates(list[Any]): ...


class Name(str): ...


class Number(int): ...


class Rate(float): ...


class Kinds(set[Any]): ...


class Prices(dict[str, Any]): ...


class Day(datetime.date): ...


class Money(decimal.Decimal): ...


class Folder(pathlib.PurePosixPath): ...


class Failed(Exception): ...


class Orders(pd.DataFrame): ...


Point = collections.namedtuple("Point", "x y")
Span = collections.namedtuple("Span", "x y")
Reversed = collections.namedtuple("Reversed", "y x")


@dataclasses.dataclass
class Window:
    days: float


@dataclasses.dataclass
class Pane:
    days: float


@attrs.define(slots=False)
class Attributed:
    n: int


class Hiding:
    def __init__(self, n: int) -> None:
        self.n = n

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Reducing(Hiding):
    def __reduce__(self) -> Any:
        return Reducing, (0,)


class Slotted:
    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n


class SlottedMore(Slotted):
    def __init__(self, n: int, more: int) -> None:
        super().__init__(n)
        self.more = more


class Private:
    __slots__ = ("__n",)

    def __init__(self, n: int) -> None:
        self.__n = n

    def get(self) -> int:
        return self.__n


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Shade(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int = 0
    _private: int = 0


class Zone(datetime.tzinfo):
    def __init__(self, hours: int) -> None:
        self.hours = hours

    def utcoffset(self, _: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(hours=self.hours)


def loop(value: int) -> list[Any]:
    """A list that holds itself."""
    found: list[Any] = [value]
    found.append(found)
    return found


def outer_loop(value: int) -> list[Any]:
    """A list that holds a list that holds the first one."""
    found: list[Any] = [value]
    found.append([value, found])
    return found


def with_attribute(value: Any, extra: int) -> Any:
    value.extra = extra
    return value


def private_of(value: Model, number: int) -> Model:
    value._private = number
    return value


def attributed(frame: pd.DataFrame, value: int) -> pd.DataFrame:
    frame.attrs["source"] = value
    return frame


NAMES = {
    **globals(),
    "array": array,
    "functools": functools,
    "operator": operator,
    "re": re,
    "types": types,
    "typing": typing,
}
NAMES |= {"fractions": fractions, "ipaddress": ipaddress, "uuid": uuid, "zoneinfo": zoneinfo, "np": np, "pl": pl}
NAMES |= {"pa": pa, "sa": sa}


def values() -> Iterator[Any]:
    for line in (PAIRS / "values.txt").read_text().splitlines():
        if not line.startswith("#"):
            pair, _, probe = line.partition(" ;; ")
            before, _, after = pair.partition(" | ")
            yield pytest.param(before, after, probe or "repr(x)", id=pair)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("before", "after", "probe"), list(values()))
def test_values_that_a_program_can_tell_apart_have_different_hashes(before: str, after: str, probe: str) -> None:
    """Before and after as the argument of a task, in a list, and behind a name in its code."""
    one, two = eval(before, NAMES), eval(after, NAMES)
    seen = [(type(value), repr(eval(probe, {**NAMES, "x": value}))) for value in (one, two)]
    assert seen[0] != seen[1], "not a pair: both values are the same"
    assert content_hash(one) == content_hash(eval(before, NAMES))
    assert content_hash(one) != content_hash(two)
    assert content_hash([one]) != content_hash([two])
    versions = [fingerprint(lambda value=value: value).version for value in (one, two)]
    assert versions[0] != versions[1]


def test_there_are_at_least_three_hundred_pairs() -> None:
    assert sum(len(list(pairs(kind))) for kind in KINDS) + len(list(values())) >= 300
