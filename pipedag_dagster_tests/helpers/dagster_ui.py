"""Dagster's UI: its web server, and a headless Chromium that looks at it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pytest
from dagster_graphql import DagsterGraphQLClient
from playwright.sync_api import Browser, sync_playwright

from pipedag_dagster_tests.helpers.gated_project import Project, running, wait_for

PROGRAMS = ("chromium", "google-chrome")
"""What Chromium is called. Ubuntu has a `chromium-browser` that only says what to install."""

DAGSTER_YAML = """\
telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
"""
"""For `Project`: runs start at once, without the daemon, and nobody is asked to join a community."""


class WebServer:
    """The UI of a project, at `url`."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._client = DagsterGraphQLClient("127.0.0.1", port_number=port)

    def launch(self, instance: str, **resource: object) -> str:
        """Launch the job of an instance.

        Args:
            resource: the config of the instance, as in the launchpad.

        Returns: the id of the run.
        """
        run_config = {"resources": {"instance": {"config": resource}}}
        return self._client.submit_job_execution(instance, instance, run_config=run_config)

    def wait(self, run_id: str) -> dg.DagsterRunStatus:
        """Wait for the end of a run: how it ended."""
        ends = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
        wait_for(lambda: self._client.get_run_status(run_id) in ends, f"the end of run {run_id}")
        return self._client.get_run_status(run_id)


@contextmanager
def web_server(project: Project) -> Iterator[WebServer]:
    """Serve the `workspace.yaml` of the project. It starts launched runs itself, without the daemon."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = project.command("dagster-webserver", "-w", "workspace.yaml", "-p", str(port))

    def answers() -> bool:
        assert process.poll() is None, project.log("dagster-webserver")
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    with running(process):
        wait_for(answers, "dagster-webserver")
        yield WebServer(port)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium of this machine. Skips the test where there is none."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or brew install --cask chromium")
    with sync_playwright() as playwright:
        # Root, as in a container, has no sandbox. The pages are our own.
        yield playwright.chromium.launch(executable_path=program, chromium_sandbox=os.getuid() != 0)
