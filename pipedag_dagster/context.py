"""One instance with its store, as runs and tasks see it."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from pipedag_dagster.config.attrs import Attrs
from pipedag_dagster.config.drafts import misspelt_attrs
from pipedag_dagster.config.instances import ANY, AUTO_TABLE, CacheValidation, ConfigFiles, InstanceConfig
from pipedag_dagster.config.keys import WITHOUT_EFFECT, Settings, changed
from pipedag_dagster.config.layers import merge
from pipedag_dagster.errors import ConfigError, NoConfig, NoInstance
from pipedag_dagster.fingerprint.module_origin import add_user_modules
from pipedag_dagster.graph.instance import Instance
from pipedag_dagster.graph.not_here import Instead
from pipedag_dagster.options import known_options, refuse_unknown
from pipedag_dagster.versions.table_store import TableStore

_current: ContextVar[ConfigContext | None] = ContextVar("config", default=None)


@dataclass(frozen=True)
class Store:
    """The stores of an instance."""

    table_store: TableStore


class ConfigContext(Instance):
    """One instance of a pipeline: its configuration, and the store that holds its tables.

    `with instance:` makes it the current one, which `ConfigContext.get()` returns. Nothing connects to the database
    before the store is used for the first time.
    """

    new = Instead('Write PipedagConfig({"name": …, "instances": {…}}).get("full").')
    logger = Instead("Write logging.getLogger(__name__).")
    get_logger = Instead("Write logging.getLogger(__name__).")
    auto_table = Instead("Write instance.config.auto_table for the names of the classes.")
    auto_blob = Instead("Write instance.config.auto_blob for the names of the classes.")
    create_lock_manager = Instead("Stages are locked in the database while a run writes them.")
    create_orchestration_engine = Instead("Write flow.run(config=instance).")
    stage_commit_technique = Instead("The setting has no effect here.")
    strict_result_get_locking = Instead("The setting has no effect here.")
    network_interface = Instead("The setting has no effect here.")
    visualization = Instead("The setting has no effect here: Dagster draws the flow.")
    disable_kroki = Instead("The setting has no effect here: Dagster draws the flow.")
    kroki_url = Instead("The setting has no effect here: Dagster draws the flow.")

    def __init__(self, config: InstanceConfig, files: PipedagConfig) -> None:
        self.config = config
        self.files = files
        add_user_modules(config.user_modules)
        self._tokens: list[Token[ConfigContext | None]] = []

    @functools.cached_property
    def attrs(self) -> Attrs:
        """The `attrs` of the instance: `attrs["rows"]`, or `attrs.rows`. They cannot be changed (see `with_attrs`)."""
        return Attrs(self.config.attrs)

    def content_for_hash(self) -> tuple[Any, ...]:
        """What tasks may know of an instance, and so depend on."""
        return (self.instance_id, self.config.attrs)

    @property
    def instance_name(self) -> str:
        """The name of the instance in the configuration."""
        return self.config.name

    @property
    def flow_name(self) -> str | None:
        """The flow whose settings are part of the configuration, if one was chosen."""
        return self.config.flow

    @property
    def instance_id(self) -> str:
        """The id that keeps the tables of the instance apart: it is part of the schema prefix or the url."""
        return self.config.instance_id

    @functools.cached_property
    def store(self) -> Store:
        """The stores of the instance: `.store.table_store`."""
        return Store(TableStore(self.config))

    @functools.cached_property
    def source(self) -> ConfigContext | None:
        """The instance that inputs are copied from; None when this one reads its inputs itself.

        Raises:
            ConfigError: the source's own configuration cannot be resolved.
        """
        if self.config.copy_source is None:
            return None
        source = self.files.get(self.config.copy_source, self.config.flow, self.config.copy_per_user)
        # This instance reads the source with its own rights. It never creates the database of the source if it may not
        # create its own.
        role = self.config.role or source.config.role
        create = source.config.create_database_if_not_exists and self.config.create_database_if_not_exists
        changes: dict[str, Any] = {"role": role, "create_database_if_not_exists": create}
        if self.config.role is not None and _same_place(self.config.url, source.config.url):
            changes["url"] = self.config.url  # the login of the source may not change to our role
        return ConfigContext(source.config.model_copy(update=changes), self.files)

    def with_attrs(self, attrs: Mapping[str, Any]) -> ConfigContext:
        """The same instance, with the same tables, but with some other `attrs`. Build the flow again with it.

        Args:
            attrs: these replace attrs of the instance. Mappings are merged key by key.

        Raises:
            ConfigError: `copy_filter_cnt` is not a number of rows, or an attr that has a meaning here is misspelt.

        Example:
            more = config.with_attrs({"copy_filter_cnt": 5})
            build(more).run(config=more)
        """
        for name, message in misspelt_attrs(attrs):
            raise ConfigError(f"attrs.{name}: {message}")
        rows = attrs.get("copy_filter_cnt", 1)
        if type(rows) is not int or rows < 1:
            raise ConfigError(f"attrs.copy_filter_cnt: must be a whole number of at least 1, not {rows!r}.")
        if "copy_filter_cnt" in attrs and self.config.sample.rows is not None:
            raise ConfigError("attrs.copy_filter_cnt: has no effect, because sample.rows is set. Keep one of them.")
        config = self.config.model_copy(update={"attrs": merge(self.config.attrs, dict(attrs))})
        other = ConfigContext(config, self.files)
        other.store = self.store
        return other

    def evolve(self, **changes: Any) -> ConfigContext:
        """The same instance, with the same tables, but with other settings.

        Args:
            changes: keys of the configuration like `fail_fast`, `cache_validation` or `attrs`. Mappings are merged key
                by key. Settings of pydiverse.pipedag that have no effect here are accepted.

        Raises:
            UnknownOption: there is no such setting; or it would change where the tables are.
            ConfigError: a value cannot be one.

        Example:
            instance.evolve(fail_fast=True, cache_validation={"mode": "force_cache_invalid"})
        """
        ignored = {*WITHOUT_EFFECT, "swallow_exceptions"}
        known = set(Settings.model_fields) | {"attrs", "print_sql", "print_materialize"} | ignored
        refuse_unknown("ConfigContext.evolve(…)", changes, known)
        chosen = {name: value for name, value in changes.items() if name not in ignored}
        attrs = chosen.pop("attrs", {})
        try:
            settings = changed(self.config, chosen)
        except ValueError as error:
            raise ConfigError(f"ConfigContext.evolve(…): {error}") from None
        other = ConfigContext(self.config.model_copy(update=settings), self.files)
        other.store = self.store
        return other.with_attrs(attrs) if attrs else other

    @property
    def fail_fast(self) -> bool:
        """Whether a run stops at its first error, and raises it."""
        return self.config.fail_fast

    @property
    def cache_validation(self) -> CacheValidation:
        """How much of the cache runs believe."""
        return self.config.cache_validation

    @property
    def pipedag_name(self) -> str:
        """The name of the pipeline."""
        return self.config.pipeline

    @classmethod
    def get(cls) -> ConfigContext:
        """The current instance, inside of `with instance:` and inside of tasks.

        Raises:
            NoInstance: there is no current instance.
        """
        current = _current.get()
        if current is None:
            raise NoInstance("There is no current instance here. Write `with PipedagConfig(…).get(…):` around it.")
        return current

    def __enter__(self) -> Self:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        _current.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"ConfigContext(pipeline={self.config.pipeline!r}, instance={self.config.name!r})"


class _Default:
    """`PipedagConfig.default`: read anew each time, because the working directory and the file may have changed."""

    def __get__(self, config: PipedagConfig | None, cls: type[PipedagConfig]) -> PipedagConfig:
        return cls()


class PipedagConfig:
    """All instances of a pipeline.

    Args:
        path: a YAML file; or a folder with `__any__.yaml`, one file per instance, and maybe `flows/` with one file per
            flow; or a dict with the content of a file. Without it: the environment variable PIPEDAG_CONFIG, else
            `instances/` or `pipedag.yaml` in the working directory or above it, or `pipedag.yaml` in the home folder.

    Raises:
        ConfigError: a mistake is in what all instances share; it is named with file and line. Mistakes in one instance
            are raised by `get`. `check` raises all of them.

    Example:
        cfg = PipedagConfig("pipedag.yaml").get("midi")
        cfg.attrs["copy_filter_cnt"]
    """

    default = _Default()
    """The configuration that is found without a path."""

    @known_options()
    def __init__(self, path: str | Path | Mapping[str, Any] | None = None) -> None:
        self.files = ConfigFiles(find_config() if path is None else path)

    @property
    def path(self) -> Path:
        """The file or folder that was read."""
        return self.files.path

    @property
    def name(self) -> str:
        """The name of the pipeline."""
        return self.files.name

    def content_for_hash(self) -> tuple[Any, ...]:
        """What tasks may know of a configuration, and so depend on."""
        return (self.raw_config,)

    @property
    def raw_config(self) -> dict[str, Any]:
        """The content of the file, before anything is merged or filled in. In a folder, of `__any__.yaml`."""
        return self.files.raw

    @property
    def notes(self) -> tuple[str, ...]:
        """Keys that are accepted and have no effect."""
        return self.files.notes

    @property
    def instance_names(self) -> tuple[str, ...]:
        return self.files.instance_names

    def check(self) -> None:
        """Look at every instance.

        Raises:
            ConfigError: lists every mistake in all files.
        """
        self.files.check()

    @known_options()
    def get(self, instance: str | None = None, flow: str | bool | None = None, per_user: bool = False) -> ConfigContext:
        """One instance.

        Args:
            instance: the name of the instance. Without it, what all instances share (`__any__`) is the instance.
            flow: the name of a flow, whose settings (`flows:`) are added. True or False in its place is taken for
                `per_user`, because no flow is called like that.
            per_user: an instance for each user: the name of the user becomes part of the instance id.

        Raises:
            UnknownInstance: there is no instance of this name.
            ConfigError: something in the instance is wrong.
            MissingVariable: the instance uses an environment variable or an attribute file that does not exist.
        """
        if isinstance(flow, bool):
            flow, per_user = None, flow or per_user
        config = self.files.instance(ANY if instance is None else instance, flow, per_user)
        return ConfigContext(config, self)


def create_basic_pipedag_config(
    engine_url: str,
    blob_directory: str | Path | None = None,
    name: str = "pipeline",
    instance_id: str = "pipeline",
    *,
    auto_table: Sequence[str] = AUTO_TABLE,
    fail_fast: bool = True,
    **other: Any,
) -> PipedagConfig:
    """A configuration without a file, for one database.

    Args:
        engine_url: the url of a PostgreSQL database, or `"embedded"`. `{$NAME}` stands for an environment variable,
            `{name}` and `{instance_id}` for the arguments below.
        blob_directory: where blobs are; without it, in `.pipedag` of the project.
        name: of the pipeline.
        instance_id: keeps the data apart from that of other pipelines.
        auto_table: classes that a task may return without `Table(…)`.
        fail_fast: whether a run stops at its first error, and raises it.
        other: `network_interface`, `kroki_url`, `disable_stage_locking` and `file_locking_directory` are accepted for
            pydiverse.pipedag, and have no effect: stages are locked in the database.

    Raises:
        UnknownOption: there is no option of this name.
        ConfigError: the url is not for PostgreSQL. (By `get`.)

    Example:
        with create_basic_pipedag_config("embedded").get():
            flow.run()
    """
    known = ("network_interface", "kroki_url", "disable_stage_locking", "file_locking_directory")
    refuse_unknown("create_basic_pipedag_config(…)", other, known)
    shared: dict[str, Any] = {
        "instance_id": instance_id,
        "auto_table": list(auto_table),
        "fail_fast": fail_fast,
        "table_store": {"args": {"url": engine_url, "create_database_if_not_exists": True}},
    }
    if blob_directory is not None:
        shared["blob_store"] = {"args": {"base_path": str(blob_directory)}}
    return PipedagConfig({"name": name, "strict_instance_lookup": False, "instances": {ANY: shared}})


def _same_place(one: sa.URL | str, two: sa.URL | str) -> bool:
    """Whether two urls name one database, maybe with different logins."""
    if isinstance(one, str) or isinstance(two, str):
        return one == two
    places = [(url.host, url.port, url.database, url.query.get("host"), url.query.get("port")) for url in (one, two)]
    return places[0] == places[1]


def config_in(project: Path) -> Path | None:
    """The configuration that lies in the folder of a project: its folder `instances`, or its `pipedag.yaml`."""
    for candidate in (project / "instances", project / "pipedag.yaml", project / "pipedag.yml"):
        if (candidate / "__any__.yaml").is_file() or (candidate.is_file() and candidate.suffix):
            return candidate
    return None


def find_config(start: Path | None = None) -> Path:
    """The configuration of a command that names none (see `PipedagConfig`).

    Raises:
        NoConfig: there is no configuration.
    """
    named = os.environ.get("PIPEDAG_CONFIG")
    if named:
        inside = [Path(named) / file for file in ("pipedag.yaml", "pipedag.yml")]
        return next((file for file in inside if file.is_file()), Path(named))
    start = start or Path.cwd()
    for folder in (start, *start.parents):
        if config := config_in(folder):
            return config
    for candidate in (Path.home() / "pipedag.yaml", Path.home() / "pipedag.yml"):
        if candidate.is_file():
            return candidate
    raise NoConfig(
        f"There is no configuration: neither instances/__any__.yaml nor pipedag.yaml is in {start} or a folder above. "
        "Write one, pass its path, or set PIPEDAG_CONFIG."
    )
