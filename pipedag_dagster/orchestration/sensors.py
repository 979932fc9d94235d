"""Instances that run when their input has changed: `refresh:` and `poll:` of the YAML.

They are plain sensors that compare versions. Dagster's own sensors on assets and runs also fire when `full` ran and
nothing changed, or they miss runs of the command line. In the middle of a burst of events they would see half a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import dagster as dg

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import ConfigError, DatabaseError, NotMaterialized, SeveralFailed
from pipedag_dagster.execution import freshness
from pipedag_dagster.execution.freshness import FreshInputs
from pipedag_dagster.graph.flow import FlowGraph
from pipedag_dagster.orchestration.commit_reports import commit_sensor
from pipedag_dagster.orchestration.schedules import status
from pipedag_dagster.sampling.copies import source_of


def sensors(instance: ConfigContext, flows: Sequence[FlowGraph], job: str) -> list[dg.SensorDefinition]:
    """The sensors of an instance; none if its YAML has none.

    Raises:
        ConfigError: `poll` has no cache function to call.
    """
    refresh, poll = instance.config.refresh, instance.config.poll
    result = []
    if refresh is not None:
        result.append(
            _sensor(
                f"{job}_refresh",
                job,
                lambda: freshness.of_source(instance, flows),
                refresh.interval,
                dg.DefaultSensorStatus[status(refresh)],
                f"Runs {instance.instance_id} when {instance.config.copy_source} has committed new input.",
            )
        )
    if poll is not None and poll.interval is not None:
        result.append(
            _sensor(
                f"{job}_poll",
                job,
                lambda: freshness.of_cache_functions(instance, flows),
                poll.interval,
                dg.DefaultSensorStatus[status(poll)],
                _polled(instance, flows),
            )
        )
    reports = commit_sensor(instance, flows, job)
    return [*result, reports] if reports else result


def _sensor(
    name: str,
    job: str,
    find_changes: Callable[[], FreshInputs],
    interval: int,
    default_status: dg.DefaultSensorStatus,
    description: str,
) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        job_name=job,
        minimum_interval_seconds=interval,
        default_status=default_status,
        description=description,
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            inputs = find_changes()
        except (NotMaterialized, DatabaseError) as error:  # the message says what helps; the next tick tries again
            return dg.SkipReason(str(error))
        for failure in inputs.failures:
            context.log.error(str(failure))
        if not inputs.changed:
            if inputs.failures:  # shown as a failed tick; if there are changes, the run shows it
                raise inputs.failures[0] if len(inputs.failures) == 1 else SeveralFailed(inputs.failures)
            return dg.SkipReason(f"Nothing has changed ({_listed(inputs)}).")
        # The key contains versions. A key of content alone would repeat when old content comes back.
        key = f"{name} {digest(*(f'{name}={version}' for name, version in sorted(inputs.seen.items())))[:16]}"
        if key == context.cursor:
            return dg.SkipReason(
                f"{', '.join(inputs.changed)} changed ({_listed(inputs)}), and a run was requested for it. A run that "
                "failed or was rolled back is not repeated by itself: launch the job by hand."
            )
        request = dg.RunRequest(run_key=key, tags={"pipedag/fresh": ", ".join(inputs.changed)})
        return dg.SensorResult([request], cursor=key)

    return sensor


def _listed(inputs: FreshInputs) -> str:
    return ", ".join(f"{name}: {version}" for name, version in sorted(inputs.seen.items()))


def _polled(instance: ConfigContext, flows: Iterable[FlowGraph]) -> str:
    """The description of the sensor that polls: which cache functions it calls, and which it cannot call.

    Raises:
        ConfigError: there is no cache function that it could call.
    """
    calls = [call for flow in flows for stage in flow.stages for call in stage.calls]
    answers = {str(call): freshness.asks(call) for call in calls if source_of(instance, call) is None}
    polled = [call for call, why in answers.items() if why == ""]
    skipped = [f"{call} ({why})" for call, why in answers.items() if why]
    if not polled:
        reason = f"Not called: {', '.join(skipped)}." if skipped else "For copied inputs, write `refresh: on_source`."
        name = instance.config.name
        message = f"no task of {name!r} has a cache function to call. {reason} Or write `poll: false`."
        raise ConfigError(instance.config.problem(("poll",), message))
    text = f"Runs {instance.instance_id} when the cache function of {', '.join(polled)} returns another value."
    return text + (f" Not called: {', '.join(skipped)}." if skipped else "")
