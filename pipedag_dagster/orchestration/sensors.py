"""When an instance runs because its input has changed: `refresh:` and `poll:` of its YAML.

Plain sensors that compare versions. Dagster's own sensors on assets and runs also fire when `full` ran and nothing has
changed, or miss runs of the command line; and in the middle of a burst of events they would see half a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import dagster as dg

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.digest import digest
from pipedag_dagster.errors import ConfigError, DatabaseError, NotMaterialized, SeveralFailed
from pipedag_dagster.execution import freshness
from pipedag_dagster.execution.freshness import FreshInputs
from pipedag_dagster.graph.flow import FlowGraph
from pipedag_dagster.orchestration.schedules import status
from pipedag_dagster.sampling.copies import source_of


def sensors(context: ConfigContext, flows: list[FlowGraph], job: str) -> list[dg.SensorDefinition]:
    """The sensors of an instance that has them.

    Raises:
        ConfigError: there is nothing that one could look at.
    """
    refresh, poll = context.config.refresh, context.config.poll
    found = []
    if refresh is not None:
        found.append(
            _sensor(
                f"{job}_refresh",
                job,
                lambda: freshness.of_source(context, flows),
                refresh.interval,
                dg.DefaultSensorStatus[status(refresh)],
                f"Runs {context.instance_id} when {context.config.copy_source} has committed other input.",
            )
        )
    if poll is not None and poll.interval is not None:
        found.append(
            _sensor(
                f"{job}_poll",
                job,
                lambda: freshness.of_cache_functions(context, flows),
                poll.interval,
                dg.DefaultSensorStatus[status(poll)],
                _polled(context, flows),
            )
        )
    return found


def _sensor(
    name: str,
    job: str,
    look: Callable[[], FreshInputs],
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
            found = look()
        except (NotMaterialized, DatabaseError) as error:  # what helps is in the message; the next tick tries again
            return dg.SkipReason(str(error))
        for failure in found.failures:
            context.log.error(str(failure))
        if not found.changed:
            if found.failures:  # shown as a tick that failed; with changes, the run shows it
                raise found.failures[0] if len(found.failures) == 1 else SeveralFailed(found.failures)
            return dg.SkipReason(f"Nothing has changed ({_listed(found)}).")
        # Of content alone, a key would be taken for the one of an earlier change when the content is back.
        key = f"{name} {digest(*(f'{what}={seen}' for what, seen in sorted(found.seen.items())))[:16]}"
        if key == context.cursor:
            return dg.SkipReason(
                f"{', '.join(found.changed)} changed ({_listed(found)}), and a run was requested for it. When it "
                "failed or was rolled back it is not repeated by itself: launch the job by hand."
            )
        request = dg.RunRequest(run_key=key, tags={"pipedag/fresh": ", ".join(found.changed)})
        return dg.SensorResult([request], cursor=key)

    return sensor


def _listed(found: FreshInputs) -> str:
    return ", ".join(f"{what}: {seen}" for what, seen in sorted(found.seen.items()))


def _polled(context: ConfigContext, flows: Iterable[FlowGraph]) -> str:
    """What the sensor that polls looks at, and what it cannot look at, for people.

    Raises:
        ConfigError: it could look at nothing.
    """
    calls = [call for flow in flows for stage in flow.stages for call in stage.calls]
    answers = {str(call): freshness.asks(call) for call in calls if source_of(context, call) is None}
    polled = [call for call, why in answers.items() if why == ""]
    skipped = [f"{call} ({why})" for call, why in answers.items() if why]
    if not polled:
        reason = f"Not asked: {', '.join(skipped)}." if skipped else "For copied inputs, write `refresh: on_source`."
        name = context.config.name
        message = f"no task of {name!r} has a cache function that could be asked. {reason} Or write `poll: false`."
        raise ConfigError(context.config.problem(("poll",), message))
    text = f"Runs {context.instance_id} when the cache function of {', '.join(polled)} returns another value."
    return text + (f" Not asked: {', '.join(skipped)}." if skipped else "")
