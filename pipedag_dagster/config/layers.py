"""Reading one configuration file: its data without its mistakes, and a plain sentence for every mistake.

Mistakes are collected, and left out of the data, so that one mistake does not hide another, in this file or the next,
and so that a mistake in one instance does not keep another one from running. A message shows a value only where it
cannot be a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipedag_dagster.config.keys import AUTO_TABLE, NOT_NEEDED, Key
from pipedag_dagster.config.section import keys_of
from pipedag_dagster.config.yaml_file import YamlFile, load
from pipedag_dagster.errors import ConfigError, Problem, did_you_mean


@dataclass(frozen=True)
class Layer:
    """One section of a file, checked and without its mistakes. `at` is its path in the file.

    `mistakes` are those of the section, each with its path in the file; the path () stands for the whole file.
    `below` is the path of the section in an instance: a connection is below `table_store`.
    """

    source: YamlFile
    at: Key = ()
    data: dict[str, Any] = field(default_factory=dict)
    mistakes: tuple[tuple[Key, Problem], ...] = ()
    below: Key = ()

    def part(self, *at: str) -> Layer:
        """The section at `at` in this one; an empty one when there is none."""
        place = (*self.at, *at)
        inside = tuple(each for each in self.mistakes if all(a == b for a, b in zip(each[0], place, strict=False)))
        return Layer(self.source, place, get(self.data, at) or {}, inside)

    def without(self, key: str) -> Layer:
        """The section without one of its keys, and without the mistakes in it."""
        place = (*self.at, key)
        others = tuple(each for each in self.mistakes if each[0][: len(place)] != place)
        return replace(self, data={name: value for name, value in self.data.items() if name != key}, mistakes=others)

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the section."""
        return [problem for _, problem in self.mistakes]

    def get(self, path: Key) -> Any:
        """The value of the layer for `path` in the instance; None when it has none."""
        lies_below = path[: len(self.below)] == self.below
        return get(self.data, path[len(self.below) :]) if lies_below else None

    def keys(self, section: str) -> list[str]:
        """The names in a section of the file, including those with mistakes."""
        data = get(self.source.data, (section,))
        return [key for key in data if isinstance(key, str)] if isinstance(data, dict) else []

    def problem(self, path: Key, message: str) -> Problem:
        """A mistake in the value for `path` in the instance."""
        place = (*self.at, *path[len(self.below) :])
        return Problem(self.source.file, self.source.line(place), f"{dotted(place)}: {message}")


def get(data: Any, path: Key) -> Any:
    """The value at `path`, None when there is none."""
    for part in path:
        if isinstance(data, list | tuple) and isinstance(part, int):
            data = data[part] if part < len(data) else None
        else:
            data = data.get(part) if isinstance(data, dict) else None
    return data


def merge(low: dict[Any, Any], high: dict[Any, Any]) -> dict[Any, Any]:
    """`high` over `low`, mappings key by key."""
    merged = {**low, **high}
    for key in low.keys() & high.keys():
        if isinstance(low[key], dict) and isinstance(high[key], dict):
            merged[key] = merge(low[key], high[key])
    return merged


def nested(path: Key, data: dict[Any, Any]) -> dict[Any, Any]:
    """`data` in nested mappings, so that it is at `path`."""
    return reduce(lambda inner, key: {key: inner}, reversed(path), data)


