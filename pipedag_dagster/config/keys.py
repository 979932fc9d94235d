"""The sections and keys of a configuration file, with their types and defaults."""

from __future__ import annotations

import enum
import re
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from pipedag_dagster.config.automation import Executor, Poll, Refresh, Schedule
from pipedag_dagster.config.sample import Sample
from pipedag_dagster.config.section import Keys, one_of
from pipedag_dagster.errors import did_you_mean
from pipedag_dagster.frame_types import FrameType

Key: TypeAlias = tuple[str | int, ...]
ARGS: Key = ("table_store", "args")
URL: Key = (*ARGS, "url")
PREFIX: Key = (*ARGS, "schema_prefix")
ROLE: Key = (*ARGS, "role")
BASE_PATH: Key = ("blob_store", "args", "base_path")

AUTO_TABLE = tuple(name.value for name in FrameType)
_TABLE_STORES = (
    "pipedag_dagster.PostgresStore",
    "pydiverse.pipedag.backend.table.SQLTableStore",
    "pydiverse.pipedag.backend.table.sql.dialects.PostgresTableStore",
)
_BLOB_STORES = ("pipedag_dagster.FileBlobStore", "pydiverse.pipedag.backend.blob.FileBlobStore")


class CacheMode(enum.StrEnum):
    """How much of the cache a run believes."""

    normal = "normal"
    assert_no_fresh_input = "assert_no_fresh_input"
    ignore_fresh_input = "ignore_fresh_input"
    force_fresh_input = "force_fresh_input"
    force_cache_invalid = "force_cache_invalid"

    @classmethod
    def of(cls, name: object) -> CacheMode:
        """The mode of this name.

        Raises:
            ValueError: there is no such mode; a close one is named.
        """
        known = [mode.value for mode in cls]
        if name not in known:
            raise ValueError(f"there is no mode {name!r}.{did_you_mean(str(name), known)}")
        return cls(name)


NOT_NEEDED = "not needed"
"""Marks a key that is accepted, because pydiverse.pipedag has it, and has no effect here."""
_Unused: TypeAlias = Annotated[Any, NOT_NEEDED]
_Count: TypeAlias = Annotated[int, Field(ge=1)]
_T = TypeVar("_T")
_List: TypeAlias = Annotated[tuple[_T, ...], Field(strict=False)]
_Seconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _TableArgs(Keys):
    url: str | None = None
    url_attrs_file: str | None = None
    schema_prefix: str = ""
    schema_suffix: str = ""
    role: str | None = None
    create_database_if_not_exists: bool = False
    print_materialize: bool = False
    print_sql: bool = False
    avoid_drop_create_schema: _Unused = None
    no_db_locking: _Unused = None
    strict_materialization_details: _Unused = None
    materialization_details: _Unused = None
    max_concurrent_copy_operations: _Unused = None
    sqlalchemy_pool_size: _Unused = None
    sqlalchemy_pool_timeout: _Unused = None
    max_query_print_length: _Unused = None


class _TableConnection(Keys):
    class_: Annotated[str, one_of(_TABLE_STORES)] = Field(default=_TABLE_STORES[0], alias="class")
    args: _TableArgs = _TableArgs()


class _TableStore(_TableConnection):
    table_store_connection: str | None = None
    hook_args: _Unused = None
    local_table_cache: _Unused = None


class _BlobArgs(Keys):
    base_path: str | None = None


class _BlobConnection(Keys):
    class_: Annotated[str, one_of(_BLOB_STORES)] = Field(default=_BLOB_STORES[0], alias="class")
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


def _module(name: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise ValueError(f"{name!r} is not the name of a module. Write it as in an import: my_package.helpers")
    return name


class Settings(Keys):
    """The keys of an instance that are used as they are written."""

    auto_table: _List[Annotated[str, one_of(AUTO_TABLE)]] = AUTO_TABLE
    fail_fast: bool = False
    cache_validation: CacheValidation = CacheValidation()
    max_concurrent: _Count = 4
    keep_versions: _Count = 2
    keep_code: bool = True
    content_hash_rows: Annotated[int, Field(ge=0)] = 20_000_000
    preview: Annotated[int, Field(ge=0)] = 5
    lock_timeout: _Seconds | None = None
    sample: Sample = Sample()
    user_modules: _List[Annotated[str, AfterValidator(_module)]] = ()
    """Modules, with all that is in them, that count as the user's own code although they are installed."""


class _Setup(Settings):
    instance_id: str | None = None
    per_user_template: str = "{id}_{username}"
    executor: Executor = Executor()
    schedule: Schedule | None = None
    refresh: Refresh | None = None
    poll: Poll | None = None
    attrs: dict[Any, Any] = {}
    table_store: _TableStore = _TableStore()
    blob_store: _BlobStore = _BlobStore()
    lock_manager: Annotated[_Plugin, NOT_NEEDED] = _Plugin()
    orchestration: Annotated[_Plugin, NOT_NEEDED] = _Plugin()
    auto_blob: _Unused = None
    network_interface: _Unused = None
    disable_kroki: _Unused = None
    kroki_url: _Unused = None
    stage_commit_technique: _Unused = None
    strict_result_get_locking: _Unused = None
    ignore_position_hashes: _Unused = None
    tags: _Unused = None


class Section(_Setup):
    """What a file says about one instance."""

    technical_setup: str | None = None

    @property
    def default_rows(self) -> int | None:
        """How many rows of an input table are copied that `sample.tables` does not name; None for all."""
        return self.attrs.get("copy_filter_cnt") if self.sample.rows is None else self.sample.rows


class _Shared(Keys):
    name: str = "pipeline"
    table_store_connections: dict[str, _TableConnection] = {}
    blob_store_connections: dict[str, _BlobConnection] = {}
    technical_setups: dict[str, _Setup] = {}
    strict_instance_lookup: _Unused = None
    flows: _Unused = None


class SingleFile(_Shared):
    """`pipedag.yaml`: all instances in one file."""

    instances: dict[str, Section] = {}


class AnyFile(_Shared, Section):
    """`__any__.yaml`: what the instances of a folder share."""
