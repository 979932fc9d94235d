"""The instances of a pipeline, read from YAML.

Two forms, one model: a file `pipedag.yaml` (pydiverse.pipedag's form) with all instances, or a folder with one
file per instance and `__any__.yaml` for what they share. Layers are merged; later ones win:

    …_connections.<chosen>  ←  technical_setups.<chosen>  ←  __any__  ←  the instance
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipedag_dagster import names
from pipedag_dagster.config.database_url import DatabaseUrl, database_url
from pipedag_dagster.config.drafts import Draft, draft, mistakes, switched_on
from pipedag_dagster.config.instance_config import COPY_ATTRS, ExecutorConfig, InstanceConfig, WiderSample
from pipedag_dagster.config.keys import (
    ARGS,
    AUTO_TABLE,
    BASE_PATH,
    PREFIX,
    ROLE,
    URL,
    AnyFile,
    CacheMode,
    CacheValidation,
    Section,
    Settings,
    SingleFile,
)
from pipedag_dagster.config.layers import Layer, get, read
from pipedag_dagster.config.placeholders import Filler, user_name
from pipedag_dagster.config.section import keys_of
from pipedag_dagster.config.within import nested_samples
from pipedag_dagster.config.yaml_file import YamlFile
from pipedag_dagster.errors import ConfigError, InvalidName, MissingVariable, Problem, UnknownInstance, did_you_mean

__all__ = [
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

_ANY = "__any__"
_PROJECT_MARKS = (".pipedag", "pyproject.toml", "workspace.yaml", ".git")


class ConfigFiles:
    """All instances of one configuration: a YAML file, or a folder with one file per instance.

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
    """In the order of the file, or sorted where each instance has its own file; without `__any__`."""
    notes: tuple[str, ...]
    """Keys that are accepted and have no effect: `not needed: <key> (<file>:<line>)`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder = self.path.absolute() if self.path.is_dir() else self.path.absolute().parent
        problems: list[Problem] = []
        notes: list[str] = []
        shared, base, own = (_of_folder if self.path.is_dir() else _of_file)(self.path, problems, notes)
        if () not in shared.bad:
            self._drafts = {name: draft(name, shared, base, layer) for name, layer in own.items()}
            self._drafts = nested_samples(self._drafts, problems)
            problems += mistakes(self.path, self._drafts, shared)
        if problems:
            in_order = sorted(dict.fromkeys(problems), key=lambda p: (str(p.file or ""), p.line or 0))
            raise ConfigError(in_order)
        self.name = shared.data.get("name", "pipeline")
        self.instance_names = tuple(own)
        self.notes = tuple(notes)

    def instance(self, name: str, per_user: bool = False) -> InstanceConfig:
        """The instance `name`; with `per_user` the user's own one, by `per_user_template`.

        Raises:
            UnknownInstance: there is no instance of this name.
            MissingVariable: environment variables, attribute files or placeholders have no value. All are listed.
            ConfigError: the url, role or instance id is not valid once its placeholders are filled in.
        """
        if name not in self._drafts:
            hint = did_you_mean(name, self.instance_names)
            raise UnknownInstance(f"{self.path} has no instance {name!r}.{hint}")
        draft = self._drafts[name]
        section, args = draft.section, draft.section.table_store.args
        fill = Filler(name, draft.problem)
        instance_id = self._instance_id(draft, fill, per_user)
        ours = {"instance_id": instance_id, "name": self.name}
        known = fill.attributes(self.folder, args.url_attrs_file, ours) if args.url_attrs_file else ours
        url = fill(URL, args.url or "", known)
        prefix = fill(PREFIX, args.schema_prefix, known)
        suffix = fill((*ARGS, "schema_suffix"), args.schema_suffix, known)
        role = fill(ROLE, args.role, known) if args.role else ""
        attrs = fill.deep(("attrs",), section.attrs)
        executor = section.executor.name
        options = fill.deep(("executor", executor), get(draft.data, ("executor", executor)) or {})
        base_path = fill(BASE_PATH, section.blob_store.args.base_path or "", known)
        if fill.problems:
            raise MissingVariable(fill.problems)
        if role:
            _check(names.role_name, role, partial(draft.problem, ROLE))
        return InstanceConfig(
            **{setting: getattr(section, setting) for setting in Settings.model_fields},
            pipeline=self.name,
            name=name,
            instance_id=instance_id,
            per_user=per_user,
            url=_url(draft, url),
            schema_prefix=prefix,
            schema_suffix=suffix,
            role=role or None,
            create_database_if_not_exists=args.create_database_if_not_exists,
            print_materialize=args.print_materialize,
            print_sql=args.print_sql,
            executor=ExecutorConfig(executor, options),
            schedule=switched_on(section.schedule),
            refresh=switched_on(section.refresh),
            poll=switched_on(section.poll),
            wider=self._wider(section.sample.within),
            attrs=attrs,
            base_path=self._base_path(base_path),
            project=self._project,
            file=draft.layers[-1].source.file,
            problem=draft.problem,
        )

    def _instance_id(self, draft: Draft, fill: Filler, per_user: bool) -> str:
        instance_id = fill(("instance_id",), draft.section.instance_id or draft.name)
        if per_user:
            if not any("{instance_id}" in (template or "") for template in draft.location()):
                message = "'{instance_id}' must be in it; otherwise the instances of all users share their schemas."
                raise ConfigError(draft.problem(PREFIX, message))
            user = {"id": instance_id, "username": user_name()}
            instance_id = fill(("per_user_template",), draft.section.per_user_template, user)
        _check(names.instance_id, instance_id, partial(draft.problem, ("instance_id",)))
        return instance_id

    def _wider(self, name: str | None) -> WiderSample | None:
        if name is None:
            return None
        section = self._drafts[name].section
        return WiderSample(name, section.sample, section.default_rows, self._drafts[name].problem)

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


def _of_folder(folder: Path, problems: list[Problem], notes: list[str]) -> tuple[Layer, Layer, dict[str, Layer]]:
    """What all instances share, the part of it that is about an instance, and the layer of each instance."""
    files = _instance_files(folder, problems)
    any_file = files.pop(_ANY, None)
    nothing = Layer(YamlFile(folder / f"{_ANY}.yaml", {}))
    shared = read(any_file, AnyFile, problems, notes) if any_file else nothing
    section = {key: value for key, value in shared.data.items() if key in keys_of(Section)}
    own = {name: read(file, Section, problems, notes) for name, file in files.items()}
    return shared, replace(shared, data=section), own


def _of_file(file: Path, problems: list[Problem], notes: list[str]) -> tuple[Layer, Layer, dict[str, Layer]]:
    shared = read(file, SingleFile, problems, notes)
    own = {name: shared.part("instances", name) for name in shared.keys("instances") if name != _ANY}
    return shared, shared.part("instances", _ANY), own


def _instance_files(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in (".yaml", ".yml") and not file.name.startswith("."):
            if file.stem in files:
                problems.append(Problem(file, None, f"is the same instance as {files[file.stem]}. Keep one."))
            files.setdefault(file.stem, file)
    return files


def _check(rule: Callable[[str], str], name: str, problem: Callable[[str], Problem]) -> None:
    try:
        rule(name)
    except InvalidName as error:
        raise ConfigError(problem(str(error))) from None


def _url(draft: Draft, url: str) -> DatabaseUrl:
    try:
        return database_url(url)
    except ValueError as error:
        raise ConfigError(draft.problem(URL, str(error))) from None
