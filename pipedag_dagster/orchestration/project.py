"""What a Dagster project has beside its assets, on an instance: checks, jobs, schedules and sensors.

They name assets by the keys that the project gives them. On an instance, these become `[instance_id, stage, table]`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import WiringError, did_you_mean
from pipedag_dagster.orchestration.keys import identifier
from pipedag_dagster.orchestration.tags import INSTANCE_TAG

Keys = Mapping[dg.AssetKey, dg.AssetKey]


@dataclass(frozen=True)
class Project:
    """The parts of a Dagster project, as the project writes them.

    Attributes:
        jobs: asset jobs (`define_asset_job`) and jobs of ops.
        resources: for the assets; `instance` and `io_manager` are those of the instance.
    """

    assets: Sequence[dg.AssetsDefinition] = ()
    asset_checks: Sequence[dg.AssetsDefinition] = ()
    jobs: Sequence[Any] = ()  # Dagster does not export the class of asset jobs
    schedules: Sequence[Any] = ()
    sensors: Sequence[dg.SensorDefinition] = ()
    resources: Mapping[str, Any] | None = None

    def refuse_wrong_names(self, instance: ConfigContext) -> None:
        """
        Raises:
            WiringError: a resource or a job has the name of one of ours.
        """
        for name in ("instance", "io_manager"):
            if name in (self.resources or {}):
                raise WiringError(
                    f"resources: {name!r} is the one of the instance. Leave yours out, or give it another name (and "
                    "name it in the io_manager_key of the assets that use it)."
                )
        ours = identifier(instance.instance_id)
        for job in self.jobs:
            if job.name == ours:
                raise WiringError(f"jobs: {ours!r} is the job that runs the whole instance. Give yours another name.")


NO_PROJECT = Project()


@dataclass(frozen=True)
class InstanceProject:
    """Checks, jobs, schedules and sensors, with the keys of an instance."""

    asset_checks: list[dg.AssetsDefinition]
    jobs: list[Any]
    schedules: list[Any]
    sensors: list[dg.SensorDefinition]


def on_instance(
    project: Project,
    instance: ConfigContext,
    keys: Keys,
    resources: Mapping[str, Any],
    originals: Callable[[], Iterable[dg.AssetsDefinition]],
) -> InstanceProject:
    """What an instance has of the checks, jobs, schedules and sensors of a project.

    What belongs only to assets that the instance does not have (`pipedag/only_on`) is left out.

    Args:
        keys: the keys of the assets that the instance has, by those that the project gives them.
        resources: of the instance.
        originals: all assets, with the keys of the project.

    Raises:
        WiringError: a check, job or sensor names an asset that nobody makes, or that cannot be replaced.
    """
    elsewhere = {key for definition in project.assets for key in definition.keys} - set(keys)
    checks = [check for check in project.asset_checks if not {each.asset_key for each in check.check_specs} & elsewhere]
    for check in checks:
        refuse_checks_of_nobody((spec.key for spec in check.check_specs), keys)

    def graph() -> Any:
        definitions = dg.Definitions(assets=originals(), asset_checks=project.asset_checks, resources=resources)
        return definitions.resolve_asset_graph()

    jobs = _Jobs(instance, keys, graph)
    return InstanceProject(
        [check.with_attributes(asset_key_replacements=dict(keys)) for check in checks],
        [job for job in map(jobs.of, project.jobs) if job is not None],
        [each for each in map(jobs.of_schedule, project.schedules) if each is not None],
        [each for each in map(jobs.of_sensor, project.sensors) if each is not None],
    )


def refuse_checks_of_nobody(checks: Iterable[dg.AssetCheckKey], made: Iterable[dg.AssetKey]) -> None:
    """
    Args:
        made: the keys of the assets that somebody makes.

    Raises:
        WiringError: a check belongs to another asset. Dagster would show it, and it would gate nothing.
    """
    known = {key.to_user_string() for key in made}
    for check in checks:
        name = check.asset_key.to_user_string()
        if name not in known:
            hint = did_you_mean(name, known)
            longer = [key for key in sorted(known) if key.endswith(f"/{name}")]
            if longer:
                hint = f" Did you mean {longer[0]!r}? Then pass the check to build_definitions(asset_checks=[…])."
            raise WiringError(f"Check {check.name!r} is of the asset {name}, which nobody makes.{hint}")


class _Jobs:
    """The jobs of an instance, each made once, and what launches them."""

    def __init__(self, instance: ConfigContext, keys: Keys, graph: Callable[[], Any]) -> None:
        self.instance, self.keys = instance, keys
        self._graph = functools.cache(graph)
        self._made: dict[str, Any] = {}

    def of(self, job: Any) -> Any | None:
        """The job with the keys of the instance. None if the instance has nothing that it selects."""
        if isinstance(job, dg.JobDefinition):
            return job  # of ops
        if job.name not in self._made:
            selection = self._selection(job.selection, f"Job {job.name!r}")
            self._made[job.name] = None if selection is None else self._job(job, selection)
        return self._made[job.name]

    def of_schedule(self, schedule: Any) -> Any | None:
        if not isinstance(schedule, dg.ScheduleDefinition):
            raise WiringError(
                f"Schedule {schedule.name!r}: write define_asset_job(…, partitions_def=…), so that it is known before "
                "the assets are."
            )
        if not schedule.has_job:
            return self._if_named(schedule, [schedule.job_name])
        job = self.of(schedule.job)
        return None if job is None else schedule.with_updated_job(job)

    def of_sensor(self, sensor: dg.SensorDefinition) -> dg.SensorDefinition | None:
        if isinstance(sensor, dg.AutomationConditionSensorDefinition):
            return self._automation(sensor)
        if isinstance(sensor, dg.MultiAssetSensorDefinition):
            raise WiringError(f"Sensor {sensor.name!r}: its keys cannot be replaced. Write automation conditions.")
        if isinstance(sensor, dg.AssetSensorDefinition) and sensor.asset_key in self.keys:
            path = self.keys[sensor.asset_key].path
            raise WiringError(
                f"Sensor {sensor.name!r} watches {sensor.asset_key.to_user_string()}, which has another key on each "
                f"instance. Name the instance's own: asset_key=dg.AssetKey({list(path)})."
            )
        if sensor.asset_selection is not None:
            raise WiringError(f"Sensor {sensor.name!r}: write target=[…] in place of asset_selection=….")
        names = [target.job_name for target in sensor.targets if not target.has_job_def and target.job_name]
        if names or not sensor.has_jobs:
            return self._if_named(sensor, names)
        jobs = [job for job in map(self.of, sensor.jobs) if job is not None]
        return sensor.with_updated_jobs(jobs) if jobs else None

    def _if_named(self, launching: Any, names: Sequence[str]) -> Any | None:
        """What launches jobs by their names, unless the instance has none of them."""
        gone = [name for name in names if self._made.get(name, "") is None]
        return None if names and len(gone) == len(names) else launching

    def _automation(self, sensor: dg.AutomationConditionSensorDefinition) -> dg.SensorDefinition | None:
        assert sensor.asset_selection is not None
        selection = self._selection(sensor.asset_selection, f"Sensor {sensor.name!r}")
        if selection is None:
            return None
        return dg.AutomationConditionSensorDefinition(
            sensor.name,
            target=selection,
            tags=sensor.tags,
            run_tags=sensor.run_tags,
            default_status=sensor.default_status,
            minimum_interval_seconds=sensor.minimum_interval_seconds,
            description=sensor.description,
            metadata=sensor.metadata,
            emit_backfills=sensor.emit_backfills,
            default_condition=sensor.default_condition,
        )

    def _selection(self, selection: dg.AssetSelection, subject: str) -> dg.AssetSelection | None:
        """The assets and checks that a selection means in the project, with the keys of the instance."""
        graph = self._graph()
        try:
            chosen, checks = selection.resolve(graph), selection.resolve_checks(graph)
        except dg.DagsterError as error:
            raise WiringError(f"{subject} selects assets that nobody makes: {error}") from None
        if not chosen and not checks:
            raise WiringError(f"{subject} selects nothing: no asset matches {selection}.")
        own = [self.keys[key] for key in sorted(chosen) if key in self.keys]
        own_checks = [
            check.replace_asset_key(self.keys[check.asset_key]) for check in checks if check.asset_key in self.keys
        ]
        if not own and not own_checks:
            return None
        return dg.AssetSelection.assets(*own).without_checks() | dg.AssetSelection.checks(*own_checks)

    def _job(self, job: Any, selection: dg.AssetSelection) -> Any:
        return dg.define_asset_job(
            job.name,
            selection,
            config=job.config,
            description=job.description,
            tags=job.tags,
            run_tags={**(job.run_tags or {}), INSTANCE_TAG: self.instance.instance_id},
            metadata=job.metadata,
            partitions_def=job.partitions_def,
            executor_def=job.executor_def,
            hooks=job.hooks,
            op_retry_policy=job.op_retry_policy,
            owners=job.owners,
        )
