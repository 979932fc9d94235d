"""The sections `schedule`, `refresh`, `poll` and `executor`: when an instance runs by itself, and where. And
`report_commits`: what Dagster is told.

Each has a short form (`schedule: "0 6 * * *"`). `false` switches off what all instances share.
"""

from __future__ import annotations

import zoneinfo
from typing import Annotated, Any, ClassVar, TypeAlias

from croniter import CroniterError, croniter
from pydantic import AfterValidator, Field, model_validator

from pipedag_dagster.config.section import Keys, one_of
from pipedag_dagster.errors import did_you_mean

_Seconds: TypeAlias = Annotated[int, Field(ge=1)]


class Automation(Keys):
    """A section that can be switched off. In the short form, a value alone stands for the key `key`."""

    key: ClassVar[str]
    types: ClassVar[type] = str

    enabled: bool = True
    default_status: Annotated[str, one_of(("running", "stopped"), "unknown status {!r}.")] = "stopped"
    """Whether it is on when Dagster sees it for the first time. Later, the choice in the UI counts."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if data is False:
            return {"enabled": False}
        if isinstance(data, cls.types) and data is not True:
            return {cls.key: data, "enabled": True}
        return data


def _cron(text: str) -> str:
    try:
        if not text.startswith("@") and len(text.split()) != 5:
            raise ValueError
        croniter(text).get_next()  # a 30th of February has no next time
    except (CroniterError, ValueError):
        advice = 'Write five fields, as in "0 6 * * 1-5" (at 6 a.m. from Monday to Friday).'
        raise ValueError(f"{text!r} is not a cron expression. {advice}") from None
    return text


def _time_zone(name: str) -> str:
    known = zoneinfo.available_timezones()
    if name not in known:
        hint = did_you_mean(name, known, otherwise='Write one like "Europe/Berlin".')
        raise ValueError(f"there is no time zone {name!r}.{hint}")
    return name


class Schedule(Automation):
    """The instance runs at times of the clock."""

    key = "cron"
    cron: Annotated[str, AfterValidator(_cron)] | None = None
    timezone: Annotated[str, AfterValidator(_time_zone)] = "UTC"


class Refresh(Automation):
    """The instance runs when its `copy_source` has committed new input."""

    key = "when"
    when: Annotated[str, one_of(("on_source",), "unknown event {!r}.")] = "on_source"
    interval: _Seconds = 30


class Poll(Automation):
    """The instance runs when a cache function returns another value."""

    key = "interval"
    types = int
    interval: _Seconds | None = None


class ReportCommits(Automation):
    """Dagster is told of what was committed without it."""

    key = "interval"
    types = int
    interval: _Seconds = 60


class _Forkserver(Keys):
    preload_modules: list[str] | None = None


class _StartMethod(Keys):
    forkserver: _Forkserver | None = None
    spawn: Keys | None = None


class _Multiprocess(Keys):
    max_concurrent: Annotated[int, Field(ge=0)] | None = None
    start_method: _StartMethod | None = None
    retries: Any = None
    tag_concurrency_limits: list[Any] | None = None


class _InProcess(Keys):
    retries: Any = None


class Executor(Keys):
    """Where the steps of a run are: `executor: multiprocess`, or `executor: {celery: {…}}` with the options of
    Dagster's executor. `name` is the chosen executor. Options of others may be in the layer that instances share."""

    name: str = "in_process"
    in_process: _InProcess | None = None
    multiprocess: _Multiprocess | None = None
    celery: dict[str, Any] | None = None
    dask: dict[str, Any] | None = None
    k8s: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _chosen(cls, data: Any) -> Any:
        known = [name for name in cls.model_fields if name != "name"]
        if isinstance(data, str):
            if data not in known:
                raise ValueError(f"there is no executor {data!r}.{did_you_mean(data, known)}")
            return {"name": data}
        if not isinstance(data, dict) or "name" in data:
            return data
        chosen = [name for name in data if name in known]
        if len(chosen) > 1:
            raise ValueError(f"choose one of {' and '.join(map(str, chosen))}.")
        data = {key: {} if value is None else value for key, value in data.items()}
        return {"name": chosen[0], **data} if chosen else data
