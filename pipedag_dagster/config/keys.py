"""The sections and keys of a configuration file, with their types and defaults."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipedag_dagster.config.automation import Executor, Poll, Refresh, ReportCommits, Schedule
from pipedag_dagster.config.sample import Sample
from pipedag_dagster.config.section import Keys
from pipedag_dagster.config.stores import BLOB_STORES, TABLE_STORES, is_foreign
from pipedag_dagster.config.tasks import Tasks
from pipedag_dagster.errors import did_you_mean
from pipedag_dagster.frame_types import DTYPE_BACKENDS, FrameType, table_class

Key: TypeAlias = tuple[str | int, ...]
ARGS: Key = ("table_store", "args")
URL: Key = (*ARGS, "url")
PREFIX: Key = (*ARGS, "schema_prefix")
ROLE: Key = (*ARGS, "role")
BASE_PATH: Key = ("blob_store", "args", "base_path")

AUTO_TABLE = tuple(name.value for name in FrameType)


class CacheMode(enum.StrEnum):
    """How much of the cache a run believes. `CacheMode.NORMAL` is the same as `CacheMode.normal`."""

    normal = "normal"
    assert_no_fresh_input = "assert_no_fresh_input"
    ignore_fresh_input = "ignore_fresh_input"
    force_fresh_input = "force_fresh_input"
    force_cache_invalid = "force_cache_invalid"

    NORMAL = normal
    ASSERT_NO_FRESH_INPUT = assert_no_fresh_input
    IGNORE_FRESH_INPUT = ignore_fresh_input
    FORCE_FRESH_INPUT = force_fresh_input
    FORCE_CACHE_INVALID = force_cache_invalid

    @classmethod
    def of(cls, name: object) -> CacheMode:
        """The mode of this name, in any case.

        Raises:
            ValueError: there is no such mode; a close one is named.
        """
        known = [mode.value for mode in cls]
        lowered = name.strip().lower() if isinstance(name, str) else name
        if lowered not in known:
            raise ValueError(f"there is no mode {name!r}.{did_you_mean(str(name), known)}")
        return cls(lowered)


NOT_NEEDED = "not needed"
"""Marks a key that is accepted, because pydiverse.pipedag has it, and has no effect here."""
_Unused: TypeAlias = Annotated[Any, NOT_NEEDED]
_Count: TypeAlias = Annotated[int, Field(ge=1)]
_T = TypeVar("_T")
_List: TypeAlias = Annotated[tuple[_T, ...], Field(strict=False)]
_Seconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class MaterializationDetails(Keys):
    """How the tables under one label are stored. The keys of other databases are not known here."""

    unlogged: bool | None = None


def _dtype_backend(name: str) -> str:
    if name not in DTYPE_BACKENDS:
        raise ValueError(f"there is no dtype backend {name!r}.{did_you_mean(name, DTYPE_BACKENDS)}")
    return name


class _PandasArgs(Keys):
    dtype_backend: Annotated[str, AfterValidator(_dtype_backend)] | None = None


class HookArgs(Keys):
    """How tables are read: `pandas.dtype_backend`."""

    pandas: _PandasArgs = _PandasArgs()
    polars: _Unused = None
    sql: _Unused = None


class _TableArgs(Keys):
    url: str | None = None
    url_attrs_file: str | None = None
    schema_prefix: str = ""
    schema_suffix: str = ""
    role: str | None = None
    create_database_if_not_exists: bool = False
    print_materialize: bool = False
    print_sql: bool = False
    materialization_details: dict[str, MaterializationDetails | None] = {}
    default_materialization_details: str | None = None
    strict_materialization_details: _Unused = None
    hook_args: HookArgs = HookArgs()
    avoid_drop_create_schema: _Unused = None
    no_db_locking: _Unused = None
    max_concurrent_copy_operations: _Unused = None
    sqlalchemy_pool_size: _Unused = None
    sqlalchemy_pool_timeout: _Unused = None
    max_query_print_length: _Unused = None
    force_transaction_suffix: _Unused = None
    use_adbc: _Unused = None


class _Store(Keys):
    """A section about a store. Where it is about a store that this package does not have, only its class and url are
    read: they tell what is wrong when an instance uses it."""

    @model_validator(mode="before")
    @classmethod
    def _foreign(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not is_foreign(data):
            return data
        args = data.get("args")
        known = {key: data[key] for key in data if key == "class" or key.endswith("_store_connection")}
        url = {"url": args["url"]} if isinstance(args, dict) and isinstance(args.get("url"), str) else {}
        return known | ({"args": url} if url else {})


class _TableConnection(_Store):
    class_: str = Field(default=TABLE_STORES[0], alias="class")
    args: _TableArgs = _TableArgs()
    hook_args: HookArgs = HookArgs()
    local_table_cache: _Unused = None
    metadata_table_store: _Unused = None
    metadata_store: _Unused = None


class _TableStore(_TableConnection):
    table_store_connection: str | None = None

    @property
    def dtype_backend(self) -> str:
        written = self.hook_args.pandas.dtype_backend or self.args.hook_args.pandas.dtype_backend
        return written or DTYPE_BACKENDS[0]

    def unlogged(self) -> dict[str, bool]:
        """Whether tables are unlogged, by label; under `""` for tables without a label."""
        details = {label: one or MaterializationDetails() for label, one in self.args.materialization_details.items()}
        any_label = details.pop("__any__", MaterializationDetails())
        result = {
            label: bool(any_label.unlogged if one.unlogged is None else one.unlogged) for label, one in details.items()
        }
        result["__any__"] = bool(any_label.unlogged)
        result[""] = result.get(self.args.default_materialization_details or "__any__", False)
        return result


class _BlobArgs(Keys):
    base_path: str | None = None


class _BlobConnection(_Store):
    class_: str = Field(default=BLOB_STORES[0], alias="class")
    args: _BlobArgs = _BlobArgs()


class _BlobStore(_BlobConnection):
    blob_store_connection: str | None = None


class _Plugin(Keys):
    class_: Any = Field(default=None, alias="class")
    args: Any = None


class CacheValidation(Keys):
    """The section `cache_validation`."""

    mode: Annotated[CacheMode, BeforeValidator(CacheMode.of)] = CacheMode.normal
    disable_cache_function: bool = False
    ignore_task_version: bool = False


def _class_name(name: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name):
        raise ValueError(f"{name!r} is not the name of a class. Write it with its module: my_package.models.Model")
    return name


def _module(name: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise ValueError(f"{name!r} is not the name of a module. Write it as in an import: my_package.helpers")
    return name


def _group_name(template: str) -> str:
    try:
        known = {"stage": "a", "instance_id": "b", "name": "c"}
        fine = template.format_map(known) != template.format_map(known | {"stage": "d"})
    except (KeyError, IndexError, ValueError):
        fine = False
    if not fine:
        raise ValueError(f"{template!r} must contain {{stage}}, and may contain {{instance_id}} and {{name}}.")
    return template


def _tags(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _tag(name: str) -> str:
    if not name.isidentifier():
        raise ValueError(f"{name!r} cannot be a pytest marker. Use letters, digits and _.")
    return name


_Tags: TypeAlias = Annotated[_List[Annotated[str, AfterValidator(_tag)]], BeforeValidator(_tags)]


class Settings(Keys):
    """The keys of an instance that are used as they are written."""

    auto_table: _List[Annotated[str, AfterValidator(table_class)]] = AUTO_TABLE
    auto_blob: _List[Annotated[str, AfterValidator(_class_name)]] = ()
    fail_fast: bool = False
    cache_validation: CacheValidation = CacheValidation()
    max_concurrent: _Count = 4
    tasks: Tasks = Tasks()
    """Where the tasks of a stage run: on threads, in processes, or on Dask."""
    keep_versions: _Count = 2
    keep_code: bool = True
    group_name: Annotated[str, AfterValidator(_group_name)] = "{stage}"
    """The asset group of a stage in Dagster. What Dagster does not allow in it becomes `_`."""
    content_hash_rows: Annotated[int, Field(ge=0)] = 20_000_000
    preview: Annotated[int, Field(ge=0)] = 5
    lock_timeout: _Seconds | None = None
    sample: Sample = Sample()
    user_modules: _List[Annotated[str, AfterValidator(_module)]] = ()
    """Modules, with all that is in them, that count as the user's own code although they are installed."""
    tags: _Tags = ()
    """Pytest markers for the tests of all stages."""
    stage_tags: dict[str, _Tags] = {}
    """Pytest markers for the tests of single stages, by the name of the stage."""


