"""A test for each stage of an instance, without code of the user: `pytest --pipeline-instance mini`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipedag_dagster.context import ConfigContext
from pipedag_dagster.errors import ConfigError, PipedagError, did_you_mean, failures_in
from pipedag_dagster.execution.user_frames import user_traceback
from pipedag_dagster.looking.running import location_of, run_instance
from pipedag_dagster.testing.fresh import run_source


class StageTest(pytest.Item):
    """Runs one stage. It passes when the stage is committed.

    Args:
        stage: its name.
        needs: the stages that it reads, in an order in which they can run.
        workspace: names the definitions.
    """

    def __init__(
        self, *, instance: ConfigContext, stage: str, needs: Sequence[str], workspace: Path, **options: object
    ) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.instance = instance
        self.stage = stage
        self.needs = tuple(needs)
        self.workspace = workspace

    def runtest(self) -> None:
        done: dict[str, bool] = self.session.stash.setdefault(_DONE, {})
        failed = [stage for stage in self.needs if done.get(f"{self.instance.instance_id}.{stage}") is False]
        if failed:
            pytest.skip(f"stage {failed[0]!r} failed")
        done[f"{self.instance.instance_id}.{self.stage}"] = False
        run_source(self.instance, self.workspace)
        # Another process of pytest-xdist may have the test of a stage that this one needs. What ran is cached.
        for stage in (*self.needs, self.stage):
            if not done.get(f"{self.instance.instance_id}.{stage}"):
                run_instance(self.instance, stage, self.workspace)
                done[f"{self.instance.instance_id}.{stage}"] = True

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None
    ) -> str:  # pytest's own has other types for `style` in each version
        error = excinfo.value
        if not isinstance(error, PipedagError):
            return str(super().repr_failure(excinfo))
        causes = [failure.__cause__ for failure in failures_in(error) if failure.__cause__ is not None]
        return "".join(map(user_traceback, causes)) + str(error)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.workspace, None, f"stage {self.stage} of {self.instance.instance_id}"


_DONE = pytest.StashKey[dict[str, bool]]()


def stage_tests(session: pytest.Session, instance: ConfigContext, workspace: Path) -> Iterator[StageTest]:
    """The tests of an instance. The test of a stage comes after the tests of the stages that it reads.

    Raises:
        ConfigError: the definitions cannot be loaded, there are none for this instance, or `stage_tags` names a stage
            that does not exist.
    """
    location = location_of(instance, workspace)
    names = [stage.name for stage in location.stages]
    for name in instance.config.stage_tags:
        if name not in names:
            hint = did_you_mean(name, names)
            raise ConfigError(f"{instance.config.file}: stage_tags: there is no stage {name!r}.{hint}")
    needs: dict[str, list[str]] = {}
    for stage in location.stages:  # in the order of the pipeline
        read = {output.call.stage.name for call in stage.calls for output in call.inputs} - {stage.name}
        needs[stage.name] = [name for name in needs if any(name == each or name in needs[each] for each in read)]
        test = StageTest.from_parent(
            session,
            name=f"{instance.config.name}::{stage.name}",
            nodeid=f"pipeline::{instance.config.name}::{stage.name}",
            instance=location.instance,
            stage=stage.name,
            needs=needs[stage.name],
            workspace=workspace,
        )
        for mark in (instance.config.name, *instance.config.tags, *instance.config.stage_tags.get(stage.name, ())):
            test.add_marker(mark)
        yield test
