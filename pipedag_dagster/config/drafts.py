"""One instance before its placeholders are filled in, and everything that can be wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, TypeVar

from pipedag_dagster.config.automation import Automation
from pipedag_dagster.config.database_url import EXAMPLE, database_url
from pipedag_dagster.config.instance_config import COPY_ATTRS
from pipedag_dagster.config.keys import PREFIX, URL, CacheMode, Key, Section
from pipedag_dagster.config.layers import Layer, get, merge, nested
from pipedag_dagster.config.placeholders import PLACEHOLDER
from pipedag_dagster.config.sample_layers import merged_sample, place_of
from pipedag_dagster.errors import Problem, did_you_mean

_Automated = TypeVar("_Automated", bound=Automation)


@dataclass(frozen=True)
class Draft:
    """One instance with its placeholders: the layers that make it up, the lowest first."""

    name: str
    layers: tuple[Layer, ...]

    @cached_property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = reduce(merge, (nested(layer.below, layer.data) for layer in self.layers), {})
        return {**data, "sample": sample} if (sample := merged_sample(self.layers)) else data

    @cached_property
    def section(self) -> Section:
        return Section.model_validate(self.data)

    def location(self) -> tuple[str | None, ...]:
        """The templates that decide where the tables of the instance are."""
        args = self.section.table_store.args
        return args.url, args.url_attrs_file, args.schema_prefix, args.schema_suffix

    def problem(self, path: Key, message: str) -> Problem:
        """A mistake in the value at `path`, reported where the value comes from."""
        if (place := place_of(path, self.layers)) is not None:
            layer, own_path = place
            return layer.problem(own_path, message)
        layers = (layer for layer in reversed(self.layers) if layer.get(path) is not None)
        return next(layers, self.layers[-1]).problem(path, message)


def draft(name: str, shared: Layer, base: Layer, own: Layer) -> Draft:
    """The draft of an instance: its own layer over what all share, over the setup and connections that it names."""
    result = Draft(name, (base, own))
    default = "default" if "default" in shared.keys("technical_setups") else None
    if setup := result.data.get("technical_setup", default):
        result = Draft(name, (shared.part("technical_setups", setup), *result.layers))
    for store in ("table_store", "blob_store"):
        if connection := get(result.data, (store, f"{store}_connection")):
            lowest = replace(shared.part(f"{store}_connections", connection), below=(store,))
            result = Draft(name, (lowest, *result.layers))
    return result


def switched_on(section: _Automated | None) -> _Automated | None:
    """The section; None when it says `false`."""
    return section if section is not None and section.enabled else None


def mistakes(path: Path, drafts: dict[str, Draft], shared: Layer) -> Iterator[Problem]:
    """What is wrong with whole instances. Where a part of an instance is wrong, nothing is said about missing keys."""
    if not drafts and not shared.bad:
        advice = f"a file for each, like {path / 'full.yaml'}" if path.is_dir() else "`instances: {full: {}}`"
        yield Problem(path, None, f"there is no instance. Write {advice}.")
    complete: list[Draft] = []
    for each in drafts.values():
        unknown = [*_unknown_references(each, drafts, shared)]
        yield from unknown
        rows = each.section.attrs.get("copy_filter_cnt")
        if rows is not None and (type(rows) is not int or rows < 1):
            message = f"must be a whole number of at least 1, not {rows!r}."
            yield each.problem(("attrs", "copy_filter_cnt"), message)
        if not unknown and not any(layer.bad for layer in each.layers):
            yield from _automation_mistakes(each)
            yield from _url_mistakes(each)
            complete.append(each)
    yield from _shared_schemas(complete)


def _url_mistakes(draft: Draft) -> Iterator[Problem]:
    url = draft.section.table_store.args.url
    if url is None:
        advice = f'Write `table_store: {{args: {{url: "{EXAMPLE}"}}}}`, or `url: embedded`.'
        yield draft.problem(URL, f"the instance {draft.name!r} has no database. {advice}")
    elif not PLACEHOLDER.search(url):
        try:
            database_url(url)
        except ValueError as error:
            yield draft.problem(URL, str(error))


def _shared_schemas(drafts: list[Draft]) -> Iterator[Problem]:
    """Instances whose tables would be in the same schemas."""
    sharing: dict[tuple[str, ...], list[Draft]] = {}
    for each in drafts:
        url, *rest = each.location()
        if url is not None:
            instance_id = each.section.instance_id or each.name
            place = tuple((template or "").replace("{instance_id}", instance_id) for template in (url, *rest))
            sharing.setdefault(place, []).append(each)
    for several in sharing.values():
        if len(several) > 1:
            names = " and ".join(repr(each.name) for each in several)
            message = f"{names} would share their schemas. Put '{{instance_id}}' into schema_prefix or url"
            yield several[-1].problem(PREFIX, f"{message}, and give each its own instance_id.")


def _automation_mistakes(draft: Draft) -> Iterator[Problem]:
    """Schedules and sensors that would never run, or whose runs would always fail."""
    section, off = draft.section, f"Or write `{{}}: false` for {draft.name!r}."
    cache = section.cache_validation
    no_fresh_input = cache.mode in (CacheMode.assert_no_fresh_input, CacheMode.ignore_fresh_input)
    if (schedule := switched_on(section.schedule)) and schedule.cron is None:
        yield draft.problem(("schedule",), 'has no cron. Write `schedule: "0 6 * * *"`.')
    if switched_on(section.refresh):
        if section.attrs.get("copy_filtered_input") is not True:
            message = "has no source to follow, because attrs.copy_filtered_input is not true."
            yield draft.problem(("refresh",), f"{message} {off.format('refresh')}")
        if no_fresh_input:
            message = f"its runs would not read new input, because cache_validation.mode is {cache.mode}."
            yield draft.problem(("refresh",), f"{message} {off.format('refresh')}")
    if poll := switched_on(section.poll):
        if poll.interval is None:
            yield draft.problem(("poll",), "has no interval. Write `poll: 60`, in seconds.")
        if no_fresh_input or cache.disable_cache_function:
            why = "disable_cache_function is true" if cache.disable_cache_function else f"mode is {cache.mode}"
            message = f"its runs would not call the cache functions, because cache_validation.{why}."
            yield draft.problem(("poll",), f"{message} {off.format('poll')}")


def misspelt_attrs(attrs: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The names among attrs that are close to one that has a meaning here, each with a message."""
    for name in attrs:
        close = difflib.get_close_matches(str(name), COPY_ATTRS, n=1, cutoff=0.9)
        if close and name not in COPY_ATTRS:
            yield name, f"is not known. Did you mean {close[0]!r}?"