class _Setup(Settings):
    instance_id: str | None = None
    per_user_template: str = "{id}_{username}"
    executor: Executor = Executor()
    schedule: Schedule | None = None
    refresh: Refresh | None = None
    poll: Poll | None = None
    report_commits: ReportCommits | None = None
    attrs: dict[Any, Any] = {}
    table_store: _TableStore = _TableStore()
    blob_store: _BlobStore = _BlobStore()
    lock_manager: Annotated[_Plugin, NOT_NEEDED] = _Plugin()
    orchestration: Annotated[_Plugin, NOT_NEEDED] = _Plugin()
    network_interface: _Unused = None
    disable_kroki: _Unused = None
    kroki_url: _Unused = None
    stage_commit_technique: _Unused = None
    strict_result_get_locking: _Unused = None
    ignore_position_hashes: _Unused = None
    visualization: _Unused = None
    group_node_tag: _Unused = None


class Section(_Setup):
    """What a file says about one instance."""

    technical_setup: str | None = None

    @property
    def default_rows(self) -> int | None:
        """How many rows of an input table are copied that `sample.tables` does not name; None for all."""
        return self.attrs.get("copy_filter_cnt") if self.sample.rows is None else self.sample.rows


class FlowSection(Section):
    """What a file says about one flow, and about single instances of it."""

    instances: dict[str, Section] = {}


class _Shared(Keys):
    name: str = "pipeline"
    table_store_connections: dict[str, _TableConnection] = {}
    blob_store_connections: dict[str, _BlobConnection] = {}
    technical_setups: dict[str, _Setup] = {}
    strict_instance_lookup: bool = True

    @model_validator(mode="before")
    @classmethod
    def _without_anchors(cls, data: Any) -> Any:
        """A key at the top that begins with `_` only holds a YAML anchor."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if not (isinstance(key, str) and key.startswith("_"))}


class SingleFile(_Shared):
    """`pipedag.yaml`: all instances in one file."""

    instances: dict[str, Section] = {}
    flows: dict[str, FlowSection] = {}


class AnyFile(_Shared, Section):
    """`__any__.yaml`: what the instances of a folder share."""

    flows: dict[str, FlowSection] = {}


WITHOUT_EFFECT = tuple(name for name, field in _Setup.model_fields.items() if NOT_NEEDED in field.metadata)
"""The settings that are accepted and have no effect."""


def changed(settings: Settings, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of some settings, checked. What is a section of its own is merged key by key.

    Raises:
        ValueError: a value cannot be one.
    """
    checked: dict[str, Any] = {}
    for name, value in changes.items():
        before = getattr(settings, name)
        if isinstance(value, Mapping) and isinstance(before, Keys):
            value = {**before.model_dump(by_alias=True, exclude_unset=True), **value}
        field = Settings.model_fields.get(name)
        if field is None:
            checked[name] = bool(value)
        else:
            checked[name] = getattr(Settings.model_validate({name: value}), name)
    return checked
