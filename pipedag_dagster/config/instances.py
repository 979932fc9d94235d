"""The instances of a pipeline, read from YAML: what a file may say, and what an instance becomes.

Two forms, one model: a file `pipedag.yaml` (pydiverse.pipedag's form) with all instances, or a folder with one
file an instance and what they share in `__any__.yaml`. What is merged, later wins:

    …_connections.<chosen>  ←  technical_setups.<chosen>  ←  __any__  ←  the instance
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import sqlalchemy as sa

from pipedag_dagster import names
from pipedag_dagster.config.automation import Automation, Poll, Refresh, Schedule
from pipedag_dagster.config.keys import (
    ARGS,
    AUTO_TABLE,
    BASE_PATH,
    PREFIX,
    ROLE,
    URL,
    AnyFile,
    CacheMode,
    Key,
    Layer,
    Section,
    SingleFile,
    get,
    merge,
    nested,
    read,
)
from pipedag_dagster.config.placeholders import PLACEHOLDER, Filler, user_name
from pipedag_dagster.config.section import keys_of
from pipedag_dagster.config.yaml_file import Source
from pipedag_dagster.errors import ConfigError, InvalidName, MissingVariable, Problem, UnknownInstance, did_you_mean

__all__ = [
    "AUTO_TABLE",
    "CacheMode",
    "CacheValidation",
    "ConfigFiles",
    "DatabaseUrl",
    "ExecutorConfig",
    "InstanceConfig",
    "Sample",
    "database_url",
]

DatabaseUrl: TypeAlias = sa.URL | Literal["embedded"]

_Automated = TypeVar("_Automated", bound=Automation)
_ANY = "__any__"
_EXAMPLE = "postgresql://user:password@host:5432/database"
COPY_ATTRS = frozenset({"copy_filtered_input", "copy_source", "copy_per_user", "copy_filter_cnt"})
"""The attrs that have a meaning here too."""
_PROJECT_MARKS = (".pipedag", "pyproject.toml", "workspace.yaml", ".git")


@dataclass(frozen=True)
class CacheValidation:
    """The section `cache_validation`."""

    mode: CacheMode = CacheMode.normal
    disable_cache_function: bool = False
    ignore_task_version: bool = False


@dataclass(frozen=True)
class Sample:
    """The section `sample`: how many rows a copied input table has, by lower-case name or for all."""

    rows: int | None = None
    tables: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ExecutorConfig:
    """The section `executor`: where the steps of a run are."""

    name: str = "in_process"
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # there may be a password in them


@dataclass(frozen=True)
class InstanceConfig:
    """One instance, ready to use: every placeholder is filled in. Made by `ConfigFiles.instance`."""

    pipeline: str
    name: str
    instance_id: str
    per_user: bool
    url: DatabaseUrl
    schema_prefix: str
    schema_suffix: str
    role: str | None
    create_database_if_not_exists: bool
    print_materialize: bool
    print_sql: bool
    keep_versions: int
    keep_code: bool
    content_hash_rows: int
    preview: int
    lock_timeout: float | None
    auto_table: tuple[str, ...]
    fail_fast: bool
    cache_validation: CacheValidation
    max_concurrent: int
    executor: ExecutorConfig
    schedule: Schedule | None
    refresh: Refresh | None
    poll: Poll | None
    sample: Sample
    attrs: dict[str, Any]
    base_path: str
    project: Path
    file: Path
    problem: Callable[[Key, str], Problem] = field(compare=False)
    """A mistake in the value of a key, reported where the value comes from."""

    def __repr__(self) -> str:
        # Not attrs, user and query of the url: the file's author may have put a secret there.
        where = "embedded" if self.url == "embedded" else f"{self.url.host or ''}/{self.url.database or ''}"
        return f"<InstanceConfig {self.name!r}: {self.instance_id!r} at {where}, from {self.file}>"

    @property
    def copy_source(self) -> str | None:
        """The instance from which the inputs are copied; None when they come from the real sources."""
        return self.attrs["copy_source"] if self.attrs.get("copy_filtered_input") is True else None

    @property
    def copy_per_user(self) -> bool:
        """Whether inputs are copied from the user's own `copy_source`."""
        return self.attrs.get("copy_per_user") is True

    def sample_rows(self, table: str) -> int | None:
        """How many rows to copy of an input table; None for all."""
        chosen = (self.sample.tables.get(table.lower()), self.sample.rows, self.attrs.get("copy_filter_cnt"))
        return next((rows for rows in chosen if rows is not None), None)


