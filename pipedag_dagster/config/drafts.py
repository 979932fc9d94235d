"""One instance before its placeholders are filled in, and everything that can be wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, TypeVar

from pipedag_dagster.config.automation import Automation
from pipedag_dagster.config.database_url import EXAMPLE, database_url
from pipedag_dagster.config.instance_config import COPY_ATTRS
from pipedag_dagster.config.keys import ARGS, PREFIX, URL, CacheMode, Key, Section
from pipedag_dagster.config.layers import Layer, get, merge, nested
from pipedag_dagster.config.placeholders import PLACEHOLDER
from pipedag_dagster.config.sample_layers import merged_sample, place_of
from pipedag_dagster.config.sections import ANY, Sections
from pipedag_dagster.config.stores import BLOB_STORES, TABLE_STORES, is_foreign, unknown_store
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

    def place(self) -> tuple[str, ...] | None:
        """Where the tables of the instance are, as far as it is known before the placeholders of the environment are
        filled in; None when it has no database."""
        url, *rest = self.location()
        if url is None:
            return None
        instance_id = self.section.instance_id or self.name
        return tuple((template or "").replace("{instance_id}", instance_id) for template in (url, *rest))

    def problem(self, path: Key, message: str) -> Problem:
        """A mistake in the value at `path`, reported where the value comes from."""
        if (place := place_of(path, self.layers)) is not None:
            layer, own_path = place
            return layer.problem(own_path, message)
        layers = (layer for layer in reversed(self.layers) if layer.get(path) is not None)
        return next(layers, self.layers[-1]).problem(path, message)


def draft(name: str, sections: Sections, flow: str | None = None) -> Draft:
    """The draft of an instance. Each section comes with the setup and the connections that it names, which are just
    below it."""
    shared, layers = sections.shared, []
    named = sections.of(None if name == ANY else name, flow)
    setups = [section.data.get("technical_setup") for section in named]
    if not any(setups) and "default" in shared.keys("technical_setups"):
        setups[0] = "default"
    for section, setup in zip(named, setups, strict=True):
        group = [section] if setup is None else [shared.part("technical_setups", setup), section]
        data: dict[str, Any] = reduce(merge, (layer.data for layer in group), {})
        for store in ("table_store", "blob_store"):
            if connection := get(data, (store, f"{store}_connection")):
                group.insert(0, replace(shared.part(f"{store}_connections", connection), below=(store,)))
        layers += group
    return Draft(name, tuple(layers))


def switched_on(section: _Automated | None) -> _Automated | None:
    """The section; None when it says `false`."""
    return section if section is not None and section.enabled else None


def mistakes(draft: Draft, sections: Sections, others: Iterable[Draft]) -> Iterator[Problem]:
    """What is wrong with an instance. Where a part of it is wrong, nothing is said about missing keys.

    Args:
        others: the drafts of the other instances.
    """
    foreign = [*_foreign_stores(draft)]
    if foreign:  # its other keys mean nothing here
        yield from foreign
        return
    written = [problem for layer in draft.layers for problem in layer.problems]
    yield from written
    unknown = [*_unknown_references(draft, sections)]
    yield from unknown
    rows = draft.section.attrs.get("copy_filter_cnt")
    if rows is not None and (type(rows) is not int or rows < 1):
        yield draft.problem(("attrs", "copy_filter_cnt"), f"must be a whole number of at least 1, not {rows!r}.")
    if not unknown and not written:
        yield from _automation_mistakes(draft)
        yield from _detail_mistakes(draft)
        yield from _url_mistakes(draft)
        yield from _shared_schemas(draft, others)


def _foreign_stores(draft: Draft) -> Iterator[Problem]:
    """Stores that this package does not have, by class or by url."""
    for store, known in (("table_store", TABLE_STORES), ("blob_store", BLOB_STORES)):
        message = unknown_store(get(draft.data, (store, "class")) or known[0], known)
        if message is not None:
            yield draft.problem((store, "class"), message)
    if is_foreign(draft.data.get("table_store") or {}):
        yield from _url_mistakes(draft)


def no_instance(path: Path) -> Problem:
    """Nothing is written about any instance."""
    advice = f"a file for each, like {path / 'full.yaml'}" if path.is_dir() else "`instances: {full: {}}`"
    return Problem(path, None, f"there is no instance. Write {advice}.")


def _url_mistakes(draft: Draft) -> Iterator[Problem]:
    url = draft.section.table_store.args.url
    if url is None and is_foreign(draft.data.get("table_store") or {}):
        return
    if url is None:
        advice = f'Write `table_store: {{args: {{url: "{EXAMPLE}"}}}}`, or `url: embedded`.'
        yield draft.problem(URL, f"the instance {draft.name!r} has no database. {advice}")
    elif is_foreign({"args": {"url": url}}) or not PLACEHOLDER.search(url):
        try:
            database_url(url)
        except ValueError as error:
            yield draft.problem(URL, str(error))


def _shared_schemas(draft: Draft, others: Iterable[Draft]) -> Iterator[Problem]:
    """Another instance whose tables would be in the same schemas."""
    sharing = [other for other in others if other.name != draft.name and other.place() == draft.place()]
    if draft.place() is not None and sharing:
        names = " and ".join(repr(each.name) for each in (*sharing, draft))
        message = f"{names} would share their schemas. Put '{{instance_id}}' into schema_prefix or url"
        yield draft.problem(PREFIX, f"{message}, and give each its own instance_id.")


def _detail_mistakes(draft: Draft) -> Iterator[Problem]:
    """A label of materialization details that is not written."""
    args = draft.section.table_store.args
    label, known = args.default_materialization_details, args.materialization_details
    if label is not None and label != ANY and label not in known:
        path = (*ARGS, "default_materialization_details")
        yield draft.problem(path, f"there is no {label!r} in materialization_details.{did_you_mean(label, known)}")


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


def _unknown_references(draft: Draft, sections: Sections) -> Iterator[Problem]:
    """Names of setups, connections and instances that do not exist. Most attrs are the user's own; but a misspelt
    `copy_source` would let a small instance read the real sources."""
    paths: dict[str, Key] = {
        "technical_setups": ("technical_setup",),
        "table_store_connections": ("table_store", "table_store_connection"),
        "blob_store_connections": ("blob_store", "blob_store_connection"),
    }
    for section, path in paths.items():
        known = sections.shared.keys(section)
        for layer in draft.layers:
            name = layer.get(path)
            if name is not None and name not in known:
                yield layer.problem(path, f"there is no {name!r} in {section}.{did_you_mean(name, known)}")
    attrs = draft.section.attrs
    source, others = attrs.get("copy_source"), [name for name in sections.instance_names() if name != draft.name]
    # A source that an environment variable names is looked up when it is needed.
    if attrs.get("copy_filtered_input") is True and source not in others and "{$" not in str(source):
        wrong = "has no value" if source is None else f"no other instance is called {source!r}"
        message = f"{wrong}, but copy_filtered_input is true.{did_you_mean(str(source), others)}"
        yield draft.problem(("attrs", "copy_source"), message)
    for attr, message in misspelt_attrs(attrs):
        yield draft.problem(("attrs", attr), message)


def attr_notes(draft: Draft, instance_names: Collection[str]) -> Iterator[str]:
    """Attrs that look as if they had an effect."""
    attrs = draft.section.attrs
    if "copy_filtered_input" not in attrs and attrs.get("copy_source") in instance_names:
        why = "has no effect of its own without copy_filtered_input: true. Your flow may still read it."
        yield str(draft.problem(("attrs", "copy_source"), why))
