"""A flow in which other tables take the place of some outputs: `flow.run(inputs=…)`."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from pipedag_dagster.errors import WiringError
from pipedag_dagster.graph.calls import Output, TaskCall, map_outputs
from pipedag_dagster.graph.external_table import ExternalTableReference
from pipedag_dagster.graph.flow import FlowGraph, Stage
from pipedag_dagster.graph.tables import bare_references

log = logging.getLogger(__name__)

_Flow = TypeVar("_Flow", bound=FlowGraph)


class ReplacedInput(ExternalTableReference):
    """A table that takes the place of an output for one run. Its columns and rows are part of the keys of what is made
    from it, so the results of such a run are never taken for those of a usual one."""


def with_inputs(flow: _Flow, inputs: Mapping[Any, Any]) -> _Flow:
    """A copy of the flow, in which the tasks that take one of these outputs get a table of the database instead. The
    tasks that make the outputs stay in the flow.

    Args:
        inputs: the table for each output, which is given as itself or by its name, `"stage.table"`. A task with several
            outputs stands for all of them.

    Raises:
        WiringError: the flow has no such output, a value is not an `ExternalTableReference`, or a task takes more than
            the output that is replaced.
    """
    tables = {_output(flow, key): _reference(flow, key, value) for key, value in inputs.items()}
    used: set[Output] = set()
    result = _copied(flow)
    calls = {
        old: new
        for stage, other in zip(flow.stages, result.stages, strict=True)
        for old, new in zip(stage.calls, other.calls, strict=True)
    }
    for old, call in calls.items():

        def argument(taken: Output, consumer: TaskCall = old) -> Any:
            for output, table in tables.items():
                if taken.call is output.call and taken.path[: len(output.path)] == output.path:
                    if consumer.compared:
                        raise WiringError(
                            f"flow.run(inputs=…): {consumer} compares versions of {taken}, so no other table can take "
                            f"its place. Leave {output} out of inputs."
                        )
                    used.add(output)
                    return table
                if taken.call is output.call and output.path[: len(taken.path)] == taken.path:
                    raise WiringError(
                        f"flow.run(inputs=…): {consumer} takes {taken} as a whole, of which {output} is a part. "
                        f"Replace {taken}, or let {consumer} take its parts one by one."
                    )
            return Output(calls.get(taken.call, taken.call), taken.path)

        call.arguments = map_outputs(old.arguments, argument)
        call.compared = map_outputs(old.compared, argument)
        call.after = [calls[other] for other in old.after]
    for output in tables.keys() - used:
        log.warning("flow.run(inputs=…): no task of the flow takes %r, so its table is not used.", output)
    return result


def _copied(flow: _Flow) -> _Flow:
    """A flow with copies of its stages and calls, which still take the outputs of the original calls."""
    result = copy.copy(flow)
    result.stages = []
    for stage in flow.stages:
        other: Stage = copy.copy(stage)
        other.flow = result
        other.calls = [dataclasses.replace(call, stage=other) for call in stage.calls]
        result.stages.append(other)
    return result


def _output(flow: FlowGraph, key: Any) -> Output:
    output = flow[key] if isinstance(key, str) else key
    output = Output(output) if isinstance(output, TaskCall) else output
    if not isinstance(output, Output) or output.call.stage.flow is not flow:
        raise WiringError(f"flow.run(inputs=…): {key!r} is not an output of flow {flow.name!r}.")
    return output


def _reference(flow: FlowGraph, key: Any, value: Any) -> ReplacedInput:
    reference = bare_references(value)
    if not isinstance(reference, ExternalTableReference):
        raise WiringError(
            f"flow.run(inputs=…): {key!r} is to be replaced by an object of the class {type(value).__name__}. "
            'Write a table of the database: ExternalTableReference("orders", "crm").'
        )
    return ReplacedInput(reference.name, reference.schema)