class ConfigFiles:
    """All instances of one configuration: a YAML file, or a folder with one file an instance.

    Everything is checked at once; the ConfigError has every mistake of all files in `.problems`. Environment
    variables and attribute files are needed only for an instance that is asked for.

    >>> files = ConfigFiles("instances")                                    # doctest: +SKIP
    >>> files.instance_names                                                # doctest: +SKIP
    ('full', 'midi', 'mini')
    >>> files.instance("midi").schema_prefix                                # doctest: +SKIP
    'midi_'
    """

    path: Path
    name: str
    """The name of the pipeline."""
    instance_names: tuple[str, ...]
    """As in the file, or sorted where each has its own; without `__any__`."""
    notes: tuple[str, ...]
    """What was accepted but means nothing here: `not needed: <key> (<file>:<line>)`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        problems: list[Problem] = []
        notes: list[str] = []
        if self.path.is_dir():
            self.folder = self.path.absolute()
            files = _instance_files(self.path, problems)
            any_file = files.pop(_ANY, None)
            nothing = Layer(Source(self.path / f"{_ANY}.yaml", {}))
            shared = read(any_file, AnyFile, problems, notes) if any_file else nothing
            section = {key: value for key, value in shared.data.items() if key in keys_of(Section)}
            base = replace(shared, data=section)
            own = {name: read(file, Section, problems, notes) for name, file in files.items()}
        else:
            self.folder = self.path.absolute().parent
            shared = read(self.path, SingleFile, problems, notes)
            base = shared.part("instances", _ANY)
            own = {name: shared.part("instances", name) for name in shared.keys("instances") if name != _ANY}
        if () not in shared.bad:
            self._drafts = {name: _draft(name, shared, base, layer) for name, layer in own.items()}
            problems += _mistakes(self.path, self._drafts, shared)
        if problems:
            in_order = sorted(dict.fromkeys(problems), key=lambda p: (str(p.file or ""), p.line or 0))
            raise ConfigError(in_order)
        self.name = shared.data.get("name", "pipeline")
        self.instance_names = tuple(own)
        self.notes = tuple(notes)

    def instance(self, name: str, per_user: bool = False) -> InstanceConfig:
        """The instance `name`; with `per_user` the user's own one, by `per_user_template`.

        Raise UnknownInstance; MissingVariable for environment variables, attribute files and placeholders
        without a value (all of them at once); ConfigError for a url that is none.
        """
        if name not in self._drafts:
            hint = did_you_mean(name, self.instance_names)
            raise UnknownInstance(f"{self.path} has no instance {name!r}.{hint}")
        draft = self._drafts[name]
        section, args = draft.section, draft.section.table_store.args
        fill = Filler(name, draft.problem)
        instance_id = fill(("instance_id",), section.instance_id or name)
        if per_user:
            if not any("{instance_id}" in (template or "") for template in draft.place()):
                advice = "'{instance_id}' must be in it, or the instances of all users share their schemas."
                raise ConfigError(draft.problem(PREFIX, advice))
            user = {"id": instance_id, "username": user_name()}
            instance_id = fill(("per_user_template",), section.per_user_template, user)
        _check(names.instance_id, instance_id, partial(draft.problem, ("instance_id",)))
        ours = {"instance_id": instance_id, "name": self.name}
        known = fill.attributes(self.folder, args.url_attrs_file, ours) if args.url_attrs_file else ours
        url = fill(URL, args.url or "", known)
        prefix = fill(PREFIX, args.schema_prefix, known)
        suffix = fill((*ARGS, "schema_suffix"), args.schema_suffix, known)
        role = fill(ROLE, args.role, known) if args.role else None
        attrs = fill.deep(("attrs",), section.attrs)
        chosen = section.executor.name
        options = fill.deep(("executor", chosen), get(draft.data, ("executor", chosen)) or {})
        base_path = fill(BASE_PATH, section.blob_store.args.base_path or "", known)
        if fill.problems:
            raise MissingVariable(fill.problems)
        if role:
            _check(names.role_name, role, partial(draft.problem, ROLE))
        try:
            database = database_url(url)
        except ValueError as error:
            raise ConfigError(draft.problem(URL, str(error))) from None
        tables = section.sample.tables.items()
        parents = (self.folder, *self.folder.parents)
        marked = (folder for folder in parents if any((folder / mark).exists() for mark in _PROJECT_MARKS))
        project = next(marked, self.path.absolute().parent)
        if "://" not in base_path:
            given = self.folder / Path(base_path).expanduser() if base_path else project / ".pipedag" / "blobs"
            base_path = str(given)
        return InstanceConfig(
            pipeline=self.name,
            name=name,
            instance_id=instance_id,
            per_user=per_user,
            url=database,
            schema_prefix=prefix,
            schema_suffix=suffix,
            role=role or None,
            create_database_if_not_exists=args.create_database_if_not_exists,
            print_materialize=args.print_materialize,
            print_sql=args.print_sql,
            keep_versions=section.keep_versions,
            keep_code=section.keep_code,
            content_hash_rows=section.content_hash_rows,
            preview=section.preview,
            lock_timeout=section.lock_timeout,
            auto_table=tuple(section.auto_table),
            fail_fast=section.fail_fast,
            cache_validation=CacheValidation(**dict(section.cache_validation)),
            max_concurrent=section.max_concurrent,
            executor=ExecutorConfig(chosen, options),
            schedule=_switched_on(section.schedule),
            refresh=_switched_on(section.refresh),
            poll=_switched_on(section.poll),
            sample=Sample(section.sample.rows, {n.lower(): t.rows for n, t in tables if t.rows is not None}),
            attrs=attrs,
            base_path=base_path,
            project=project,
            file=draft.layers[-1].source.file,
            problem=draft.problem,
        )


def _switched_on(section: _Automated | None) -> _Automated | None:
    return section if section is not None and section.enabled else None


def _check(rule: Callable[[str], str], name: str, problem: Callable[[str], Problem]) -> None:
    try:
        rule(name)
    except InvalidName as error:
        raise ConfigError(problem(str(error))) from None


def database_url(text: str) -> DatabaseUrl:
    """`"embedded"`, or the url of a PostgreSQL database, whatever driver it names.

    Raise ValueError, with a sentence that does not show the url.

    >>> database_url("postgres://me:secret@localhost/shop")
    postgresql://me:***@localhost/shop
    """
    if text == "embedded":
        return "embedded"
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):  # ValueError: a port that is no number
        raise ValueError(f"is not a database url. Write one like {_EXAMPLE}.") from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError(f"is for {url.get_backend_name()!r}, but only PostgreSQL so far.")
    if "@" in (url.host or ""):
        raise ValueError("has an @ in the user name or password. Write it as %40.")
    if isinstance(password := url.query.get("password"), str):
        # SQLAlchemy masks a password only in its own place.
        url = url.set(password=password).difference_update_query(["password"])
    return url.set(drivername="postgresql")


@dataclass(frozen=True)
class _Draft:
    """One instance with its placeholders: the layers that make it up, the lowest first."""

    name: str
    layers: tuple[Layer, ...]

    @cached_property
    def data(self) -> dict[str, Any]:
        return reduce(merge, (nested(layer.below, layer.data) for layer in self.layers), {})

    @cached_property
    def section(self) -> Section:
        return Section.model_validate(self.data)

    def place(self) -> tuple[str | None, ...]:
        """What decides where its data are."""
        args = self.section.table_store.args
        return args.url, args.url_attrs_file, args.schema_prefix, args.schema_suffix

    def problem(self, path: Key, message: str) -> Problem:
        """A mistake in the value at `path`, reported where the value comes from."""
        said = (layer for layer in reversed(self.layers) if layer.get(path) is not None)
        return next(said, self.layers[-1]).problem(path, message)


def _draft(name: str, shared: Layer, base: Layer, own: Layer) -> _Draft:
    draft = _Draft(name, (base, own))
    default = "default" if "default" in shared.keys("technical_setups") else None
    if setup := draft.data.get("technical_setup", default):
        draft = _Draft(name, (shared.part("technical_setups", setup), *draft.layers))
    for store in ("table_store", "blob_store"):
        if connection := get(draft.data, (store, f"{store}_connection")):
            lowest = replace(shared.part(f"{store}_connections", connection), below=(store,))
            draft = _Draft(name, (lowest, *draft.layers))
    return draft


def _mistakes(path: Path, drafts: dict[str, _Draft], shared: Layer) -> Iterator[Problem]:
    """What is wrong with whole instances. An instance of which a part is wrong is not blamed for what it lacks."""
    if not drafts and not shared.bad:
        advice = f"a file for each, like {path / 'full.yaml'}" if path.is_dir() else "`instances: {full: {}}`"
        yield Problem(path, None, f"there is no instance. Write {advice}.")
    places: dict[tuple[str, ...], list[_Draft]] = {}
    for name, draft in drafts.items():
        unknown = [*_unknown_references(draft, drafts, shared)]
        yield from unknown
        rows = draft.section.attrs.get("copy_filter_cnt")
        if rows is not None and (type(rows) is not int or rows < 1):
            advice = f"must be a whole number of at least 1, not {rows!r}."
            yield draft.problem(("attrs", "copy_filter_cnt"), advice)
        url, *rest = draft.place()
        if unknown or any(layer.bad for layer in draft.layers):
            continue
        yield from _automation_mistakes(draft)
        if url is None:
            advice = f'Write `table_store: {{args: {{url: "{_EXAMPLE}"}}}}`, or `url: embedded`.'
            yield draft.problem(URL, f"the instance {name!r} has no database. {advice}")
            continue
        if not PLACEHOLDER.search(url):
            try:
                database_url(url)
            except ValueError as error:
                yield draft.problem(URL, str(error))
        instance_id = draft.section.instance_id or name
        place = tuple((template or "").replace("{instance_id}", instance_id) for template in (url, *rest))
        places.setdefault(place, []).append(draft)
    for sharing in places.values():
        if len(sharing) > 1:
            both = " and ".join(repr(draft.name) for draft in sharing)
            advice = f"{both} would share their schemas. Put '{{instance_id}}' into schema_prefix or url"
            yield sharing[-1].problem(PREFIX, f"{advice}, and give each its own instance_id.")


def _automation_mistakes(draft: _Draft) -> Iterator[Problem]:
    """What would never run, or fail each time."""
    section, off = draft.section, f"Or write `{{}}: false` for {draft.name!r}."
    cache = section.cache_validation
    no_fresh_input = cache.mode in (CacheMode.assert_no_fresh_input, CacheMode.ignore_fresh_input)
    if (schedule := _switched_on(section.schedule)) and schedule.cron is None:
        yield draft.problem(("schedule",), 'has no cron. Write `schedule: "0 6 * * *"`.')
    if _switched_on(section.refresh):
        if section.attrs.get("copy_filtered_input") is not True:
            advice = "there is nothing to follow: attrs.copy_filtered_input is not true."
            yield draft.problem(("refresh",), f"{advice} {off.format('refresh')}")
        if no_fresh_input:
            advice = f"its runs would take no fresh input in: cache_validation.mode is {cache.mode}."
            yield draft.problem(("refresh",), f"{advice} {off.format('refresh')}")
    if poll := _switched_on(section.poll):
        if poll.interval is None:
            yield draft.problem(("poll",), "has no interval. Write `poll: 60`, in seconds.")
        if no_fresh_input or cache.disable_cache_function:
            why = "disable_cache_function is true" if cache.disable_cache_function else f"mode is {cache.mode}"
            advice = f"its runs would not ask the cache functions: cache_validation.{why}."
            yield draft.problem(("poll",), f"{advice} {off.format('poll')}")


def _mistaken_attrs(attrs: Mapping[str, Any], others: Collection[Any]) -> Iterator[tuple[str, str]]:
    """Attrs are the user's own, but for a few: a slip in one of these would let a small instance read the real sources.
    Each with what is wrong."""
    for name in attrs:
        close = difflib.get_close_matches(str(name), COPY_ATTRS, n=1, cutoff=0.9)
        if close and name not in COPY_ATTRS:
            yield name, f"is not known. Did you mean {close[0]!r}?"
    if "copy_filtered_input" not in attrs and attrs.get("copy_source") in others:
        advice = "Write `copy_filtered_input: true`, or false where this is meant."
        yield "copy_source", f"has no effect, because there is no copy_filtered_input. {advice}"


def _unknown_references(draft: _Draft, drafts: dict[str, _Draft], shared: Layer) -> Iterator[Problem]:
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
    # A source that is in the environment is looked up when it is asked for.
    if attrs.get("copy_filtered_input") is True and source not in others and "{$" not in str(source):
        said = "has no value" if source is None else f"{source!r} is no other instance"
        advice = f"{said}, but copy_filtered_input is true.{did_you_mean(str(source), others)}"
        yield draft.problem(("attrs", "copy_source"), advice)
    for attr, said in _mistaken_attrs(attrs, others):
        yield draft.problem(("attrs", attr), said)


def _instance_files(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in (".yaml", ".yml") and not file.name.startswith("."):
            if file.stem in files:
                problems.append(Problem(file, None, f"is the same instance as {files[file.stem]}. Keep one."))
            files.setdefault(file.stem, file)
    return files
