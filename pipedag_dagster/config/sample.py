"""The section `sample`: which rows of its source a small instance copies."""

from __future__ import annotations

import re
from typing import Annotated, Any, NamedTuple, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from pipedag_dagster.config.section import Keys, one_of
from pipedag_dagster.sql_condition import condition

WORDS = ("all", "none", "parents")
_RULES = ("rule", "rows", "fraction", "where", "children_of", "choose")
_OPTIONS = {"per_value": "rows", "key": "fraction", "per_parent": "children_of"}
"""Keys that only one rule has."""

_Count: TypeAlias = Annotated[int, Field(ge=1)]
_CountOrZero: TypeAlias = Annotated[int, Field(ge=0)]


def _condition(text: str) -> str:
    condition(text)
    return text


def _share(number: float) -> float:
    if not 0 < number <= 1:
        raise ValueError(f"must be more than 0 and at most 1, not {number!r}.")
    return number


def _function(text: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", text):
        raise ValueError(f"{text!r} is not a function. Write module:function, like my_pipeline.sampling:claims.")
    return text


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


_Condition: TypeAlias = Annotated[str, AfterValidator(_condition)]
_Texts: TypeAlias = Annotated[
    tuple[str, ...],
    Field(strict=False),
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""A text, or a list of texts."""


class TableSample(Keys):
    """The rule of one table, with the options of the rule. The short form `planes: all` is `planes: {rule: all}`."""

    rule: Annotated[str, one_of(WORDS, "unknown rule {!r}.")] | None = None
    rows: _Count | None = None
    per_value: dict[str, _Count] = {}
    fraction: Annotated[float, AfterValidator(_share)] | None = None
    key: _Texts = ()
    where: _Condition | None = None
    children_of: _Texts = ()
    per_parent: _Count | None = None
    choose: Annotated[str, AfterValidator(_function)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"rule": data}
        if isinstance(data, dict) and data.get("children_of") is not None and "limit" in data:
            raise ValueError(
                "children_of has no limit: with one in all, a smaller sample would not be part of a larger one. "
                "Write per_parent, which limits the children of each parent."
            )
        if isinstance(data, dict) and (unknown := [key for key in data if key in WORDS]):
            raise ValueError(f"write the rule {unknown[0]!r} as a word alone, without braces.")
        return data

    @model_validator(mode="after")
    def _one_rule(self) -> TableSample:
        rules = [key for key in _RULES if getattr(self, key)]
        if len(rules) > 1:
            raise ValueError(f"has several rules: {' and '.join(rules)}. Keep one of them.")
        for option, rule in _OPTIONS.items():
            if getattr(self, option) and rule not in rules:
                raise ValueError(f"nobody reads {option}, because there is no {rule}.")
        return self


class KeepRows(Keys):
    """Rows of one table that are in every sample."""

    table: str
    where: _Condition
    because: str = ""


class EdgeCaseCounts(Keys):
    """How many rows of each rare kind a sample has at least."""

    per_value: _CountOrZero = 0
    values: _CountOrZero = 50
    nulls: _CountOrZero = 0
    extremes: _CountOrZero = 0
    orphans: _CountOrZero = 0


class RelationText(NamedTuple):
    """The parts of a relation as it is written: `child.column -> parent.column when condition`."""

    child: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    when: str | None


_NAME = r'(?:\w+|"(?:[^"]|"")+")'
_LIST = rf"{_NAME}|\(\s*{_NAME}(?:\s*,\s*{_NAME})*\s*\)"
_SIDE = rf"({_NAME}(?:\.{_NAME})?)\.({_LIST})"
_RELATION = re.compile(rf"\s*{_SIDE}\s*->\s*{_SIDE}(?:\s+when\s+(.+?))?\s*", re.IGNORECASE | re.DOTALL)


def relation_parts(text: str) -> RelationText:
    """The parts of a relation.

    Raises:
        ValueError: it is not written as one.

    >>> relation_parts("flights.(origin, hour) -> raw.weather.(airport, hour) when origin <> 'LGA'")[:4]
    ('flights', ('origin', 'hour'), 'raw.weather', ('airport', 'hour'))
    """
    match = _RELATION.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a relation. Write `flights.tailnum -> planes.tailnum`, or with several columns "
            "`flights.(origin, hour) -> weather.(origin, hour)`, and maybe `when` and a condition."
        )
    child, columns, parent, parent_columns, when = match.groups()
    parts = RelationText(_plain(child), _names(columns), _plain(parent), _names(parent_columns), when)
    if len(parts.columns) != len(parts.parent_columns):
        raise ValueError(f"{columns} cannot refer to {parent_columns}: the numbers of columns differ.")
    if when is not None:
        condition(when)
    return parts


def _names(text: str) -> tuple[str, ...]:
    return tuple(map(_unquoted, re.findall(_NAME, text)))


def _plain(table: str) -> str:
    return ".".join(map(_unquoted, re.findall(_NAME, table)))


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _relation(text: str) -> str:
    relation_parts(text)
    return text


def _one_table_once(tables: dict[str, TableSample]) -> dict[str, TableSample]:
    seen: dict[str, str] = {}
    for name in tables:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"{other!r} and {name!r} are the same table, because case does not matter. Keep one.")
    return tables


class Sample(Keys):
    """The section `sample`. `rows` is the rule of the tables that are not in `tables`."""

    seed: int = 0
    rows: _Count | None = None
    whole_below: _CountOrZero = 0
    relations: list[Annotated[str, AfterValidator(_relation)]] = []
    keep: list[KeepRows] = []
    tables: Annotated[dict[str, TableSample], AfterValidator(_one_table_once)] = {}
    edge_cases: EdgeCaseCounts = EdgeCaseCounts()
    max_rows: _Count | None = None
    within: str | None = None
