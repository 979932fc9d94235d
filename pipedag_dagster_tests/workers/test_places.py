"""What a task takes, returns, raises and prints does not depend on where it runs."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipedag_dagster import ConfigContext, Flow, Result, Stage, StageLockContext, materialize
from pipedag_dagster.errors import ConfigError, SeveralFailed, TaskFailed, UnstorableResult, WiringError, WorkerLost
from pipedag_dagster.versions.verify import differences
from pipedag_dagster_tests.helpers import Instances, Query, travelling
from pipedag_dagster_tests.helpers.travelling import Model, Rate

WORKERS = ["processes", "dask"]
PLACES = ["threads", *WORKERS]


def on(instances: Instances, place: str, name: str = "full") -> ConfigContext:
    """An instance whose tasks run there."""
    tasks = f"tasks: {{on: {place}, workers: 1}}\n" if place != "threads" else "tasks: threads\n"
    return instances(any=tasks).get(name)


def run(flow: Flow, instance: ConfigContext, **options: Any) -> Result:
    result = flow.run(config=instance, fail_fast=True, **options)
    assert result.successful
    return result


@pytest.mark.parametrize("place", PLACES)
def test_every_kind_of_result(instances: Instances, query: Query, place: str) -> None:
    instance = on(instances, place)
    flow = travelling.everything(instance)
    with StageLockContext():
        result = run(flow, instance)
        made = result.get(flow["work"]["frames"])
        assert made["pandas"]["day"].tolist() == [travelling.datetime.date(2024, 2, 29)] * 3
        assert made["rates"][1] == Rate(travelling.datetime.date(2024, 2, 29), travelling.decimal.Decimal("1.10"))
        assert isinstance(made["model"], Model)
        assert made["model"].factor == 3
        assert result.get(flow["work"]["about"]) == {"name": "full", "given": "full", "rows": 2, "factor": 3}
    assert query("SELECT id FROM full_work.big_orders ORDER BY 1") == [(2,), (3,)]
    assert query("SELECT * FROM full_work.ids ORDER BY 1") == [(1,), (2,), (3,)]
    assert query("SELECT * FROM full_work.counted") == query("SELECT * FROM full_work.second_step") == [(3,)]
    assert query("SELECT * FROM full_work.streamed ORDER BY 1") == query("SELECT * FROM full_raw.orders ORDER BY 1")
    assert ("big_orders", False) in query("SELECT name, committed FROM full_work.compared")
    assert differences(instance.store.table_store) == []


def test_a_run_finds_what_was_made_elsewhere(instances: Instances) -> None:
    """Keys and names of tables do not depend on the place."""
    names = []
    for place in PLACES:
        instance = on(instances, place)
        result = run(travelling.everything(instance), instance)
        # The second run compares with what the first has committed.
        names.append({table.physical for record, table in result.tables if record.asset != "compared"})
    assert {record.asset for record, _ in result.tables if not record.cached} <= {"compared"}
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize("place", WORKERS)
def test_a_small_instance_copies_and_calculates(instances: Instances, query: Query, place: str) -> None:
    for name in ("full", "mini"):
        instance = on(instances, place, name)
        run(travelling.everything(instance), instance)
    assert query("SELECT * FROM mini_work.counted") == [(1,)]
    assert differences(instance.store.table_store) == []


@pytest.mark.parametrize("place", PLACES)
def test_functions_that_no_module_has(instances: Instances, query: Query, place: str) -> None:
    """As in a notebook: with what is around them."""
    factor = 4

    def times(x: int) -> int:
        return factor * x

    @materialize
    def local() -> pd.DataFrame:
        return pd.DataFrame({"x": [times(2)]})

    with Flow("local") as flow, Stage("work"):
        local()
    run(flow, on(instances, place))
    assert query("SELECT x FROM full_work.local") == [(8,)]


# Errors


@pytest.mark.parametrize("place", PLACES)
def test_errors_arrive_as_they_were_raised(instances: Instances, place: str) -> None:
    result = travelling.failing().run(config=on(instances, place), fail_fast=False)
    assert isinstance(result.exception, SeveralFailed)
    by_task = {failure.task: failure for failure in result.exception.failures if isinstance(failure, TaskFailed)}
    assert set(by_task) == {"work.fails", "work.exits", "work.odd", "work.unstorable"}
    missing, exit_, odd, unstorable = (by_task[f"work.{name}"] for name in ("fails", "exits", "odd", "unstorable"))
    assert isinstance(missing, FileNotFoundError)
    assert (missing.errno, missing.filename) == (2, "orders.csv")
    assert missing.line is not None
    assert "travelling.py:" in missing.line
    last = traceback.extract_tb(missing.__cause__.__traceback__)[-1]  # type: ignore[union-attr]
    assert last.line == 'raise FileNotFoundError(2, "there is no file", "orders.csv")'
    assert isinstance(exit_.__cause__, SystemExit)
    assert str(odd).startswith("work.odd failed: Odd: 1: strange\n")
    assert isinstance(unstorable, UnstorableResult)
    assert "column 'x' cannot be stored" in str(unstorable)


@pytest.mark.parametrize("place", WORKERS)
def test_what_cannot_be_pickled_is_named(instances: Instances, place: str) -> None:
    class Unpicklable:
        def __reduce__(self) -> Any:
            raise TypeError("it is bound to this process")

        def content_for_hash(self) -> tuple[int]:
            return (1,)

    @materialize
    def load(source: Unpicklable) -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    with Flow("shop") as flow, Stage("work"):
        load(Unpicklable())
    with pytest.raises(WiringError, match=r"argument 'source' \(of class .*Unpicklable\).*run_on='threads'"):
        flow.run(config=on(instances, place), fail_fast=True)


def test_a_task_can_choose_its_place(instances: Instances, query: Query) -> None:

    @materialize(run_on="threads")
    def here() -> pd.DataFrame:
        return pd.DataFrame({"process": [os.getpid()]})

    @materialize
    def there() -> pd.DataFrame:
        return pd.DataFrame({"process": [os.getpid()]})

    with Flow("shop") as flow, Stage("work"):
        here()
        there()
    run(flow, on(instances, "processes"))
    assert query("SELECT process FROM full_work.here") == [(os.getpid(),)]
    assert query("SELECT process FROM full_work.there") != [(os.getpid(),)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run_on": "proceses"}, "there is no place run_on='proceses'. Did you mean 'processes'?"),
        (
            {"resources": {"memory": "8 Gigabytes"}},
            "resources['memory'] must be a number above 0, or a size like \"8 GiB\", not '8 Gigabytes'.",
        ),
        ({"resources": {"gpu": -1}}, "resources['gpu'] must be a number above 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WiringError) as error:
        materialize(name="talks", **options)(travelling.talks.fn)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("proceses", "there is no place 'proceses' for tasks. Did you mean 'processes'?"),
        ("{on: threads, workers: 3}", "workers: tasks run on threads here, and max_concurrent says how many do"),
        ("{on: processes, address: 'tcp://x:1'}", "address, minimum and resources are for `on: dask`"),
        ("{on: dask, address: 'tcp://x:1', minimum: 1}", "leave minimum and resources out"),
        ("{on: dask, workers: 2, minimum: 3}", "minimum is 3, but there are at most 2 workers"),
        ("{on: dask, resources: {memory: lots}}", 'must be a number above 0, or a size like "8 GiB"'),
        ("{on: dask, adress: 'tcp://x:1'}", "Did you mean 'address'?"),
    ],
)
def test_wrong_settings(instances: Instances, tasks: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        instances(any=f"tasks: {tasks}\n").get("full")
    assert message in str(error.value)


def test_resources_are_numbers() -> None:
    task = materialize(resources={"memory": "8 GiB", "disk": "1.5 GB", "gpu": 1})(travelling.talks.fn)
    assert task.resources == {"memory": 8 * 1024**3, "disk": 1.5e9, "gpu": 1}


# Output


@pytest.mark.parametrize("place", WORKERS)
def test_what_a_task_prints_and_logs_is_shown_with_its_name(
    instances: Instances, place: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "shop"):
        run(travelling.talking(), on(instances, place))
    assert "work.talks: one line\nwork.talks: and another\n" in capsys.readouterr().out
    assert [record.getMessage() for record in caplog.records if record.name == "shop"] == ["work.talks: loading orders"]


# Code


@pytest.mark.parametrize("place", WORKERS)
def test_changed_code_runs_in_workers_that_have_imported_it_before(
    instances: Instances, query: Query, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    module = tmp_path / "changing_shop.py"
    instance = on(instances, place)
    for number in (1, 22):
        module.write_text(
            "import pandas as pd\nfrom pipedag_dagster import Flow, Stage, materialize\n"
            f"@materialize\ndef count():\n    return pd.DataFrame({{'x': [{number}]}})\n"
        )
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, module.stem, raising=False)
        with monkeypatch.context() as patch:  # only while it loads, as Dagster does it
            patch.syspath_prepend(tmp_path)
            count = importlib.import_module(module.stem).count
        with Flow("changing") as flow, Stage("work"):
            count()
        run(flow, instance)
        assert query("SELECT x FROM full_work.count") == [(number,)]


@pytest.mark.parametrize("place", WORKERS)
def test_code_that_is_another_one_in_the_worker_is_refused(
    instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "edited_shop.py"
    text = (
        "import pandas as pd\nfrom pipedag_dagster import Flow, Stage, materialize\n"
        "@materialize\ndef count():\n    return pd.DataFrame({'x': [1]})\n"
    )
    module.write_text(text)
    importlib.invalidate_caches()
    count = importlib.import_module(module.stem).count
    module.write_text(text.replace("[1]", "[22]"))  # edited while the program runs
    with Flow("edited") as flow, Stage("work"):
        count()
    with pytest.raises(WorkerLost, match=r"code of work\.count is another one in the worker than in the run"):
        flow.run(config=on(instances, place), fail_fast=True)