def _mistaken_attrs(attrs: Mapping[str, Any], others: Collection[Any]) -> Iterator[tuple[str, str]]:
    """Attrs that are misspelt or have no effect, each with a message. Most attrs are the user's own; but a misspelt
    `copy_source` would let a small instance read the real sources."""
    yield from misspelt_attrs(attrs)
    if "copy_filtered_input" not in attrs and attrs.get("copy_source") in others:
        advice = "Write `copy_filtered_input: true`, or false if nothing is to be copied."
        yield "copy_source", f"has no effect, because there is no copy_filtered_input. {advice}"


def _unknown_references(draft: Draft, drafts: dict[str, Draft], shared: Layer) -> Iterator[Problem]:
    """Names of setups, connections and instances that do not exist."""
    sections: dict[str, Key] = {
        "technical_setups": ("technical_setup",),
        "table_store_connections": ("table_store", "table_store_connection"),
        "blob_store_connections": ("blob_store", "blob_store_connection"),
    }
    for section, path in sections.items():
        name, known = get(draft.data, path), shared.keys(section)
        if name is not None and name not in known:
            yield draft.problem(path, f"there is no {name!r} in {section}.{did_you_mean(name, known)}")
    attrs = draft.section.attrs
    source, others = attrs.get("copy_source"), [name for name in drafts if name != draft.name]
    # A source that an environment variable names is looked up when it is needed.
    if attrs.get("copy_filtered_input") is True and source not in others and "{$" not in str(source):
        wrong = "has no value" if source is None else f"there is no other instance {source!r}"
        message = f"{wrong}, but copy_filtered_input is true.{did_you_mean(str(source), others)}"
        yield draft.problem(("attrs", "copy_source"), message)
    for attr, message in _mistaken_attrs(attrs, others):
        yield draft.problem(("attrs", attr), message)