def dotted(path: Key) -> str:
    """A path as people write it.

    >>> dotted(("instances", "midi", "auto_table", 0))
    'instances.midi.auto_table[0]'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def read(file: Path, model: type[BaseModel], notes: list[str]) -> Layer:
    """Read one file. Keys that have no effect are added to `notes`."""
    try:
        source = load(file)
    except ConfigError as error:
        return Layer(YamlFile(file, {}), mistakes=tuple(((), problem) for problem in error.problems))
    return checked(source, model, notes)


def checked(source: YamlFile, model: type[BaseModel], notes: list[str]) -> Layer:
    """The data of a file, checked. Keys that have no effect are added to `notes`."""
    mistakes: list[tuple[Key, Problem]] = [((), problem) for problem in source.problems]
    bad: set[Key] = set()
    try:
        section = model.model_validate(source.data)
    except ValidationError as error:
        for mistake in error.errors(include_url=False):
            place = tuple(part for part in mistake["loc"] if part != "[key]")
            bad.add(tuple(map(str, place)))
            text = f"{dotted(place)}: {_sentence(mistake, model)}"
            mistakes.append((tuple(map(str, place)), Problem(source.file, source.line(place), text)))
        section = _best_of(_without(source.data, bad), model)
    for place in _unused(section):
        notes.append(f"not needed: {dotted(place)} ({source.file}:{source.line(place)})")
    return Layer(source, data=section.model_dump(by_alias=True, exclude_unset=True), mistakes=tuple(mistakes))


def _best_of(data: Any, model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate(data)
    except ValidationError:  # pydantic says 1 for the key `true`, so it was not left out
        return model()


def _without(data: Any, bad: set[Key], at: tuple[str, ...] = ()) -> Any:
    if isinstance(data, dict):
        return {key: _without(value, bad, (*at, str(key))) for key, value in data.items() if (*at, str(key)) not in bad}
    if isinstance(data, list):
        return [value for number, value in enumerate(data) if (*at, str(number)) not in bad]
    return data


def _unused(model: BaseModel, at: Key = ()) -> Iterator[Key]:
    for key, name in keys_of(type(model)).items():
        if name not in model.model_fields_set:
            continue
        value = getattr(model, name)
        if name == "auto_table":
            yield from ((*at, key, number) for number, one in enumerate(value) if one not in AUTO_TABLE)
        if NOT_NEEDED in type(model).model_fields[name].metadata:
            yield (*at, key)
        elif isinstance(value, BaseModel):
            yield from _unused(value, (*at, key))
        elif isinstance(value, dict):
            for inner, item in value.items():
                if isinstance(item, BaseModel):
                    yield from _unused(item, (*at, key, inner))


def _sentence(mistake: ErrorDetails, model: type[BaseModel]) -> str:
    """The mistake as a sentence for people who have never heard of pydantic."""
    loc, value, context = mistake["loc"], mistake["input"], mistake.get("ctx", {})
    if loc[-1] == "[key]":
        return "a name must be text. Put it into quotes."
    match mistake["type"]:
        case "extra_forbidden" | "invalid_key":
            return f"unknown key.{did_you_mean(str(loc[-1]), _keys_at(model, loc[:-1]))}"
        case "value_error":
            return str(context["error"])
        case "missing":
            return "is missing."
        case "list_type" | "tuple_type":
            return "must be a list."
        case "dict_type" | "model_type":
            return "must be a mapping of keys to values."
        case "bool_type":
            sentence = "must be true or false"
        case "int_type":
            sentence = "must be a whole number"
        case "float_type" | "finite_number":
            sentence = "must be a number"
        case "greater_than_equal":
            sentence = f"must be at least {context['ge']:g}"
        case "string_type":
            sentence = "must be text (put it into quotes)"
        case _:
            sentence = mistake["msg"]
    # A value below `args`, or in the options of an executor, may be a password.
    secret = "args" in loc or "executor" in loc or isinstance(value, dict | list)
    return f"{sentence}." if secret else f"{sentence}, not {value!r}."


def _keys_at(model: type[BaseModel], loc: Key) -> Iterable[str]:
    section: Any = model
    for part in loc:
        if hasattr(section, "model_fields"):
            section = section.model_fields[keys_of(section)[str(part)]].annotation
            section = get_args(section)[0] if type(None) in get_args(section) else section
        else:  # dict[str, section]
            section = get_args(section)[-1]
    return keys_of(section)
