"""The pipeline on a small instance: `pytest`, or `pytest --pipeline-instance midi`."""

import pandas as pd
from my_pipeline.flow import ranking

from pipedag_dagster import OpenInstance


def test_the_pipeline_runs(pipeline: OpenInstance) -> None:
    pipeline.run()
    ranked = pipeline.table("report.ranking")
    assert ranked["revenue"].is_monotonic_decreasing


def test_a_task_is_a_plain_function_outside_of_a_flow() -> None:
    ranked = ranking(pd.DataFrame({"customer": [1, 2], "revenue": [5.0, 9.0]}))
    assert list(ranked["customer"]) == [2, 1]
