"""What Dagster shows of a run that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from pipedag_dagster import ConfigContext, Flow, Stage, build_definitions, materialize
from pipedag_dagster.checks import unique
from pipedag_dagster.errors import ChecksFailed, TaskFailed, UnstorableResult
from pipedag_dagster_tests.helpers import Instances
from pipedag_dagster_tests.helpers.launching import launch

HERE = Path(__file__)


def line_of(text: str) -> int:
    """The number of the first line of this file that is `text`."""
    return next(number for number, line in enumerate(HERE.read_text().splitlines(), 1) if line.strip() == text)


def sort(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("revenu")


@materialize(input_type=pd.DataFrame, version="1", outputs=["orders"])
def load() -> pd.DataFrame:
    return pd.DataFrame({"id": [1, 2], "revenue": [3, 4]})


@materialize(input_type=pd.DataFrame)
def ranking(orders: pd.DataFrame) -> pd.DataFrame:
    return sort(orders)


@materialize(input_type=pd.DataFrame)
def unlucky(orders: pd.DataFrame) -> pd.DataFrame:
    raise OSError("out of luck")


@materialize(input_type=pd.DataFrame)
def unstorable(orders: pd.DataFrame) -> Any:
    return object()


@materialize(input_type=pd.DataFrame, checks=[unique("id", blocking=True)])
def twice(orders: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([orders, orders])


def flow_of(*tasks: Any) -> Any:
    def build(instance: ConfigContext) -> Flow:
        with Flow("shop") as flow, Stage("report"):
            orders = load()
            for task in tasks:
                task(orders)
        return flow

    return build


@pytest.fixture
def failed(instances: Instances, dagster: dg.DagsterInstance) -> Any:
    """The failure of a run with these tasks, as Dagster's page has it: message and metadata."""

    def run(*tasks: Any, config: str = "", committed: bool = False) -> tuple[str, dict[str, Any]]:
        loaded = instances(any=config)
        if committed:
            assert launch(build_definitions(flow_of(), loaded, instance="full"), dagster).success
        result = launch(build_definitions(flow_of(*tasks), loaded, instance="full"), dagster)
        (event,) = (each for each in result.all_events if each.is_step_failure)
        data = event.step_failure_data
        assert data.error is not None
        assert data.user_failure_data is not None
        assert data.error.cause is None, "nothing is behind a click"
        return data.error.message, {key: value.value for key, value in data.user_failure_data.metadata.items()}

    return run


def test_the_page_begins_with_our_message(failed: Any) -> None:
    message, _ = failed(ranking)
    assert message.startswith("pipedag_dagster.errors.TaskFailed: report.ranking failed: KeyError: 'revenu'\n")


def test_task_and_line_are_metadata(failed: Any) -> None:
    _, metadata = failed(ranking)
    assert metadata["pipedag/task"] == "report.ranking"
    assert metadata["pipedag/line"].endswith(f'test_failed_run.py:{line_of("""return frame.sort_values("revenu")""")}')


def test_the_traceback_has_the_users_frames_only(failed: Any) -> None:
    _, metadata = failed(ranking)
    files = [line for line in metadata["pipedag/traceback"].splitlines() if line.strip().startswith("File ")]
    assert [file.rpartition(" in ")[2] for file in files] == ["ranking", "sort"]
    assert metadata["pipedag/traceback"].endswith("KeyError: 'revenu'")


@pytest.mark.parametrize(
    ("committed", "seen"), [(False, "there is no version before"), (True, "people see version 1, as before")]
)
def test_it_says_what_people_see(failed: Any, committed: bool, seen: str) -> None:
    message, metadata = failed(ranking, committed=committed)
    assert seen in message
    assert seen in metadata["pipedag/visible"]


def test_it_says_what_to_do_next(failed: Any) -> None:
    _, metadata = failed(ranking)
    assert metadata["pipedag/next"] == (
        f"Fix {metadata['pipedag/line']}, and reload the code location. Then re-execute from failure, or type: "
        "pipedag-dagster run full --select report"
    )


def test_an_error_without_a_frame_of_the_user_names_the_line_of_the_task(failed: Any) -> None:
    message, metadata = failed(unstorable)
    assert UnstorableResult.__name__ in message
    assert metadata["pipedag/task"] == "report.unstorable"
    assert metadata["pipedag/line"].endswith(f":{line_of('def unstorable(orders: pd.DataFrame) -> Any:') - 1}")
    assert "pipedag/traceback" not in metadata


def test_several_failures_are_all_shown(failed: Any) -> None:
    message, metadata = failed(ranking, unlucky, config="fail_fast: false\n")
    assert "2 tasks failed" in message
    assert sorted(metadata["pipedag/task"].split(", ")) == ["report.ranking", "report.unlucky"]
    assert "KeyError: 'revenu'" in metadata["pipedag/traceback"]
    assert "OSError: out of luck" in metadata["pipedag/traceback"]


def test_a_failed_check_is_shown_by_itself(failed: Any) -> None:
    message, metadata = failed(twice)
    assert message.startswith(f"pipedag_dagster.errors.{ChecksFailed.__name__}: ")
    assert metadata["pipedag/next"] == "Re-execute from failure, or type: pipedag-dagster run full --select report"


def test_callers_catch_the_same_class_as_without_dagster(instances: Instances, dagster: dg.DagsterInstance) -> None:
    job = build_definitions(flow_of(ranking), instances(), instance="full").resolve_job_def("full")
    with pytest.raises(TaskFailed, match="revenu") as caught:
        job.execute_in_process(instance=dagster)
    assert isinstance(caught.value, dg.Failure)
    assert isinstance(caught.value, KeyError), "the task has raised one"


def test_a_plain_asset_that_cannot_be_stored_is_shown_the_same_way(
    instances: Instances, dagster: dg.DagsterInstance
) -> None:
    @dg.asset(group_name="raw")
    def plain() -> Any:
        return object()

    definitions = build_definitions(None, instances(), instance="full", assets=[plain])
    result = launch(definitions, dagster)
    (event,) = (each for each in result.all_events if each.is_step_failure)
    error = event.step_failure_data.error
    assert error is not None
    assert error.message.startswith("pipedag_dagster.errors.UnstorableResult: got object for raw.plain")
    with pytest.raises(UnstorableResult, match="raw"):
        definitions.resolve_job_def("full").execute_in_process(instance=dagster)
