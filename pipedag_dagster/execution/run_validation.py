"""How much of the cache one run may use: as the instance says, or as the run has chosen."""

from __future__ import annotations

from pipedag_dagster.config.instances import CacheMode, CacheValidation
from pipedag_dagster.errors import ConfigError


def validation(
    own: CacheValidation,
    cache_validation_mode: str | None = None,
    disable_cache_function: bool | None = None,
    ignore_task_version: bool | None = None,
) -> CacheValidation:
    """The cache validation of one run: the instance's own, with the changes that are given.

    Raises:
        ConfigError: there is no mode of this name, or a change is not true or false.
    """
    changes = {"disable_cache_function": disable_cache_function, "ignore_task_version": ignore_task_version}
    for name, value in changes.items():
        if value is not None and not isinstance(value, bool):
            raise ConfigError(f"{name}: must be true or false, not {value!r}.")
    return CacheValidation(
        mode=own.mode if cache_validation_mode is None else cache_mode(cache_validation_mode),
        disable_cache_function=own.disable_cache_function if disable_cache_function is None else disable_cache_function,
        ignore_task_version=own.ignore_task_version if ignore_task_version is None else ignore_task_version,
    )


def cache_mode(name: str) -> CacheMode:
    """The cache mode of this name.

    Raises:
        ConfigError: there is no such mode; a close one is named.
    """
    try:
        return CacheMode.of(name)
    except ValueError as error:
        raise ConfigError(f"cache_validation_mode: {error}") from None
