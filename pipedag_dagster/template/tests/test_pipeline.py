"""The pipeline on a small instance: `pytest`, or `pytest --pipeline-instance midi`."""

import pandas as pd
from my_pipeline.flow import build, ranking

from pipedag_dagster import ConfigContext


def test_the_pipeline_runs(pipeline_instance: ConfigContext) -> None:
    flow = build(pipeline_instance)
    result = flow.run(config=pipeline_instance, fail_fast=True)
    ranked = result.get(flow["report.ranking"])
    assert ranked["revenue"].is_monotonic_decreasing


def test_a_task_is_a_plain_function_outside_of_a_flow() -> None:
    ranked = ranking(pd.DataFrame({"customer": [1, 2], "revenue": [5.0, 9.0]}))
    assert list(ranked["customer"]) == [2, 1]
