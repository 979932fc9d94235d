"""The instances of a pipeline, read from YAML.

Two forms, one model: a file `pipedag.yaml` (pydiverse.pipedag's form) with all instances, or a folder with one
file per instance and `__any__.yaml` for what they share. Layers are merged; later ones win:

    __any__  ←  the instance  ←  flows.__any__  ←  its instance  ←  the flow  ←  its instance

Each of them comes with the setup and the connections that it names: they lie just below it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipedag_dagster import names
from pipedag_dagster.config import in_memory
from pipedag_dagster.config.database_url import DatabaseUrl, database_url
from pipedag_dagster.config.drafts import Draft, attr_notes, draft, mistakes, no_instance, switched_on
from pipedag_dagster.config.instance_config import COPY_ATTRS, ExecutorConfig, InstanceConfig, WiderSample
from pipedag_dagster.config.keys import (
    ARGS,
    AUTO_TABLE,
    BASE_PATH,
    PREFIX,
    ROLE,
    URL,
    CacheMode,
    CacheValidation,
    Settings,
)
from pipedag_dagster.config.layers import get
from pipedag_dagster.config.placeholders import Filler, user_name
from pipedag_dagster.config.sections import ANY, in_order, sections_of, shared_problems
from pipedag_dagster.config.within import nested_sample
from pipedag_dagster.errors import ConfigError, InvalidName, MissingVariable, Problem, UnknownInstance, did_you_mean

__all__ = [
    "ANY",
    "AUTO_TABLE",
    "COPY_ATTRS",
    "CacheMode",
    "CacheValidation",
    "ConfigFiles",
    "DatabaseUrl",
    "ExecutorConfig",
    "InstanceConfig",
    "database_url",
]

_PROJECT_MARKS = (".pipedag", "pyproject.toml", "workspace.yaml", ".git")


class ConfigFiles:
    """All instances of one configuration: a YAML file, a folder with one file per instance, or a dict like the file.

    A mistake in an instance is an error when that instance is asked for, and no other one. `check` lists all of them.
    Environment variables and attribute files are needed only for an instance that is asked for.

    Raises:
        ConfigError: a mistake is in what all instances share.

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
    """In the order of the file, or sorted where each instance has its own file; without `__any__`."""
    flow_names: tuple[str, ...]
    """The flows that have settings of their own, without `__any__`."""
    notes: tuple[str, ...]
    """Keys that are accepted and have no effect: `not needed: <key> (<file>:<line>)`."""

    def __init__(self, path: str | Path | Mapping[str, Any]) -> None:
        self.path = path = in_memory.add(path) if isinstance(path, Mapping) else Path(path)
        self.folder = path.absolute() if path.is_dir() else path.absolute().parent
        notes: list[str] = []
        self._sections = sections_of(path, notes)
        shared = self._sections.shared
        self._drafts: dict[tuple[str, str | None], Draft] = {}
        problems = [*shared_problems(shared), *self._sections.twice]
        self.instance_names = tuple(self._sections.instance_names())
        self.flow_names = tuple(name for name in self._sections.flows if name != ANY)
        names = {*self.instance_names, *(name for flow in self.flow_names for name in self._names(flow))}
        if not names and not self._has_any and not problems:
            problems.append(no_instance(path))
        if problems:
            raise ConfigError(in_order(problems))
        self.name = shared.data.get("name", "pipeline")
        drafts = [self._draft(name) for name in self.instance_names]
        self.notes = (*notes, *(note for each in drafts for note in attr_notes(each, self.instance_names)))

    @property
    def raw(self) -> dict[str, Any]:
        """What is written in the file that all instances share."""
        return dict(self._sections.shared.source.data)

    def _names(self, flow: str | None) -> list[str]:
        return self._sections.instance_names(flow)

    @property
    def _has_any(self) -> bool:
        return bool(self._sections.base.data) or bool(self._sections.shared.keys("technical_setups"))

    def _draft(self, name: str, flow: str | None = None) -> Draft:
        if (name, flow) not in self._drafts:
            self._drafts[name, flow] = draft(name, self._sections, flow)
        return self._drafts[name, flow]

    def _nested(self, name: str, flow: str | None) -> tuple[Draft, list[Problem]]:
        """The draft of an instance, with what it inherits from the one that its sample is within, and the mistakes."""
        problems: list[Problem] = []
        drafts = {other: self._draft(other, flow) for other in (*self._names(flow), name)}
        return nested_sample(name, drafts, problems), problems

    def _mistakes(self, name: str, flow: str | None) -> list[Problem]:
        others = [self._draft(other, flow) for other in self._names(flow)]
        draft, problems = self._nested(name, flow)
        return [*problems, *mistakes(draft, self._sections, others)]

    def check(self) -> None:
        """Look at every instance, for every flow.

        Raises:
            ConfigError: has every mistake of all files in `.problems`.
        """
        everything = [*self._sections.problems]
        for flow in (None, *self.flow_names):
            for name in self._names(flow):
                everything += self._mistakes(name, flow)
        if everything:
            raise ConfigError(in_order(everything))

    def instance(self, name: str = ANY, flow: str | None = None, per_user: bool = False) -> InstanceConfig:
        """The instance `name`; with `per_user` the user's own one, by `per_user_template`.

        Args:
            name: without it, what all instances share is an instance of its own.
            flow: with the settings of this flow.

        Raises:
            UnknownInstance: there is no instance of this name.
            MissingVariable: environment variables, attribute files or placeholders have no value. All are listed.
            ConfigError: something in the instance is wrong, or its url, role or instance id is not valid once its
                placeholders are filled in.
        """
        self._refuse_unknown(name, flow)
        if problems := self._mistakes(name, flow):
            raise ConfigError(in_order(problems))
        draft, _ = self._nested(name, flow)
        section, args = draft.section, draft.section.table_store.args
        fill = Filler(name, draft.problem)
        instance_id = self._instance_id(draft, fill, per_user)
        ours = {"instance_id": instance_id, "name": self.name}
        known_values = fill.attributes(self.folder, args.url_attrs_file, ours) if args.url_attrs_file else ours
        url = fill(URL, args.url or "", known_values)
        prefix = fill(PREFIX, args.schema_prefix, known_values)
        suffix = fill((*ARGS, "schema_suffix"), args.schema_suffix, known_values)
        role = fill(ROLE, args.role, known_values) if args.role else ""
        attrs = _attrs(fill, section.attrs)
        executor = section.executor.name
        options = fill.deep(("executor", executor), get(draft.data, ("executor", executor)) or {})
        base_path = fill(BASE_PATH, section.blob_store.args.base_path or "", known_values)
        if fill.problems:
            raise MissingVariable(fill.problems)
        _check_role(draft, role)
        keys = ("schedule", "refresh", "poll", "report_commits")
        automation: dict[str, Any] = {key: switched_on(getattr(section, key)) for key in keys}
        return InstanceConfig(
            **{setting: getattr(section, setting) for setting in Settings.model_fields},
            pipeline=self.name,
            name=name,
            flow=flow,
            instance_id=instance_id,
            per_user=per_user,
            url=_url(draft, url),
            schema_prefix=prefix,
            schema_suffix=suffix,
            role=role or None,
            create_database_if_not_exists=args.create_database_if_not_exists,
            print_materialize=args.print_materialize,
            print_sql=args.print_sql,
            unlogged=section.table_store.unlogged(),
            dtype_backend=section.table_store.dtype_backend,
            executor=ExecutorConfig(executor, options),
            **automation,
            wider=self._wider(section.sample.within, flow),
            **attrs,
            base_path=self._base_path(base_path),
            project=self._project,
            file=draft.layers[-1].source.file,
            problem=draft.problem,
        )

    def _refuse_unknown(self, name: str, flow: str | None) -> None:
        strict = self._sections.shared.data.get("strict_instance_lookup", True)
        known = self._names(flow)
        if name != ANY and strict and name not in known:
            raise UnknownInstance(f"{self.path} has no instance {name!r}.{did_you_mean(name, known)}")

    def _instance_id(self, draft: Draft, fill: Filler, per_user: bool) -> str:
        instance_id = fill(("instance_id",), draft.section.instance_id or self._default_id(draft))
        if per_user:
            if not any("{instance_id}" in (template or "") for template in draft.location()):
                message = "'{instance_id}' must be in it; otherwise the instances of all users share their schemas."
                raise ConfigError(draft.problem(PREFIX, message))
            user = {"id": instance_id, "username": user_name()}
            instance_id = fill(("per_user_template",), draft.section.per_user_template, user)
        _check(names.instance_id, instance_id, partial(draft.problem, ("instance_id",)))
        return instance_id

    def _wider(self, name: str | None, flow: str | None) -> WiderSample | None:
        if name is None:
            return None
        draft, _ = self._nested(name, flow)
        return WiderSample(name, draft.section.sample, draft.section.default_rows, draft.problem)

    def _default_id(self, draft: Draft) -> str:
        return "pipeline" if draft.name == ANY else draft.name

    @property
    def _project(self) -> Path:
        """The nearest folder that looks like a project, from the configuration upwards."""
        parents = (self.folder, *self.folder.parents)
        marked = (folder for folder in parents if any((folder / mark).exists() for mark in _PROJECT_MARKS))
        return next(marked, self.path.absolute().parent)

    def _base_path(self, configured: str) -> str:
        if "://" in configured:
            return configured
        if not configured:
            return str(self._project / ".pipedag" / "blobs")
        return str(self.folder / Path(configured).expanduser())


def _check(rule: Callable[[str], str], name: str, problem: Callable[[str], Problem]) -> None:
    try:
        rule(name)
    except InvalidName as error:
        raise ConfigError(problem(str(error))) from None


def _attrs(fill: Filler, written: Mapping[Any, Any]) -> dict[str, Any]:
    """The attrs of an `InstanceConfig`, and those of them that were written without a placeholder."""
    attrs = fill.deep(("attrs",), written)
    return {"attrs": attrs, "plain_attrs": frozenset(name for name, value in attrs.items() if value == written[name])}


def _check_role(draft: Draft, role: str) -> None:
    if role:
        _check(names.role_name, role, partial(draft.problem, ROLE))


def _url(draft: Draft, url: str) -> DatabaseUrl:
    try:
        return database_url(url)
    except ValueError as error:
        raise ConfigError(draft.problem(URL, str(error))) from None
