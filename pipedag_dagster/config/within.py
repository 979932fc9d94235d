"""`sample: {within: midi}`: the sample of an instance is part of the sample of another one, and inherits its rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from pipedag_dagster.config.drafts import Draft
from pipedag_dagster.config.sample_layers import inherited
from pipedag_dagster.errors import Problem, did_you_mean

_COPY = ("copy_source", "copy_per_user")


def nested_sample(name: str, drafts: Mapping[str, Draft], problems: list[Problem]) -> Draft:
    """An instance with what it inherits from the one that it is within. Mistakes are added to `problems`."""
    done: dict[str, Draft] = {}
    _nest(name, drafts, done, problems, ())
    return done[name]


def _nest(
    name: str, drafts: Mapping[str, Draft], done: dict[str, Draft], problems: list[Problem], inner: tuple[str, ...]
) -> None:
    """Put into `done` the instance `name`. `inner` are the instances that are within it, directly or not."""
    if name in done:
        return
    draft = drafts[name]
    wider = draft.section.sample.within
    mistakes = list(_mistakes(draft, drafts, inner))
    if wider is None or mistakes:
        problems += mistakes
        done[name] = draft
        return
    _nest(wider, drafts, done, problems, (*inner, name))
    outer = done[wider]
    rows = outer.section.default_rows if outer.section.sample.rows is None else None
    own = max(number for number, layer in enumerate(draft.layers) if layer.get(("sample", "within")) is not None)
    lower, upper = draft.layers[:own], draft.layers[own:]
    done[name] = replace(draft, layers=(*lower, *inherited(outer.layers, draft.layers, upper, rows), *upper))


def _mistakes(draft: Draft, drafts: Mapping[str, Draft], inner: tuple[str, ...]) -> Iterator[Problem]:
    name, wider = draft.name, draft.section.sample.within
    if wider is None:
        return
    path = ("sample", "within")
    others = [other for other in drafts if other != name]
    if wider == name:
        advice = "Write `within` into the file of the smaller instance alone."
        yield draft.problem(path, f"the sample of {name!r} cannot be within itself. {advice}")
    elif wider in inner:
        circle = " within ".join(map(repr, (*inner[inner.index(wider) :], name, wider)))
        yield draft.problem(path, f"the samples would be within each other in a circle: {circle}.")
    elif wider not in drafts:
        yield draft.problem(path, f"no other instance is called {wider!r}.{did_you_mean(wider, others)}")
    else:
        yield from _other_source(draft, drafts[wider])


def _other_source(draft: Draft, wider: Draft) -> Iterator[Problem]:
    """A sample can only be part of another one that is taken from the same tables."""
    own, theirs = draft.section.attrs, wider.section.attrs
    for each, attrs in ((draft, own), (wider, theirs)):
        if attrs.get("copy_filtered_input") is not True:
            message = f"{each.name!r} has no sample, because its attrs.copy_filtered_input is not true."
            yield draft.problem(("sample", "within"), message)
            return
    if own.get("copy_source") == wider.name:
        message = f"has no effect: {draft.name!r} copies from {wider.name!r}, so it is part of it anyway. Remove it."
        yield draft.problem(("sample", "within"), message)
        return
    for attr in _COPY:
        if own.get(attr) != theirs.get(attr):
            both = f"attrs.{attr} is {own.get(attr)!r} for {draft.name!r}, but {theirs.get(attr)!r} for {wider.name!r}."
            yield draft.problem(("sample", "within"), f"{both} Both must copy from the same source.")
