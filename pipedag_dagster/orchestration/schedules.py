"""Instances that run by the clock: the `schedule:` of the YAML."""

from __future__ import annotations

import dagster as dg

from pipedag_dagster.config.automation import Automation
from pipedag_dagster.context import ConfigContext


def schedules(instance: ConfigContext, job: str) -> list[dg.ScheduleDefinition]:
    """The schedule of an instance; none if its YAML has none."""
    schedule = instance.config.schedule
    if schedule is None or schedule.cron is None:
        return []
    return [
        dg.ScheduleDefinition(
            name=f"{job}_schedule",
            job_name=job,
            cron_schedule=schedule.cron,
            execution_timezone=schedule.timezone,
            default_status=dg.DefaultScheduleStatus[status(schedule)],
            description=f"Runs {instance.instance_id} at {schedule.cron} ({schedule.timezone}).",
        )
    ]


def status(automation: Automation) -> str:
    """The name of the default status in Dagster.

    >>> status(Automation(default_status="running"))
    'RUNNING'
    """
    return automation.default_status.upper()
